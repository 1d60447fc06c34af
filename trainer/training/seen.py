"""The frames that a run trains on: named at its start, compared with its validation, kept in its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Thread

import numpy as np

from trainer.checkpoint import TrainedOn
from trainer.data.base import DepthDataset
from trainer.data.files.frames import NEAR, Frames, compare
from trainer.data.kitti_raw.lists import are_published_together, identify

PATIENCE = 0.5  # seconds of a start for pictures that are known by their bytes; what is left runs beside the training


class SeenFrames:
    """Frames of the data sets of a run, by mode; pictures without drive and number are hashed in a thread.

    The hashes are a function of the files, and the first save waits for them: equal runs have equal checkpoints.
    """

    def __init__(self, datasets: Mapping[str, DepthDataset]):
        self.notes: list[str] = []  # for the user, at the start
        self.warn: Callable[[str], None] | None = None  # what is found later is told here
        self._datasets = datasets
        self._lists = {mode: dataset.lists() for mode, dataset in datasets.items()}
        self._frames = {mode: Frames.union(f for _, f in lists) for mode, lists in self._lists.items()}
        self._pictures = {mode: np.empty(0, np.int64) for mode in ("train", "val")}
        self._name_lists()
        self._compare_frames()
        self._thread = Thread(target=self._hash, name="hashes of pictures", daemon=True)
        self._thread.start()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self.notes += self._shared_pictures()

    def trained_on(self, earlier: TrainedOn) -> TrainedOn:
        """Return the frames of the training, and those of `earlier`; waits for the hashes."""
        was_running = self._thread.is_alive()
        self._thread.join()
        if was_running and self.warn:
            for line in self._shared_pictures():
                self.warn(line)
        lists = tuple(entry for entry, _ in self._lists["train"])
        return TrainedOn(lists, self._frames["train"], self._pictures["train"]) | earlier

    def _name_lists(self) -> None:
        for mode, lists in self._lists.items():
            for entry, frames in lists:
                if told := identify(entry.digest, entry.name, frames):
                    self.notes.append(f"dataset ({mode}): {told}")

    def _compare_frames(self) -> None:
        """Note how many frames of the validation are frames of the training, or near one."""
        found = compare(self._frames.get("val", Frames()), self._frames["train"])
        if not found.near:
            return
        how = [(found.other_camera, "by the other camera"), (found.as_support, "as supports")]
        named = ", ".join(f"{count} {words}" for count, words in how if count)
        told = f"{found.exact} of {found.frames} validation frames are training frames{f' ({named})' if named else ''}"
        told += f", {found.near} have one within {NEAR} frames"
        digests = [entry.digest for lists in self._lists.values() for entry, _ in lists]
        if are_published_together(digests):
            self.notes.append(f"dataset (val): {told}, as the published lists have it: validation measures memory, too")
        elif found.exact:
            self.notes.append(f"warning: dataset (val): {told}: validation flatters the network, and `best` with it")
        else:
            self.notes.append(f"dataset (val): {told}")

    def _hash(self) -> None:
        self._pictures["train"] = self._datasets["train"].fingerprints()
        val = self._datasets.get("val")
        marks = map(val.fingerprint_of, range(len(val))) if val and len(self._pictures["train"]) else ()
        self._pictures["val"] = np.array(sorted({mark for mark in marks if mark is not None}), np.int64)

    def _shared_pictures(self) -> list[str]:
        """Say how many pictures of the validation are pictures of the training, unless frames have said so."""
        shared = len(np.intersect1d(self._pictures["val"], self._pictures["train"]))
        if not shared or compare(self._frames["val"], self._frames["train"]).exact:
            return []
        count = len(self._pictures["val"])
        return [
            f"warning: dataset (val): {shared} of {count} validation pictures are training pictures by their bytes,"
            " whatever their names: validation flatters the network, and `best` with it"
        ]
