"""What is in the files can be checked by hand, and what is shown has one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.metrics.camera import LearnedCamera
from trainer.predict import DepthMap
from trainer.predict.camera import Camera, given_camera
from trainer.predict.colours import LEVELS, ColourRange, Limits, coloured, limits_of
from trainer.predict.depthmap import KINDS, Look, write
from trainer.predict.scale import RELATIVE, STEREO
from trainer.predict.writing import kinds_of, path_of
from trainer.runtime.errors import UserError

LOOK = Look(Limits(0.01, 1.0))


def a_map(depth, scale=STEREO, **more) -> DepthMap:
    depth = np.asarray(depth, np.float32)
    picture = Image.new("RGB", depth.shape[::-1], (10, 20, 30))
    return DepthMap(1 / depth, scale, picture, "f00d", **more)


def test_16_bits_hold_metres_as_kitti_does(tmp_path):
    write(a_map([[1.0, 2.5, 255.9, 300.0, 0.001]]), "gray16", tmp_path / "a.png", LOOK)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).tolist() == [[256, 640, 65510, 65535, 1]]  # 0 would mean none
        assert picture.text["clipped_pixels"] == "1"
        assert picture.text["unit"] == "m"
        assert picture.text["model_sha256"] == "f00d"


def test_16_bits_of_relative_depth_say_how_to_undo_the_mapping(tmp_path):
    result = a_map([[0.5, 1.0, 4.0, 20.0]], RELATIVE)
    write(result, "gray16", tmp_path / "a.png", LOOK)
    with Image.open(tmp_path / "a.png") as picture:
        values, texts = np.asarray(picture).astype(float), picture.text
    assert (values.min(), values.max()) == (0, 65535)
    step = float(texts["disparity_step"])
    assert np.abs(float(texts["disparity_offset"]) + values * step - result.disparity).max() <= 0.51 * step
    assert texts["unit"] == "relative"
    write(a_map([[2.0, 2.0]], RELATIVE), "gray16", tmp_path / "flat.png", LOOK)
    with Image.open(tmp_path / "flat.png") as picture:
        assert float(picture.text["disparity_offset"]) == 0.5
        assert np.asarray(picture).tolist() == [[0, 0]]


def test_arrays(tmp_path):
    result = a_map([[1.0, 4.0]])
    write(result, "npz", tmp_path / "a.npz", LOOK)
    write(result, "npy", tmp_path / "a.npy", LOOK)
    assert np.load(tmp_path / "a.npy").tolist() == [[1.0, 4.0]]
    with np.load(tmp_path / "a.npz") as file:
        assert (file["disparity"].dtype, file["disparity"].tolist()) == (np.float32, [[1.0, 0.25]])
        texts = {key: str(file[key]) for key in ("unit", "scale", "model_sha256")}
        assert texts == {"unit": "m", "scale": "5.4", "model_sha256": "f00d"}
        assert "stereo pairs" in str(file["scale_origin"])


def test_points_lie_where_the_pinhole_camera_sees_them(tmp_path):
    camera = given_camera(None, (2.0, 4.0, 1.0, 0.0))
    write(a_map([[8.0, 8.0, 4.0], [8.0, 8.0, 2.0]], camera=camera), "ply", tmp_path / "a.ply", LOOK)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    assert b"format binary_little_endian 1.0\n" in header
    assert b"element vertex 6\n" in header
    assert b"comment unit metres\n" in header
    kinds = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in "rgb"]
    points = np.frombuffer(body, kinds)
    assert points[0].tolist() == (-4.0, 0.0, 8.0, 10, 20, 30)  # x = (0 - 1) / 2 * 8
    assert points[5].tolist()[:3] == (1.0, 0.5, 2.0)  # x = (2 - 1) / 2 * 2, y = 1 / 4 * 2


def test_the_camera():
    assert given_camera(None, None) is None
    assert given_camera(90.0, None).K((100, 50))[0, 0] == pytest.approx(50)
    assert Camera().is_guessed
    measured = LearnedCamera((0.5, 0.9, 0.5, 0.4), (0.0,) * 4, (90.0, 58.1), (0.2, 0.1), 7, 0.3)
    learned = Camera(learned=measured)
    assert learned.K((200, 100)).tolist() == [[100, 0, 100], [0, 90, 40], [0, 0, 1]]
    for fov, pinhole in ((2.0, None), (180.0, None), (None, (0.0, 1.0, 1.0, 1.0))):
        with pytest.raises(UserError):
            given_camera(fov, pinhole)


def test_pictures_to_look_at(tmp_path):
    result = a_map(np.full((50, 200), 2.0))
    sizes = {}
    for kind in ("color", "overlay", "side-by-side"):
        write(result, kind, path := path_of(tmp_path, "a", kind), LOOK)
        with Image.open(path) as picture:
            sizes[kind] = picture.size
            assert picture.text["depth_nearest_colour"] == "1"
            assert picture.text["depth_farthest_colour"] == "100"
    assert sizes == {"color": (200, 68), "overlay": (200, 68), "side-by-side": (400, 68)}
    assert result.colored(legend=False).size == (200, 50)
    assert a_map(np.ones((1, 1))).colored().size == (1, 1)  # too narrow for a legend


def test_equal_disparities_have_equal_colours():
    limits = Limits(1.0, 3.0)
    ends = np.asarray(coloured(np.array([[0.5, 1.0, 2.0, 3.0, 9.0, np.nan]], np.float32), limits))[0]
    assert (ends[0] == ends[1]).all()
    assert (ends[3] == ends[4]).all()
    assert ends[3][0] > ends[3][2]  # red is near
    assert ends[1][2] > ends[1][0]
    assert ends[5].tolist() == [255, 0, 255]
    assert LEVELS < 256


def test_limits_leave_odd_pixels_out():
    values = np.ones(1000, np.float32)
    values[:500] = 2
    values[:5] = 1e6
    assert limits_of(values) == (1.0, 2.0)
    low, high = limits_of(np.full(10, 0.5, np.float32))
    assert low < high


def frames(*values: float) -> np.ndarray:
    return np.stack([np.linspace(0, value, 400, dtype=np.float32).reshape(20, 20) for value in values])


def test_one_range_holds_for_all_frames():
    colours = ColourRange()
    colours.see(frames(1.0, 3.0))
    colours.fix()
    assert colours.is_known
    before = colours.limits(frames(1.0))
    assert colours.limits(frames(50.0)) == before
    assert 1 < before.high < 3


def test_the_range_of_a_stream_follows_slowly():
    colours = ColourRange(follows=True)
    start = colours.limits(frames(1.0)).high
    assert colours.limits(frames(3.0)).high == pytest.approx(start * (1 + 0.01 * 2), rel=1e-3)
    for _ in range(500):
        end = colours.limits(frames(3.0)).high
    assert end == pytest.approx(3 * start, rel=0.02)


def test_depths_that_a_user_gives_stay():
    assert ColourRange(2.0, 50.0, follows=True).limits(frames(1.0)) == (1 / 50, 1 / 2)
    assert ColourRange(2.0, float("inf")).limits(frames(1.0)) == (0, 0.5)
    assert ColourRange(0.5).limits(frames(1.0)).high == 2
    low, high = ColourRange(1000.0).limits(1 + frames(1.0))  # all is nearer
    assert (low, high) == (0.0005, 0.001)


def test_names_of_kinds():
    assert kinds_of([], "color") == ["color"]
    assert kinds_of(["npz,ply", "npz"], "color") == ["npz", "ply"]
    with pytest.raises(UserError, match="Did you mean 'color'"):
        kinds_of(["colour"], "color")
    assert len({path_of(Path(), "a", kind) for kind in KINDS}) == len(KINDS)
