"""View consistency by hand: flat maps, windows, masks; disparities that agree cost nothing."""

from __future__ import annotations

import math

import pytest
import torch

from tests.losses.scenes import SIZE, random_scene
from trainer.geometry import depth_to_disp
from trainer.losses import LOSSES

H, W = SIZE
A = {"high": (2.0, 5, 3), "low": (0.75, 0, 0), "crop": (1.5, 3, 2)}  # zoom, x, y


def matrix(name, b=2):
    zoom, x, y = A[name]
    return torch.tensor([[zoom, 0, -x], [0, zoom, -y], [0, 0, 1.0]], dtype=torch.float64).repeat(b, 1, 1)


def plane(name=None):
    """A disparity that grows linearly over the picture, as a view sees it: bilinear sampling is exact."""
    zoom, x, y = A.get(name, (1.0, 0, 0))
    columns, rows = ((torch.arange(n).double() + 0.5 + o) / zoom for n, o in ((W, x), (H, y)))
    if name == "low":  # continued with its own last strips
        columns, rows = (c - (c > n) * (c - c % n) for c, n in ((columns, W), (rows, H)))
    return (0.2 + 0.02 * columns + 0.03 * rows[:, None]).expand(2, 1, H, W).clone()


def scene_of(plain, others, **changes):
    """A scene whose further views have these disparities."""
    scene = random_scene(dtype=torch.float64, disp={0: plain}, **changes)
    factors = {"crop": torch.full((2,), A["crop"][0], dtype=torch.float64)}
    scene.others = {
        name: random_scene(
            dtype=torch.float64,
            disp={0: disp},
            A=None if name == "permute" else matrix(name),
            depth_factor=factors.get(name),
        )
        for name, disp in others.items()
    }
    return scene


def flat(value):
    return torch.full((2, 1, H, W), value, dtype=torch.float64)


def value_of(scene, **kwargs):
    return LOSSES.create("view_consistency", **kwargs)(scene)[0]


@pytest.mark.parametrize("loss_name", ["ssim", "silog"])
def test_one_surface_seen_in_all_views_costs_nothing(loss_name):
    """Except that the outermost pixels of a view are repeated half a pixel outwards."""
    others = {name: plane(name) for name in ("high", "low")}
    inside = torch.zeros(2, 1, H, W, dtype=torch.bool)
    inside[..., 3, 4:9] = True
    for others_, least, most in (
        ({**others, "permute": plane()}, 0, 1e-12),
        ({**others, "high": plane()}, 1e-4, 1),  # as if it had not been zoomed
    ):
        scene = scene_of(plane(), others_, automask=inside)
        assert least <= value_of(scene, loss_name=loss_name, use_automask=True) <= most


@pytest.mark.parametrize("loss_name", ["ssim", "silog"])
def test_depth_of_a_crop_counts_as_often_as_it_was_zoomed(loss_name):
    near = depth_to_disp(torch.full((2, 1, H, W), 2.0, dtype=torch.float64))
    far = depth_to_disp(torch.full((2, 1, H, W), 3.0, dtype=torch.float64))  # 1.5 times as far
    assert value_of(scene_of(far, {"crop": near}), loss_name=loss_name) < 1e-12
    assert value_of(scene_of(near, {"crop": near}), loss_name=loss_name) > 1e-4


def test_flat_disparities_by_hand():
    """SSIM of constants a, b is (2ab + C1) / (a^2 + b^2 + C1), C1 = 1e-4."""
    a, b = 0.5, 0.3
    error = 0.85 * (1 - (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)) / 2 + 0.15 * (a - b)
    assert value_of(scene_of(flat(a), {"low": flat(b)})) == pytest.approx(error)
    assert value_of(scene_of(flat(a), {"low": flat(b), "permute": flat(b)})) == pytest.approx(2 * error)


def test_flat_depths_by_hand():
    """e = ln(2) everywhere: e^2 - 0.5 e^2."""
    near, far = (depth_to_disp(flat(depth)) for depth in (2.0, 4.0))
    assert value_of(scene_of(near, {"permute": far}), loss_name="silog") == pytest.approx(0.5 * math.log(2) ** 2)
    half = far.clone()
    half[..., : W // 2] = near[..., : W // 2]  # e = ln(2) in one half: e^2 / 2 - 0.5 (e / 2)^2
    assert value_of(scene_of(near, {"permute": half}), loss_name="silog") == pytest.approx(0.375 * math.log(2) ** 2)


def test_only_pixels_that_the_view_shows_count():
    """A zoom of 2 that starts at column 5, row 3 shows plain columns 2.5 to 10.5 and rows 1.5 to 5.5."""
    scene = scene_of(plane(), {"high": plane("high")})
    disp, shown = scene.others["high"].disp_on_plain()
    assert shown[0, 0].nonzero().amin(0).tolist() == [1, 2]
    assert shown[0, 0].nonzero().amax(0).tolist() == [5, 10]
    assert torch.allclose(disp[..., 2:5, 3:10], plane()[..., 2:5, 3:10])
    outside = scene_of(torch.where(shown, plane(), flat(0.9)), {"high": plane("high")})
    assert value_of(outside, loss_name="silog") == value_of(scene, loss_name="silog")


def test_what_a_reduced_picture_is_continued_with_is_not_compared():
    low = plane("low")
    low[..., 6:, :], low[..., 12:] = 0.9, 0.9  # it fills 12 x 6 pixels
    scene = scene_of(plane(), {"low": low})
    assert scene.others["low"].disp_on_plain()[1].all()
    assert value_of(scene, loss_name="silog") < 1e-4  # the last pixel is half outside, and repeated


def test_an_item_is_weighed_by_its_own_mask():
    """The second item is masked altogether: the mean over items is half that of the first."""
    mask = torch.zeros(2, 1, H, W, dtype=torch.bool)
    mask[0, :, :2] = True
    scene = scene_of(flat(0.5), {"low": flat(0.3)}, automask=mask)
    full = value_of(scene_of(flat(0.5), {"low": flat(0.3)}))
    assert value_of(scene, use_automask=True) == pytest.approx(float(full) / 2)
    with pytest.raises(ValueError, match=r"loss.img_recon.use_automask: true"):
        value_of(scene_of(flat(0.5), {"low": flat(0.3)}), use_automask=True)


@pytest.mark.parametrize("kwargs", [{"loss_name": "ssim"}, {"loss_name": "silog", "use_automask": True}])
def test_both_sides_learn(kwargs):
    torch.manual_seed(0)
    plain, high, crop = (torch.rand(2, 1, H, W).double().requires_grad_() for _ in range(3))
    mask = torch.rand(2, 1, H, W) < 0.5

    def value(plain, high, crop):
        return value_of(scene_of(plain, {"high": high, "crop": crop}, automask=mask), **kwargs)

    gradients = torch.autograd.grad(value(plain, high, crop), [plain, high, crop])
    assert all(g.abs().sum() > 0 for g in gradients)
    assert torch.autograd.gradcheck(value, (plain, high, crop), fast_mode=True)


def test_a_misspelt_error_names_the_choices():
    with pytest.raises(ValueError, match=r"'sim' does not compare views. Did you mean 'ssim'"):
        LOSSES.create("view_consistency", loss_name="sim")
