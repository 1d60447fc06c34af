"""Files that are none, numbers outside any sense, bytes of any kind: one sentence that names the file, and at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.checkpoint import load_objective
from trainer.config.plugins import load_plugins
from trainer.data.clips.clips import read_lines
from trainer.data.clips.intrinsics import read_intrinsics
from trainer.data.clips.poses import are_motions, read_poses, read_rig
from trainer.data.files.arrays import array_problem, read_array
from trainer.data.files.damage import find_damaged
from trainer.data.files.depth import read_annotated
from trainer.data.files.headers import find_odd_pictures
from trainer.data.files.pictures import read_image
from trainer.data.files.scans import read_points
from trainer.data.files.splits import choose_splits, find_split, parse_frame
from trainer.data.folder import FrameFolder
from trainer.data.kitti_odom import _parse as parse_odometry
from trainer.data.kitti_raw.calibration import read_calibration
from trainer.data.kitti_raw.files import read_split
from trainer.data.syns_patches import _parse as parse_syns
from trainer.evaluation import StoredDepth, TargetsFile
from trainer.evaluation.changes import Changes
from trainer.evaluation.subject import read_checkpoint
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, write_text
from trainer.tables.reference import add_references
from trainer.tables.results import read_result, read_results

READERS: dict[str, Callable[[Path], Any]] = {
    "picture": lambda path: read_image(path, (8, 8)),
    "depth": read_annotated,
    "array": lambda path: read_array(path, "Copy it"),
    "scan": lambda path: read_points(str(path)),
    "K": read_intrinsics,
    "rig": read_rig,
    "poses": read_poses,
    "calibration": lambda path: read_calibration(path.parent),
    "split of KITTI": read_split,
    "split of clips": lambda path: read_lines(path, parse_frame, "a frame"),
    "split of odometry": lambda path: read_lines(path, parse_odometry, "a frame"),
    "split of SYNS": lambda path: read_lines(path, parse_syns, "a frame"),
    "targets": TargetsFile.read,
    "predictions": lambda path: StoredDepth.read(path, "depth"),
    "result": read_result,
}
few = settings(max_examples=25, deadline=None, database=None, derandomize=True)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_named_and_blocks_nothing(kind: str, tmp_path: Path) -> None:
    name = "calib_cam_to_cam.txt"
    for place in ("pipe", "socket", "device", "folder"):
        (tmp_path / place).mkdir()
    os.mkfifo(tmp_path / "pipe" / name)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket" / name))
    (tmp_path / "device" / name).symlink_to("/dev/zero")
    (tmp_path / "folder" / name).mkdir()
    for place in (*("pipe", "socket", "device", "folder"), "x" * 300, "\0"):
        with pytest.raises(UserError, match=r".+"):
            READERS[kind](tmp_path / place / name)
    assert array_problem(str(tmp_path / "pipe" / name), "Copy it")


LONG = "x" * 300  # no file system has it, and before Python 3.14 `Path.is_file` raises for it


@pytest.mark.parametrize(
    "ask",
    [
        lambda here: FrameFolder(path=LONG),
        lambda here: FrameFolder(path=str(here), cache=LONG),
        lambda here: FrameFolder(path=str(here / f"{LONG}.mp4")),
        lambda here: find_split(here, LONG, "train"),
        lambda here: find_split(here, "eigen", LONG),
        lambda here: choose_splits(here, None, here / LONG),
        lambda here: add_references([], LONG),
        lambda here: read_results(here, [LONG]),
        lambda here: read_results(here, [f"a/{LONG}"]),
        lambda here: load_objective(here / LONG),
        lambda here: read_checkpoint(here / LONG / "ckpts" / "best.safetensors", None, Changes(), "test"),
        lambda here: write_text(here / LONG, ""),
        lambda here: make_folder(here / LONG),
        lambda here: load_plugins([f"{LONG}.py"]),
        lambda here: load_plugins([f"{here}/{LONG}/a.py"]),
    ],
)
def test_names_that_are_too_long_are_names_of_nothing(ask: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    with pytest.raises(UserError, match=r".+"):
        ask(tmp_path)


def test_the_checks_before_training_block_on_nothing(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.png", "b.npy", "c.bin")]
    for path in paths:
        os.mkfifo(path)
    assert len(find_damaged(paths)[0]) == 3
    assert find_odd_pictures({"clip": paths[:1]}, {"clip": (8, 8)}) == []


@pytest.mark.parametrize("kind", READERS)
def test_bytes_of_any_kind_are_read_or_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "calib_cam_to_cam.txt"

    @few
    @given(st.binary(max_size=60) | st.text("0123456789.eE+-naif \n\0lr:/P\x85\u0661", max_size=60).map(str.encode))
    def read(content: bytes) -> None:
        path.write_bytes(content)
        message = str(path)
        try:
            READERS[kind](path)
        except UserError as error:
            message = str(error)
        assert str(path.parent) in message

    read()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_a_damaged_picture_is_read_or_named(format: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.effect_noise((16, 12), 50).convert("RGB").save(path, format)
    whole = path.read_bytes()

    @few
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=8))
    def read(place: int, noise: bytes) -> None:
        path.write_bytes(whole[:place] + noise + whole[place + len(noise) :])
        message = str(path)
        try:
            assert read_image(path, (16, 12)).shape == (12, 16, 3)
        except UserError as error:
            message = str(error)
        assert str(path) in message

    read()


def test_lines_of_no_sense_are_bad_lines(tmp_path: Path) -> None:
    path, many = tmp_path / "split.txt", "9" * 5000
    path.write_text(f"{many}\na {many}\na/b {many} l\n{many} 1 l\n00 {many} l\n{many} {many}.png\n{'x' * 10**6}")
    for kind in (kind for kind in READERS if kind.startswith("split")):
        lines = READERS[kind](path)
        assert [bool(line.problem) for line in lines] == [True] * 7
        assert max(len(line.problem) for line in lines) < 300 + len(str(path))
    path.write_bytes(b"a 1\nb\0c 2\n")
    with pytest.raises(UserError, match=r"split\.txt:2: the split file is no text"):
        read_split(path)


@pytest.mark.parametrize("text", ["1e200 100 50 50", "100 100 1e200 50", "100 100 50 -1e9", "nan 1 1 1"])
def test_a_principal_point_beyond_all_sense_is_no_camera(tmp_path: Path, text: str) -> None:
    (tmp_path / "K.txt").write_text(text)
    with pytest.raises(UserError, match=r"K\.txt: .* is no camera"):
        read_intrinsics(tmp_path / "K.txt")


def test_mirrors_and_stretched_rotations_are_no_motions(tmp_path: Path) -> None:
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[1, 0, 0] = -1  # determinant -1
    poses[2, :3, :3] *= 1.1
    poses[3, :3, :3] = 1e200
    poses[4, 0, 3] = np.nan
    assert are_motions(poses).tolist() == [True, False, False, False, False, True]
    assert are_motions(np.zeros((0, 4, 4))).tolist() == []
    (tmp_path / "calib.txt").write_text("Tr: -1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(UserError, match=r"calib\.txt: Tr is no rotation"):
        read_rig(tmp_path / "calib.txt")
