"""Pictures of any kind and size get depth at their size, and what its numbers mean is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from trainer.predict import DepthMap
from trainer.predict.predictor import as_rgb
from trainer.predict.scale import RELATIVE, STEREO, scale_of
from trainer.runtime.errors import DataError, UserError


def test_depth_has_the_size_of_the_picture_and_is_that_of_the_network(predictor, picture):
    result = predictor(picture)
    assert result.disparity.shape == (70, 90)
    assert np.allclose(result.depth * result.disparity, 1)
    small = picture.resize((64, 64), Image.Resampling.BILINEAR)
    images = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        sigmoid = predictor.network.depth(images)["disp"][0]
    depth = 5.4 / (0.01 + (10 - 0.01) * sigmoid[0, 0])  # 0.54 m over 0.1 units; depth 0.1 to 100 units
    assert np.allclose(predictor(small).depth, depth, rtol=1e-5)
    assert repr(result) == f"DepthMap(90x70, {result.depth.min():.3g} to {result.depth.max():.3g} m)"


def test_disparity_is_brought_to_size_as_torch_does_it(predictor):
    small = torch.rand(1, 8, 8)
    expected = torch.nn.functional.interpolate(small[None], (20, 31), mode="bilinear", align_corners=False)[0, 0]
    assert np.allclose(predictor.restore(small, (31, 20)).disparity, expected, atol=1e-6)


def test_many_are_predicted_as_one(predictor, picture, tmp_path):
    picture.save(tmp_path / "p.png")
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    same = [tmp_path / "p.png", str(tmp_path / "p.png"), picture, np.array(picture), tensor, tensor / 255]
    results = predictor(same)
    assert len(results) == 6  # batches of two
    for result in results:
        assert np.allclose(result.disparity, predictor(picture).disparity, rtol=1e-5)


@pytest.mark.parametrize(
    ("made", "value"),
    [
        (lambda: Image.new("L", (3, 2), 128), 128),
        (lambda: Image.new("LA", (3, 2), (128, 7)), 128),
        (lambda: Image.new("RGBA", (3, 2), (128, 128, 128, 0)), 128),
        (lambda: Image.new("RGB", (3, 2), (128, 128, 128)).quantize(4), 128),
        (lambda: Image.new("CMYK", (3, 2), (0, 0, 0, 127)), 128),
        (lambda: Image.new("1", (3, 2), 1), 255),
        (lambda: Image.fromarray(np.full((2, 3), 128 * 256, np.uint16)), 128),
        (lambda: Image.fromarray(np.full((2, 3), 128 * 256, np.int32)), 128),
        (lambda: np.full((2, 3), 128 / 255), 128),
        (lambda: np.full((2, 3, 1), 128, np.uint8), 128),
        (lambda: np.full((2, 3, 4), 128, np.uint8), 128),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(made, value):
    rgb = as_rgb(made())
    assert (rgb.mode, rgb.size) == ("RGB", (3, 2))
    assert np.abs(np.asarray(rgb).astype(int) - value).max() <= 1


def test_pictures_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    Image.new("RGB", (30, 20), "red").save(tmp_path / "p.jpg", exif=exif)
    assert as_rgb(tmp_path / "p.jpg").size == (20, 30)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 2)), np.zeros(3), np.zeros((0, 3)), np.full((2, 2), 2.0), np.eye(2) - 1]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(DataError, match="picture"):
        as_rgb(array)


def test_the_scale_is_that_of_the_training_or_the_users(tmp_path):
    assert scale_of((-1, 1)) is RELATIVE
    assert scale_of((-1, 0, 1)) is STEREO
    given = scale_of((-1, 1), "2.5")
    assert (given.factor, given.unit, str(given)) == (2.5, "m", "metres (calibrated: x 2.5, given by the user)")
    result = tmp_path / "r.yaml"
    items = [{"truth_over_prediction": ratio} for ratio in (4.0, 5.0, 6.0, None)]
    result.write_text(yaml.safe_dump({"items": items}))
    measured = scale_of((-1, 1), result)
    assert measured.factor == 5.0
    assert "median over 3 images of r.yaml" in measured.origin
    result.write_text("items: []")
    for wrong in ("0", "-1", "inf", "nan", "metres", result):
        with pytest.raises(UserError, match="scale"):
            scale_of((-1, 1), wrong)


def test_saving_by_suffix(predictor, picture, tmp_path):
    result = predictor(picture)
    for name, kind in (("a.png", None), ("b.png", "gray16"), ("c.npz", None), ("d.npy", None), ("new/e.ply", None)):
        result.save(tmp_path / name, kind)
        assert (tmp_path / name).stat().st_size
    with Image.open(tmp_path / "b.png") as saved:
        assert saved.mode == "I;16"
    for name, kind in (("f.jpg", None), ("f.png", "npz"), ("f.png", "colour")):
        with pytest.raises(UserError, match="no kind of output"):
            result.save(tmp_path / name, kind)


def test_a_map_without_a_picture_is_not_coloured_points(tmp_path):
    with pytest.raises(UserError, match="picture"):
        DepthMap(np.ones((2, 2), np.float32), RELATIVE).save(tmp_path / "a.ply")
