"""Colours say what the numbers say: near is red, unknown is black, broken is magenta."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from tests.world import ROOT
from trainer.tracking import viz

VIOLET, RED = (48, 18, 59), (122, 4, 3)  # the two ends of turbo
BLUE, CRIMSON = (49, 54, 149), (165, 0, 38)  # the two ends of RdYlBu_r
BLACK, WHITE, MAGENTA = (0, 0, 0), (255, 255, 255), (255, 0, 255)

CHANNELS = {"imgs": 3, "imgs_aug": 3, "imgs_warp": 3, "disp": 1, "depth": 1, "masks": 1, "grad": 1, "feats": 8}
TAGS = [(f"{kind}/target_0", channels) for kind, channels in {**CHANNELS, "feats_warp": 8}.items()]


def pixel(images: torch.Tensor, y: int, x: int, b: int = 0) -> tuple[int, ...]:
    return tuple(viz.to_uint8(images[b])[y, x].tolist())


def test_every_kind_of_picture_is_tested() -> None:
    assert {name.split("/")[0] for name, _ in TAGS} == set(viz.PICTURES)


@pytest.mark.parametrize(("name", "channels"), TAGS)
def test_every_tag_has_a_picture_also_of_constant_input(name: str, channels: int) -> None:
    tensor = torch.rand(2, channels, 6, 10)
    picture = viz.render(name, tensor)
    assert picture.shape == (2, 3, 6, 10)
    assert picture.dtype == torch.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert torch.equal(viz.render(name, tensor), picture)
    for value in (0.0, 0.5, float("nan")):
        assert viz.render(name, torch.full((2, channels, 4, 4), value)).isfinite().all()


@pytest.mark.parametrize(("name", "channels"), TAGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_pixels_are_magenta_and_only_they(name: str, channels: int, bad: float) -> None:
    tensor = torch.linspace(0.1, 1, channels * 60).reshape(1, channels, 6, 10)
    tensor[0, -1, 2, 3] = bad
    picture = viz.render(name, tensor)
    assert picture.isfinite().all()
    magenta = (picture == torch.tensor(viz.MAGENTA).view(1, 3, 1, 1)).all(1)
    assert magenta.nonzero().tolist() == [[0, 2, 3]]


def test_an_unknown_name_is_shown_by_its_channels_and_a_tensor_without_batch_refused() -> None:
    for channels in (1, 2, 3, 16):
        assert viz.render("surprise/x", torch.rand(1, channels, 4, 6)).shape == (1, 3, 4, 6)
    with pytest.raises(ValueError, match=r"'disp/target_0' has shape \(4, 6\): expected \(b c h w\)"):
        viz.render("disp/target_0", torch.rand(4, 6))


def test_disparity_runs_from_violet_to_red_at_the_95th_percentile_of_positive_values() -> None:
    """Values 1..100 and as many zeros: the map ends at 95.05, so 96 is as red as 100, and 0 is violet."""
    disp = torch.cat([torch.zeros(100), torch.arange(1.0, 101)]).reshape(1, 1, 10, 20)
    picture = viz.colour_disp(disp)
    assert pixel(picture, 0, 0) == VIOLET
    assert pixel(picture, 9, 15) == pixel(picture, 9, 19) == RED  # 96 and 100
    assert pixel(picture, 9, 9) != RED  # 90


def test_each_disparity_has_its_own_scale_unless_one_is_given() -> None:
    disp = torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 0.001)])
    own, given = viz.colour_disp(disp), viz.colour_disp(disp, vmax=1.0)
    assert pixel(own, 0, 0, b=0) == pixel(own, 0, 0, b=1) == RED
    assert pixel(given, 0, 0, b=0) == RED
    assert pixel(given, 0, 0, b=1) == VIOLET


def test_depth_is_black_where_nothing_was_measured_and_red_where_near() -> None:
    depth = torch.tensor([[0.0, 2.0], [1e6, 2.0]]).view(1, 1, 2, 2)
    picture = viz.colour_depth(depth)
    assert pixel(picture, 0, 0) == BLACK
    assert pixel(picture, 0, 1) == RED
    assert pixel(picture, 1, 0) == VIOLET


def test_points_of_a_large_sparse_map_are_thickened_the_nearest_in_front() -> None:
    """1242 pixels wide: a point becomes 5 x 5; between two points 3 apart the nearer one, at 2 m, wins."""
    depth = torch.zeros(1, 1, 20, 1242)
    depth[0, 0, 10, 600] = 2.0
    depth[0, 0, 10, 603] = 1e6
    picture = viz.colour_depth(depth, vmax=0.5)
    lit = (picture[0].sum(0) > 0).nonzero()
    assert lit.amin(0).tolist() == [8, 598]
    assert lit.amax(0).tolist() == [12, 605]
    assert pixel(picture, 10, 602) == RED
    assert pixel(picture, 10, 603) == VIOLET  # what was measured keeps its colour


@pytest.mark.parametrize(("width", "share"), [(1242, 1.0), (192, 0.01)])
def test_dense_and_small_maps_are_left_alone(width: int, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.rand(1, 1, 16, width, generator=generator) < share
    picture = viz.colour_depth(known * 5.0)
    assert torch.equal(picture.sum(1, keepdim=True) > 0, known)


def test_error_runs_from_blue_to_red_at_30_per_cent() -> None:
    abs_rel = torch.tensor([[0.0, 0.3], [5.0, float("nan")]]).view(1, 1, 2, 2)
    valid = torch.tensor([[True, True], [True, False]]).view(1, 1, 2, 2)
    picture = viz.colour_error(abs_rel, valid)
    assert pixel(picture, 0, 0) == BLUE
    assert pixel(picture, 0, 1) == pixel(picture, 1, 0) == CRIMSON
    assert pixel(picture, 1, 1) == BLACK


def test_a_mask_is_its_first_channel_white_where_kept() -> None:
    mask = torch.tensor([[[True, False]], [[False, False]]])[None]  # (1 2 1 2)
    picture = viz.colour_mask(mask)
    assert [pixel(picture, 0, x) for x in (0, 1)] == [WHITE, BLACK]


def test_normalise_stretches_each_image_by_its_finite_extremes() -> None:
    x = torch.tensor([[1.0, 3.0, 5.0], [7.0, 7.0, 7.0], [0.0, float("inf"), 4.0]]).view(3, 1, 1, 3)
    assert viz.normalise(x)[:, 0, 0].tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_pca_shows_the_one_direction_there_is_as_red() -> None:
    """Features t * (1, -2, 0, 0): the largest loading, of channel 2, is made positive: red falls with t."""
    t = torch.tensor([0.0, 1.0, 2.0, 4.0])
    features = torch.stack([t, -2 * t, 0 * t, 0 * t]).view(1, 4, 1, 4)
    rgb = viz.pca_rgb(features)[0, :, 0]
    assert torch.allclose(rgb[0], torch.tensor([1.0, 0.75, 0.5, 0.0]), atol=1e-6)
    assert rgb[1:].abs().max() == 0


@pytest.mark.parametrize("shape", [(2, 5, 8, 8), (1, 64, 2, 3)])
def test_pca_does_not_depend_on_the_sign_of_an_eigenvector(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pixels than channels, and more channels than pixels."""
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = viz.pca_rgb(features)
    eigh = torch.linalg.eigh

    def flipped(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = eigh(matrix)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    assert torch.allclose(viz.pca_rgb(features), expected, atol=1e-6)
    assert expected.amax(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1, 1])
    assert expected.amin(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0])


