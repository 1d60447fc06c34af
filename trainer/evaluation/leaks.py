"""What evaluated items have in common with the frames that a network was trained on: its numbers flatter it there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from trainer.checkpoint import TrainedOn
from trainer.data.base import DepthDataset
from trainer.data.files.frames import NEAR, FrameList, Frames, Overlap, compare
from trainer.data.kitti_raw import lists
from trainer.data.kitti_raw.items import KittiItems
from trainer.evaluation.items import Items, names_of
from trainer.evaluation.predictions import evenly_spaced
from trainer.evaluation.request import EvaluationRequest

UNKNOWN, KNOWN, DECLARED, PARTLY = "unknown", "known", "declared", "known in part"


def declared(given: str, items: Items, offsets: Sequence[int]) -> TrainedOn:
    """Read a list that a user says a network was trained on, with supports at `offsets`. Raises UserError.

    given: a split file of KITTI, raw or odometry, or the name of a split beside the recordings of `items`.
    """
    home = None
    with suppress(NotImplementedError):  # several data sets have no common folder
        home = getattr(items, "home", None)
    origin = items.listing.origin if isinstance(items, KittiItems) else ""
    entry, frames = lists.read_list(given, home, offsets, origin)
    return TrainedOn((entry,), frames, is_declared=True)


def leaks_of(request: EvaluationRequest, items: Items) -> dict[str, Any]:
    """Compare the items of a request with the frames that its network was trained on, by itself or as declared."""
    trained, indices = request.subject.trained_on, evenly_spaced(request.limit, len(items))
    if request.trained_on:
        offsets = request.subject.trained.supp_idxs if request.subject.trained else (-1, 1)
        trained = declared(request.trained_on, items, offsets)
    return find_leaks(trained, items, indices)


def tell(found: Mapping[str, Any]) -> None:
    """Print what `find_leaks` found: a warning on stderr."""
    sentence, is_warning = in_words(found)
    print(f"warning: {sentence}" if is_warning else sentence, file=sys.stderr if is_warning else sys.stdout)


def find_leaks(trained: TrainedOn | None, items: Items, indices: Sequence[int]) -> dict[str, Any]:
    """Compare evaluated items with a training, for the protocol of a result.

    Returns `training` (known, declared, known in part, unknown), `lists`, the numbers of `Overlap`, and
    `same_pictures`, how many pictures have the bytes of one of the training; null where the checkpoint has no hashes.
    """
    if trained is None:
        return {"training": UNKNOWN, "items": len(indices)}
    state = DECLARED if trained.is_declared else KNOWN if trained.is_whole else PARTLY
    named = [{**vars(entry), "known_as": lists.title_of(entry.digest)} for entry in trained.lists]
    overlap = compare(_frames(items, indices), trained.frames)
    pictures = None
    if len(trained.pictures) and isinstance(items, DepthDataset):
        marks = {items.fingerprint_of(index) for index in indices} - {None}
        pictures = int(np.isin(np.array(sorted(marks), np.int64), trained.pictures).sum())  # type: ignore[type-var]
    counts = {**overlap.to_dict(), "near_within": NEAR, "same_pictures": pictures}
    return {"training": state, "lists": named, "items": len(indices), **counts}


def in_words(leaks: Mapping[str, Any]) -> tuple[str, bool]:
    """Say in one sentence what `find_leaks` found, and whether it is a warning."""
    count = leaks["items"]
    if leaks["training"] == UNKNOWN:
        return (
            f"training frames: unknown, so nobody can say whether the network was trained on these {count} items."
            " --trained-on <split file> declares them",
            False,
        )
    found = Overlap(**{name: leaks[name] for name in Overlap.__dataclass_fields__})
    of = f" ({_lists(leaks)})"
    pictures = leaks["same_pictures"]
    if found.exact or pictures:
        return f"leak: {_shared(found, pictures, count)}{of}: the numbers flatter the network", True
    if found.near:
        drives = f"{found.shared_drives} of {found.drives} drives are shared"
        near = f"{found.near} have one within {NEAR} frames, {drives}"
        return f"none of {found.frames} evaluated frames is a training frame, but {near}{of}", True
    if found.shared_drives:
        drives = f"{found.shared_drives} of their {found.drives} drives are"
        return (
            f"none of {found.frames} evaluated frames is near a training frame, but {drives} those of training{of}",
            True,
        )
    if not found.frames and pictures is None:
        reason = "these items have no drives and frame numbers to compare with those of the training"
        return f"training frames: {reason}{of}", False
    compared = (
        f"{found.frames} evaluated frames, nor a frame within {NEAR} of them, nor their drives"
        if found.frames
        else f"{count} evaluated pictures"
    )
    return f"training frames: none of the {compared}{of}", False


def _shared(found: Overlap, pictures: int | None, count: int) -> str:
    """Say how many evaluated frames were seen, how, and how many more are near."""
    parts = []
    if found.exact:
        how = [(found.other_camera, "by the other camera"), (found.as_support, "as supports alone")]
        named = ", ".join(f"{number} {words}" for number, words in how if number)
        parts += [
            f"{found.exact} of {found.frames} evaluated frames are training frames{f' ({named})' if named else ''}",
            f"{found.near} have one within {NEAR} frames",
            f"{found.shared_drives} of {found.drives} drives are shared",
        ]
    if pictures:
        parts.append(f"{pictures} of {count} evaluated pictures are training pictures by their bytes")
    return ", ".join(parts)


def _lists(leaks: Mapping[str, Any]) -> str:
    """Name the lists of a training, and how they are known."""
    names = [lists.in_words(FrameList(entry["name"], entry["digest"], entry["items"])) for entry in leaks["lists"]]
    named = "; ".join(names) or "no list of frames"
    sure = {KNOWN: "", DECLARED: "declared: ", PARTLY: "known in part, for it started from weights that do not say: "}
    return sure[leaks["training"]] + named


def _frames(items: Items, indices: Sequence[int]) -> Frames:
    if isinstance(items, DepthDataset):
        return items.frames(indices)
    names = names_of(items) or []
    return lists.frames_named(names[index] for index in indices if index < len(names))
