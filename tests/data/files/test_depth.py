"""Depth files of every format hold the numbers they should, written here by hand; codings become metres."""

from __future__ import annotations

import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from trainer.data.clips.cameras import read_camera, read_world_poses
from trainer.data.files.coding import DepthCoding
from trainer.data.files.depth import format_of, raw_problem, read_stored, stored_size
from trainer.data.files.masks import read_mask
from trainer.runtime.errors import DataError, UserError

VALUES = np.array([[0.0, 1.5, 2.0], [3.0, 4.0, 80.0]], np.float32)  # 3 wide, 2 high


def files(folder) -> dict:
    Image.fromarray(VALUES.astype(np.uint16)).save(folder / "d.png")
    np.save(folder / "d.npy", VALUES[..., None])
    np.savez_compressed(folder / "d.npz", depth=VALUES, other=VALUES + 1)
    (folder / "d.dpt").write_bytes(struct.pack("<fii6f", 202021.25, 3, 2, *VALUES.ravel()))
    (folder / "d.JPG").write_bytes(struct.pack("<6f", *VALUES.ravel()))
    return {form: folder / f"d.{'JPG' if form == 'raw' else form}" for form in ("png", "npy", "npz", "dpt", "raw")}


def test_all_formats_hold_the_same_numbers(tmp_path):
    for form, path in files(tmp_path).items():
        found = read_stored(path, form, "depth", (3, 2))
        assert np.array_equal(found, np.floor(VALUES) if form == "png" else VALUES), form
        assert stored_size(path, form) in ((3, 2), None)
        assert format_of(path.name) == (None if form == "raw" else form)
    assert read_stored(tmp_path / "d.npz", "npz", "other", (3, 2))[0, 0] == 1


@pytest.mark.parametrize("form", ["png", "npy", "npz", "dpt", "raw"])
def test_files_that_are_cut_short_are_named(tmp_path, form):
    path = files(tmp_path)[form]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=path.name):
        read_stored(path, form, "depth", (3, 2))
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        read_stored(path, form, "depth", (3, 2))


def test_what_is_no_depth_is_refused(tmp_path):
    places = files(tmp_path)
    with pytest.raises(DataError, match=r"no array 'deep', but depth, other\. Set dataset\.depth_key"):
        read_stored(places["npz"], "npz", "deep", (3, 2))
    assert "24 bytes, not the 32 of float32 depth of 4x2" in raw_problem(places["raw"], (4, 2))
    np.save(tmp_path / "c.npy", np.zeros((2, 3, 3), np.float32))
    with pytest.raises(DataError, match=r"expected depth \(H, W\)"):
        read_stored(tmp_path / "c.npy", "npy", "", (3, 2))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("depth.npy", b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"bomb\.npz"):
        read_stored(tmp_path / "bomb.npz", "npz", "depth", (3, 2))


def test_codings_by_hand():
    stored = np.array([[0, 1, 2049, 65535]], np.uint16)
    assert DepthCoding(scale=1000).decode(stored)[0].tolist() == pytest.approx([0, 0.001, 2.049, 65.535])
    assert DepthCoding(invalid=(0, 65535)).decode(stored)[0, 3] == 0
    # Cityscapes: (p - 1) / 256 pixels; fx 2262.52 and 0.209313 m give 59.196 m at 8 pixels
    city = DepthCoding(scale=256, offset=-1, kind="disparity", baseline=0.209313)
    assert city.decode(stored, 2262.52)[0].tolist() == pytest.approx([0, 0, 2262.52 * 0.209313 / 8, 1.850], rel=1e-3)
    inverse = DepthCoding(kind="inverse", invalid=(0, np.inf))
    assert inverse.decode(np.array([0, 0.5, np.inf, np.nan, -1], np.float32)).tolist() == [0, 2, 0, 0, 0]


@pytest.mark.parametrize(
    "coding",
    [
        DepthCoding(),
        DepthCoding(scale=5000),
        DepthCoding(kind="inverse", invalid=(np.inf,)),
        DepthCoding(scale=256, offset=-1, kind="disparity", baseline=0.2),
    ],
    ids=str,
)
def test_encoding_turns_decoding_around(coding):
    depth = np.array([[0, 0.7, 1.0, 12.3, 79.0]], np.float32)
    decoded = coding.decode(coding.encode(depth, 500.0), 500.0)
    assert decoded == pytest.approx(depth, rel=1e-5)
    whole = coding.encode(depth, 500.0, whole=True)
    assert whole.dtype == np.uint16


def test_masks_are_true_where_a_value_says_so(tmp_path):
    mask = np.array([[0, 1, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", mask[..., None].astype(np.float64))
    for name in ("m.png", "m.npy"):
        assert read_mask(tmp_path / name).tolist() == [[False, True, True]]
        assert read_mask(tmp_path / name, [1]).tolist() == [[False, True, False]]


def test_a_camera_of_sintel_has_a_pose(tmp_path):
    """World -> camera [I t] with t = (1, 2, 3): the camera stands at -t."""
    K, motion = [500, 0, 511.5, 0, 500, 217.5, 0, 0, 1], [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3]
    path = tmp_path / "frame_0001.cam"
    path.write_bytes(struct.pack("<f21d", 202021.25, *K, *motion))
    camera = read_camera(path)
    assert camera.K.ravel().tolist() == K
    assert read_world_poses(path)[0, :3, 3].tolist() == camera.T_world[:3, 3].tolist() == [-1, -2, -3]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="no camera of MPI Sintel"):
        read_camera(path)


def test_cameras_of_cityscapes_and_in_text(tmp_path):
    (tmp_path / "c.json").write_text('{"intrinsic": {"fx": 2262.5, "fy": 2265.3, "u0": 1096.9, "v0": 513.1}}')
    assert read_camera(tmp_path / "c.json").K.tolist() == [[2262.5, 0, 1096.9], [0, 2265.3, 513.1], [0, 0, 1]]
    (tmp_path / "K.txt").write_text("500, 501, 320, 240")
    assert read_camera(tmp_path / "K.txt").K[1].tolist() == [0, 501, 240]
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(UserError, match=r"c\.json: expected intrinsic"):
        read_camera(tmp_path / "c.json")