def test_both_ways_to_the_main_directions_agree() -> None:
    """Repeating every pixel changes which Gram matrix is the smaller one, not the directions."""
    features = torch.randn(1, 12, 1, 8, generator=torch.Generator().manual_seed(2))
    twice = viz.pca_rgb(features.repeat(1, 1, 2, 1))[:, :, :1]
    assert torch.allclose(twice, viz.pca_rgb(features), atol=1e-5)


def test_grid_lays_images_out_row_by_row() -> None:
    images = torch.arange(1.0, 8).view(7, 1, 1, 1).expand(7, 3, 2, 3)
    sheet = viz.grid(images, max_images=5, per_row=2, gap=1)
    assert sheet.shape == (3, 3 * 2 + 2, 2 * 3 + 1)
    assert sheet[0, ::3, ::4].tolist() == [[1, 2], [3, 4], [5, 0]]
    assert sheet[:, 2].max() == 0  # the gap
    assert torch.equal(viz.grid(images[:1]), images[0])


def row(h: int, w: int) -> dict:
    depth = np.tile(np.linspace(40, 4, h, dtype=np.float32)[:, None], (1, w))
    image = np.full((h, w, 3), 128, np.uint8)
    arrays = {"input": image, "prediction": 1 / depth, "truth": depth, "error": depth * 0}
    return {**arrays, "abs_rel": 0.0, "label": "frame 7"}


