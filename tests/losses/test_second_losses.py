"""The losses of NimbleD, MiDaS, RA-Depth and BDEdepth equal a second implementation, item by item, with gradients.

So do the crops and sizes of KBR, the windows of RA-Depth and BDEdepth, and their intrinsics.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.losses.scenes import random_scene
from trainer.data.aspect import AspectRatios, reshaped
from trainer.data.views import Window, draw
from trainer.geometry.scene import Scene
from trainer.losses import LOSSES
from trainer.objective.views import permuted

TOLERANCE = 1e-5


def rand(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(ours, theirs, *inputs):
    """Values agree, and their gradients with respect to all inputs, of which none is zero everywhere."""
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(mine, other, rtol=TOLERANCE, atol=TOLERANCE * other.abs().max().item())


# Scale-and-shift invariant disparity: NimbleD, arXiv:2408.14177; MiDaS, arXiv:1907.01341


def lower_median(x):
    return x.sort().values[(len(x) - 1) // 2]


def standard(x):
    """Values (m) of one picture: median 0, mean absolute deviation 1."""
    centred = x - lower_median(x)
    return centred / centred.abs().mean().clamp_min(1e-6)


def nimbled(p, t):
    p, t = (standard((x - x.min()) / (x.max() - x.min() + 1e-6)) for x in (p, t))
    return (p - t).abs().mean()


def mae(p, t):
    return (standard(p) - standard(t)).abs().sum() / (2 * len(p))


def trimmed(p, t):
    e = (standard(p) - standard(t)).abs().sort().values
    return e[: int(0.8 * len(p))].sum() / (2 * len(p))


def least_squares(p, t):
    columns = torch.stack([p, torch.ones_like(p)], 1)
    return torch.linalg.solve(columns.T @ columns, columns.T @ t)


def mse(p, t):
    return residual(p, t, "mse").square().sum() / (2 * len(p))


FORMS = {"nimbled": nimbled, "mae": mae, "trimmed": trimmed, "mse": mse}


def residual(p, t, form):
    """What is left after the alignment of the form."""
    if form != "mse":
        return standard(p) - standard(t)
    a, b = least_squares(p, t)
    return a * p + b - t


def gradient_matching(p, t, valid, form):
    """Of one picture (h w): differences of neighbours of every 1st, 2nd, 4th and 8th pixel, per valid pixel."""
    r = torch.zeros_like(p)
    r[valid] = residual(p[valid], t[valid], form)
    total = r.new_zeros(())
    for step in (1, 2, 4, 8):
        level, known = r[::step, ::step], valid[::step, ::step]
        if not known.any():
            continue
        dx = (level[:, 1:] - level[:, :-1]).abs() * (known[:, 1:] & known[:, :-1])
        dy = (level[1:] - level[:-1]).abs() * (known[1:] & known[:-1])
        total = total + (dx.sum() + dy.sum()) / known.sum()
    return total


def disp_ssi(disps, pseudo, form, gradient):
    per_scale = []
    for disp in disps:
        up = F.interpolate(disp, pseudo.shape[-2:], mode="bilinear", align_corners=False)
        values = []
        for p, t in zip(up[:, 0], pseudo[:, 0], strict=True):
            valid = t > 0
            values.append(FORMS[form](p[valid], t[valid]) + gradient * gradient_matching(p, t, valid, form))
        per_scale.append(sum(values) / len(values))
    return sum(per_scale) / len(per_scale)


@pytest.mark.parametrize("holes", [False, True], ids=["full", "holes"])
@pytest.mark.parametrize("gradient", [0.0, 0.5])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_disp_ssi(form, gradient, holes):
    h, w = 24, 32
    disps = [rand(3, 1, h >> s, w >> s, seed=s).requires_grad_() for s in (0, 1, 2)]
    pseudo = 5 * rand(3, 1, h, w, seed=9) + 0.1
    if holes:
        pseudo = pseudo * (rand(3, 1, h, w, seed=10) > torch.tensor([0.1, 0.5, 0.8])[:, None, None, None])
    scene = random_scene(3, size=(h, w), dtype=torch.float64, disp=dict(enumerate(disps)), pseudo=pseudo)
    ours, _ = LOSSES.create("disp_ssi", form=form, gradient=gradient)(scene)
    agree(ours, disp_ssi(disps, pseudo, form, gradient), *disps)


# Consistency of two views: RA-Depth, arXiv:2207.11984; BDEdepth, arXiv:2309.05254


def ssim_l1(x, y):
    """0.85 SSIM + 0.15 L1 per pixel (1 1 h w); windows of 3x3, reflected borders."""

    def mean(z):
        return F.avg_pool2d(F.pad(z, (1, 1, 1, 1), mode="reflect"), 3, 1)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return 0.85 * ((1 - ssim) / 2).clamp(0, 1) + 0.15 * (x - y).abs()


def overlap(size, zoomed, origin):
    """Where a view enlarged to `zoomed`, cut at `origin`, lies in the plain one: x, y, width, height, rounded."""
    (w, h), (wr, hr), (x, y) = size, zoomed, origin
    return round(w * x / wr), round(h * y / hr), round(w * w / wr), round(h * h / hr)


def shrunk(disp, size):
    return F.interpolate(disp, size, mode="bilinear", align_corners=False)


def masked_mean(d, m):
    return (d * m).sum() / (m.sum() + 1e-7)


def c_high(high, plain, mask, box):
    """RA-Depth cuts the overlap out, whose borders SSIM then reflects."""
    x, y, w, h = box
    cut = (slice(None), slice(None), slice(y, y + h), slice(x, x + w))
    return masked_mean(ssim_l1(shrunk(high, (h, w)), plain[cut]), mask[cut])


def c_low(low, plain, mask, real):
    w, h = real
    return masked_mean(ssim_l1(shrunk(low[..., :h, :w], plain.shape[-2:]), plain), mask)


def silog(p, t):
    e = (p + 1e-8).log() - (t + 1e-8).log()
    return e.square().mean() - 0.5 * e.mean() ** 2


def to_depth(disp):
    return 1 / ((1 / 0.1 - 1 / 100) * disp + 1 / 100)


def s_crop(crop, plain, ratio, box):
    x, y, w, h = box
    return silog(ratio * to_depth(shrunk(crop, (h, w))), to_depth(plain[..., y : y + h, x : x + w]))


SIZE = (48, 36)  # w, h
WINDOWS = {  # windows that need no rounding: enlarged size, origin
    "high": [((96, 72), (20, 10)), ((72, 54), (24, 6)), ((64, 48), (16, 4))],
    "low": [((40, 26), (0, 0)), ((36, 25), (0, 0)), ((43, 32), (0, 0))],
    "crop": [((96, 72), (20, 10)), ((72, 54), (0, 18)), ((64, 48), (4, 12))],
}


def view_scene(name, windows, disp, plain, mask=None, factor=None):
    w, h = SIZE
    A = torch.stack([torch.from_numpy(Window(SIZE, zoomed, origin).A) for zoomed, origin in windows])
    rest = {"target": rand(len(disp), 3, h, w), "supports": None, "K": None, "Ts": None}
    other = Scene(**rest, disp={0: disp}, A=A, depth_factor=factor)
    return Scene(**rest, disp={0: plain}, others={name: other}, automask=mask)


def two_views():
    return [rand(3, 1, *reversed(SIZE), seed=i).requires_grad_() for i in (1, 2)]


def boxes(name):
    return [overlap(SIZE, zoomed, origin) for zoomed, origin in WINDOWS[name]]


def consistency(loss_name, use_automask, *scene, **options):
    loss = LOSSES.create("view_consistency", loss_name=loss_name, use_automask=use_automask)
    return loss(view_scene(*scene, **options))[0]


@pytest.mark.parametrize("masked", [False, True])
def test_consistency_with_a_reduced_view(masked):
    disp, plain = two_views()
    mask = rand(3, 1, *reversed(SIZE), seed=5) > 0.3 if masked else torch.ones_like(plain, dtype=torch.bool)
    ours = consistency("ssim", masked, "low", WINDOWS["low"], disp, plain, mask)
    items = zip(disp.split(1), plain.split(1), mask.double().split(1), WINDOWS["low"], strict=True)
    agree(ours, sum(c_low(low, mid, m, real) for low, mid, m, (real, _) in items) / 3, disp, plain)


@pytest.mark.parametrize("masked", [False, True])
def test_consistency_with_an_enlarged_view(masked):
    disp, plain = two_views()
    mask = rand(3, 1, *reversed(SIZE), seed=5) > 0.3 if masked else torch.ones_like(plain, dtype=torch.bool)
    ours = consistency("ssim", masked, "high", WINDOWS["high"], disp, plain, mask)
    items = list(zip(disp.split(1), plain.split(1), mask.double().split(1), boxes("high"), strict=True))
    agree(ours, sum(c_high(*item) for item in items) / 3, disp, plain)


def test_consistency_with_a_cropped_view():
    disp, plain = two_views()
    ratios = torch.tensor([2.0, 3 / 2, 4 / 3]).double()
    ours = consistency("silog", False, "crop", WINDOWS["crop"], disp, plain, factor=ratios)
    items = zip(disp.split(1), plain.split(1), ratios, boxes("crop"), strict=True)
    agree(ours, sum(s_crop(*item) for item in items) / 3, disp, plain)


def swapped(x, column, row):
    """One picture (... h w) cut at a column, its halves swapped, then at a row."""
    x = torch.cat([x[..., column:], x[..., :column]], -1)
    return torch.cat([x[..., row:, :], x[..., :row, :]], -2)


def put_back(x, column, row):
    h, w = x.shape[-2:]
    x = torch.cat([x[..., h - row :, :], x[..., : h - row, :]], -2)
    return torch.cat([x[..., w - column :], x[..., : w - column]], -1)


def test_consistency_with_a_permuted_view():
    disp, plain = two_views()
    cuts = torch.tensor([[5, 30], [24, 18], [47, 1]])
    restored = [put_back(x, *cut) for x, cut in zip(disp.split(1), cuts.tolist(), strict=True)]
    images = rand(3, 3, *reversed(SIZE), seed=8)
    for image, cut, ours in zip(images, cuts.tolist(), permuted(images, cuts), strict=True):
        assert torch.equal(ours, swapped(image, *cut))
        assert torch.equal(put_back(ours, *cut), image)
    assert torch.equal(permuted(disp, -cuts), torch.cat(restored))
    rest = {"target": images, "supports": None, "K": None, "Ts": None}
    other = Scene(**rest, disp={0: permuted(disp, -cuts)})
    scene = Scene(**rest, disp={0: plain}, others={"permute": other})
    ours, _ = LOSSES.create("view_consistency", loss_name="silog")(scene)
    values = [silog(to_depth(x), to_depth(y)) for x, y in zip(restored, plain.split(1), strict=True)]
    agree(ours, sum(values) / 3, disp, plain)


def test_the_mask_is_where_a_warped_support_is_best():
    scene = random_scene(3, supp_idxs=(-1, 1), scales=(0,), dtype=torch.float64)
    LOSSES.create("img_recon", use_min=True, use_automask=True, automask_noise=0.0)(scene)

    def error(image):
        return ssim_l1(image, scene.target).mean(1, keepdim=True)

    warped = torch.minimum(*(error(scene.warp(0, i)) for i in (0, 1)))
    still = torch.minimum(*(error(scene.support(i)) for i in (0, 1)))
    assert torch.equal(scene.automask, warped < still)
    assert 0.01 < scene.automask.double().mean() < 0.99


# Windows of RA-Depth and BDEdepth


@pytest.mark.parametrize("name", ["high", "low"])
def test_windows_and_intrinsics_of_zoomed_views(name):
    """Sizes are cut to whole pixels; K is in fractions of the zoomed size, and loses the origin."""
    low, high = {"high": (1.1, 2.0), "low": (0.7, 0.9)}[name]
    rng, (w, h) = np.random.default_rng(0), SIZE
    fractions = np.array([[0.58, 0, 0.5], [0, 1.92, 0.45], [0, 0, 1]])
    ratios, shifts = [], []
    for _ in range(200):
        window = draw({name: (low, high)}, SIZE, rng)[name]
        (wr, hr), (x, y) = window.zoomed, window.origin
        # One ratio gives both sides.
        first, last = max(low, wr / w, hr / h), min(high, (wr + 1) / w, (hr + 1) / h)
        assert first <= last
        ratios.append((first + last) / 2)
        assert 0 <= x <= max(wr - w, 0)
        assert 0 <= y <= max(hr - h, 0)
        shifts.append((x + 0.5) / (wr - w) if wr > w else 0.5)
        K = np.diag([wr, hr, 1]) @ fractions
        K[:2, 2] -= (x, y)
        np.testing.assert_allclose(window.A @ np.diag([w, h, 1]) @ fractions, K)
    assert abs(np.mean(ratios) - (low + high) / 2) < 0.1 * (high - low)
    assert abs(np.mean(shifts) - 0.5) < 0.1


def test_a_reduced_picture_goes_on_with_its_own_last_strips():
    (w, h), (wr, hr) = SIZE, (34, 27)
    picture = np.random.default_rng(0).integers(0, 256, (hr, wr, 3), dtype=np.uint8)
    canvas = np.empty((h, w, 3), np.uint8)
    canvas[:hr, :wr] = picture
    canvas[:hr, wr:] = picture[:, 2 * wr - w :]
    canvas[hr:, :wr] = picture[2 * hr - h :]
    canvas[hr:, wr:] = picture[2 * hr - h :, 2 * wr - w :]
    assert np.array_equal(Window(SIZE, (wr, hr)).cut(picture), canvas)


# Crops of many shapes: KBR, arXiv:2307.10713

RATIOS = (
    6 / 13,
    9 / 16,
    3 / 5,
    2 / 3,
    4 / 5,
    1,
    5 / 4,
    4 / 3,
    3 / 2,
    14 / 9,
    5 / 3,
    16 / 9,
    2,
    24 / 10,
    33 / 10,
    18 / 5,
)


def fitted(crop, reference, share):
    """Sides for a crop: of about the reference area, the nearest multiples of 32, then both less while too large."""
    area = reference[0] * reference[1]
    zoom = (area / (crop[0] * crop[1])) ** 0.5
    w, h = (32 * round(zoom * side / 32) for side in crop)
    while w * h > share * area:
        w, h = w - 32, h - 32
    return w, h


def candidates(side, low, high):
    return range(int(side * low), int(side * high))


@pytest.mark.parametrize("size", [(1280, 720), (1242, 376), (854, 480)])
def test_sizes_of_crops(size):
    ours, rng, (w, h) = AspectRatios(prob=0.7, min=0.5, max=1.0, ref_size=(640, 384)), np.random.default_rng(0), size
    possible = {(int(r * side), side) for r in RATIOS for side in candidates(h, 0.5, 1)}
    possible |= {(side, int(side / r)) for r in RATIOS for side in candidates(w, 0.5, 1)}
    drawn = [ours.draw(rng, size) for _ in range(300)]
    crops = [crop for crop in drawn if crop is not None]
    assert abs(len(crops) / 300 - 0.7) < 0.1
    for crop in crops:
        assert crop in possible
        assert crop[0] <= w
        assert crop[1] <= h
        assert ours.fitted(crop, 0.8) == fitted(crop, (640, 384), 0.8)
    assert ours.fitted(size) == fitted(size, (640, 384), 1.0)


def test_intrinsics_of_crop_and_resize():
    (w, h), (w_crop, h_crop), (w_new, h_new) = (101, 80), (60, 57), (96, 64)
    K = torch.tensor([[70.0, 0, 48], [0, 75, 43], [0, 0, 1]]).double()
    batch = {"target": rand(1, 3, h, w).float(), "supports": rand(1, 2, 3, h, w).float(), "K": K[None]}
    ours = reshaped(batch, (w_crop, h_crop), (w_new, h_new))
    x, y = (w - w_crop) // 2, (h - h_crop) // 2
    expected = K.clone()
    expected[0, 2] -= x
    expected[1, 2] -= y
    expected[0] *= w_new / w_crop
    expected[1] *= h_new / h_crop
    torch.testing.assert_close(ours["K"][0].double(), expected)
    cut = batch["target"][..., y : y + h_crop, x : x + w_crop]
    resized = F.interpolate(cut, (h_new, w_new), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours["target"], resized)
