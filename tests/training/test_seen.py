"""What a start says about its lists, and what its checkpoints keep of the frames."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from tests.data.clips import noise_frame
from tests.data.made_kitti import kitti, write_lines, write_raw
from trainer.checkpoint import TrainedOn
from trainer.config import load_config
from trainer.data import DATASETS
from trainer.training import run, seen
from trainer.training.seen import SeenFrames


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "kitti_raw")


def both(raw: Path, train: Path | str, val: Path | str) -> SeenFrames:
    sets = {mode: kitti(raw, split_file=str(path), mode=mode) for mode, path in (("train", train), ("val", val))}
    return SeenFrames(sets)


def test_the_published_pair_is_information_and_no_alarm(raw: Path, shared_data: Path) -> None:
    folder = shared_data / "kitti_splits" / "eigen_zhou"
    (note,) = both(raw, folder / "train_files.txt", folder / "val_files.txt").notes
    assert note.startswith("dataset (val): ")
    assert "of 4187 validation frames are training frames (3950 by the other camera" in note
    assert "4187 have one within 10 frames" in note
    assert note.endswith("as the published lists have it: validation measures memory, too")


def test_the_benchmark_list_is_named(raw: Path, shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "kitti_splits"
    train = tmp_path / "eigen_zhou" / "train_files.txt"
    train.parent.mkdir()
    shutil.copy(lists / "benchmark" / "train_files.txt", train)
    notes = both(raw, train, lists / "eigen_full" / "val_files.txt").notes
    assert notes[0] == (
        "dataset (train): this is the KITTI benchmark training list under the name eigen_zhou/train: 451 of the 697"
        " Eigen test frames are in it"
    )
    assert notes[1].startswith("warning: dataset (val): ")
    assert notes[1].endswith("validation flatters the network, and `best` with it")


def test_shared_frames_of_train_and_val_are_a_warning(raw: Path, tmp_path: Path) -> None:
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    train = write_lines(tmp_path / "train.txt", f"{drive} 1 l", f"{drive} 2 r")
    val = write_lines(tmp_path / "val.txt", f"{drive} 2 l", f"{drive} 3 l", f"{drive} 13 l", f"{drive} 14 l")
    assert both(raw, train, val).notes == [
        "warning: dataset (val): 2 of 4 validation frames are training frames (1 by the other camera, 1 as supports), 3"
        " have one within 10 frames: validation flatters the network, and `best` with it"
    ]
    far = write_lines(tmp_path / "far.txt", f"{drive} 30 l")
    assert both(raw, train, far).notes == []
    near = write_lines(tmp_path / "near.txt", f"{drive} 13 l")
    assert both(raw, train, near).notes == [
        "dataset (val): 0 of 1 validation frames are training frames, 1 have one within 10 frames"
    ]


def film(root: Path, seeds: range) -> Path:
    for number, seed in enumerate(seeds):
        noise_frame(root / f"{number:04d}.png", seed)
    return root


def folders(tmp_path: Path) -> dict:
    """Two folders that share three renamed pictures."""
    train, val = film(tmp_path / "train", range(9)), film(tmp_path / "val", range(100, 106))
    for number, stolen in enumerate((1, 4, 8)):
        shutil.copy(train / f"{stolen:04d}.png", val / f"{number:04d}.png")
    options = {"size": (20, 10), "val_every": 0, "fov": 60.0}
    sets = {
        "train": DATASETS.create("folder", path=str(train), supp_idxs=[-1, 1], **options),
        "val": DATASETS.create("folder", path=str(val), supp_idxs=None, mode="val", **options),
    }
    return sets


SHARED = (
    "warning: dataset (val): 3 of 6 validation pictures are training pictures by their bytes, whatever their names:"
    " validation flatters the network, and `best` with it"
)


def test_two_folders_that_share_three_renamed_pictures(tmp_path: Path) -> None:
    frames = SeenFrames(folders(tmp_path))
    assert frames.notes == [SHARED]
    trained = frames.trained_on(TrainedOn())
    assert len(trained.pictures) == 9
    assert [entry.items for entry in trained.lists] == [7]


def test_what_takes_long_is_told_at_the_first_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, go_on = folders(tmp_path), Event()
    hashes = sets["train"].fingerprints
    monkeypatch.setattr(seen, "PATIENCE", 0.01)
    monkeypatch.setattr(sets["train"], "fingerprints", lambda: go_on.wait() and hashes())
    frames, told = SeenFrames(sets), list[str]()
    frames.warn = told.append
    assert (frames.notes, told) == ([], [])
    go_on.set()
    first = frames.trained_on(TrainedOn())
    assert told == [SHARED]
    assert np.array_equal(first.pictures, hashes())


def test_a_training_adds_to_what_its_first_weights_saw(raw: Path) -> None:
    frames = SeenFrames({"train": kitti(raw)})
    own = frames.trained_on(TrainedOn())
    assert [entry.name for entry in own.lists] == ["mini/train"]
    before = TrainedOn((), own.frames, np.array([7], np.int64), is_whole=False)
    later = frames.trained_on(before)
    assert (later.pictures.tolist(), later.is_whole) == ([7], False)
    assert frames.trained_on(own).pack() == own.pack()  # a run that continues


@pytest.mark.parametrize(("rank", "builds"), [("0", True), ("1", False)])
def test_only_the_process_that_writes_checkpoints_looks_at_frames(
    monkeypatch: pytest.MonkeyPatch, rank: str, builds: bool
) -> None:
    """The others neither list nor hash them: seconds of each start with thousands of items."""
    built = []

    class Counted(SeenFrames):
        def __init__(self, datasets):
            built.append([*datasets])
            super().__init__(datasets)

    monkeypatch.setattr(run, "SeenFrames", Counted)
    monkeypatch.setenv("RANK", rank)
    few = ("dataset.train.num_items=2", "dataset.val.num_items=1")
    _, frames, _ = run._checked_data(load_config("synthetic/monodepth2_MS", "synthetic/default", few), seed=42)
    assert built == [["train", "val"]] * builds
    assert (frames is not None) == builds