@pytest.mark.parametrize(("h", "w"), [(64, 192), (256, 192)])
def test_a_sheet_keeps_the_shape_of_its_pictures(tmp_path: Path, h: int, w: int) -> None:
    """In the input column, grey but for its label, the height over the width is that of the image."""
    viz.picture_sheet([row(h, w)], tmp_path / "sheet.png", "Title", "footer")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    grey = (abs(sheet - 128) <= 1).all(-1)
    ys, xs = np.flatnonzero(grey.sum(1) > 200), np.flatnonzero(grey.sum(0) > 40)
    assert (np.ptp(ys) + 1) / (np.ptp(xs) + 1) == pytest.approx(h / w, rel=0.03)


def test_a_sheet_shows_error_zero_in_blue_and_missing_truth_as_none(tmp_path: Path) -> None:
    rows = [row(64, 192), {**row(64, 192), "truth": None, "error": None}]
    viz.picture_sheet(rows, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    blue = (sheet == BLUE).all(-1)
    left, right = np.split(blue, [3 * blue.shape[1] // 4], axis=1)
    assert right.mean() > 0.2
    assert left.sum() == 0


def test_colour_bars_are_in_metres_of_each_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Still worlds at 5 and 40 m: red is that far, half way to blue twice as far, blue infinitely."""
    written: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda axes, x, y, s, **kw: written.append(s) or text(axes, x, y, s, **kw))
    rows = [{"prediction": np.full((4, 8), 1 / 5), "truth": np.full((4, 8), 40.0), "error": np.zeros((4, 8))}]
    viz.picture_sheet([*rows, {"prediction": np.zeros((4, 8, 3), np.uint8)}], tmp_path / "sheet.png")
    assert [t for t in written if t != "none"] == [
        *("20", "10", "∞", "≤ 5 m"),
        *("160", "80", "∞", "≤ 40 m"),
        *("0", "≥ 0.3"),
    ]


def test_columns_that_no_row_has_are_left_out(tmp_path: Path) -> None:
    pictures = {key: row(64, 192)[key] for key in ("input", "prediction")}
    viz.picture_sheet([pictures], tmp_path / "two.png")
    viz.picture_sheet([row(64, 192)], tmp_path / "four.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "four.png") as four:
        assert two.height > four.height  # half as many columns, twice as wide, twice as high


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to show: 0 rows"):
        viz.picture_sheet([], tmp_path / "sheet.png")


@pytest.mark.slow
def test_importing_the_three_rooms_loads_no_drawing_library() -> None:
    code = """if True:
        import sys, torch  # torch brings tqdm along
        before = set(sys.modules)
        import trainer.tracking.viz, trainer.tracking.tracker, trainer.tracking.progress
        loaded = set(sys.modules) - before
        print(loaded & {'matplotlib', 'rich', 'tqdm', 'tensorboard', 'accelerate'})
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "set()\n"
