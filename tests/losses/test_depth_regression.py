"""Depth regression: predicted depth against hints."""

import numpy as np
import pytest
import torch

from tests.losses.scenes import SIZE, plane_scene, random_scene, stereo_scene
from trainer.geometry import depth_to_disp
from trainer.losses import LOSSES

NAMES = ["berhu", "l1", "log_l1"]


def depth_regr(photometric=None, **kwargs):
    loss = LOSSES.create("depth_regr", **kwargs)
    if photometric is not None:
        loss.photometric = LOSSES.create("img_recon", **photometric)
    return loss


def hints(b=2, seed=4):
    """Depth of 0.5 to 2.5, none in a third of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    depth = 0.5 + 2 * torch.rand(b, 1, *SIZE, generator=generator, dtype=torch.float64)
    return depth * (torch.rand(depth.shape, generator=generator) > 0.33)


def hinted_scene(b=2, **changes):
    return random_scene(b, dtype=torch.float64, **{"depth_hints": hints(b), **changes})


def plane_at(depth, hint, **changes):
    disp = {
        s: torch.full((1, 1, SIZE[0] >> s, SIZE[1] >> s), float(depth_to_disp(torch.tensor(depth)))) for s in (0, 1)
    }
    return random_scene(1, disp=disp, depth_hints=hint * torch.ones(1, 1, *SIZE), **changes)


def test_hints_equal_to_the_prediction_cost_nothing():
    for name in NAMES:
        for invert in (False, True):
            loss = depth_regr(loss_name=name, invert=invert)(plane_at(10.0, 10.0))[0]
            assert loss.item() == pytest.approx(0, abs=1e-5)


def test_a_plane_at_10_with_hints_of_8():
    scene = plane_at(10.0, 8.0)
    assert depth_regr(loss_name="l1")(scene)[0].item() == pytest.approx(2, rel=1e-5)
    assert depth_regr(loss_name="log_l1")(scene)[0].item() == pytest.approx(np.log(3), rel=1e-5)
    # All differences are the largest one: c = 0.4, (4 + 0.16) / 0.8.
    assert depth_regr()(scene)[0].item() == pytest.approx(5.2, rel=1e-5)
    assert depth_regr(loss_name="l1", invert=True)(scene)[0].item() == pytest.approx(1 / 8 - 1 / 10, rel=1e-5)


def test_half_the_hints_are_a_mean_over_half_the_pixels():
    scene = plane_at(10.0, 8.0)
    scene.depth_hints[..., ::2] = 0
    loss, pictures = depth_regr(loss_name="l1")(scene)
    assert loss.item() == pytest.approx(2, rel=1e-5)
    assert pictures["masks/hints"].float().mean() == 0.5
    assert torch.equal(pictures["masks/hints"], scene.depth_hints > 0)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_without_hints_in_the_pictures_the_value_is_0_and_teaches_nothing(name, invert):
    disp = {0: torch.rand(2, 1, *SIZE).requires_grad_()}
    scene = random_scene(disp=disp, depth_hints=torch.zeros(2, 1, *SIZE))
    loss = depth_regr({}, loss_name=name, invert=invert, use_automask=True)(scene)[0]
    loss.backward()
    assert loss == 0
    assert (disp[0].grad == 0).all()


@pytest.mark.parametrize("nothing", [np.nan, np.inf, 3e38, 1e-30, -1.0])
@pytest.mark.parametrize("use_automask", [False, True])
def test_a_hint_that_is_no_measurement_is_none(nothing, use_automask):
    loss = depth_regr({"loss_name": "l1"}, use_automask=use_automask)
    gaps = hints()
    expected, _ = loss(hinted_scene(depth_hints=gaps))
    assert expected > 0
    assert loss(hinted_scene(depth_hints=torch.where(gaps > 0, gaps, nothing)))[0] == expected


def test_the_automask_believes_a_right_hint_and_not_a_wrong_one():
    """The picture moves by two pixels at the true depth. Who is right explains it."""
    torch.manual_seed(0)
    truth = plane_scene(2.0)
    right, wrong = truth.depth(0), truth.depth(0) * 2  # one pixel
    inner = (..., slice(1, -3))  # away from where the picture ends
    mistaken = plane_scene(2.0, depth_hints=right, disp={0: depth_to_disp(wrong)})
    loss, pictures = depth_regr({"loss_name": "l1"}, loss_name="l1", use_automask=True)(mistaken)
    assert pictures["masks/hints"][inner].all()
    assert loss.item() == pytest.approx((wrong - right).mean().item())
    misled = plane_scene(2.0, depth_hints=wrong)
    _, pictures = depth_regr({"loss_name": "l1"}, use_automask=True)(misled)
    assert not pictures["masks/hints"][inner].any()


def test_a_hint_as_good_as_the_prediction_is_not_needed():
    truth = plane_scene(2.0)
    loss, pictures = depth_regr({}, use_automask=True)(plane_scene(2.0, depth_hints=truth.depth(0)))
    assert not pictures["masks/hints"].any()
    assert loss == 0


@pytest.mark.parametrize("use_automask", [False, True])
def test_hints_do_not_learn(use_automask):
    disp = {0: random_scene(dtype=torch.float64).disp[0].requires_grad_()}
    target = hints().requires_grad_()
    scene = hinted_scene(disp=disp, depth_hints=target)
    depth_regr({}, use_automask=use_automask)(scene)[0].backward()
    assert target.grad is None
    assert disp[0].grad.abs().sum() > 0


@pytest.mark.parametrize("order", [("depth_regr", "img_recon"), ("img_recon", "depth_regr")])
def test_the_comparison_teaches_nothing_and_spoils_nothing_that_the_scene_keeps(order):
    """With no valid hint the automask compares for nothing, and the gradient is that of `img_recon` alone."""
    gradients = []
    for names in (("img_recon",), order):
        Ts = random_scene(dtype=torch.float64).Ts.requires_grad_()
        disp = {0: random_scene(dtype=torch.float64).disp[0].requires_grad_()}
        scene = random_scene(dtype=torch.float64, disp=disp, Ts=Ts, depth_hints=torch.zeros(2, 1, *SIZE).double())
        img_recon = LOSSES.create("img_recon")
        losses = {"img_recon": img_recon, "depth_regr": depth_regr({}, use_automask=True)}
        sum(losses[name](scene)[0] for name in names).backward()
        gradients.append((disp[0].grad, Ts.grad))
        assert scene.warp(0, 0).requires_grad
        assert scene.projection(0).requires_grad
    for alone, together in zip(*gradients, strict=True):
        assert torch.equal(alone, together)
        assert alone.abs().sum() > 0


def test_only_the_target_view_has_hints():
    loss = depth_regr(loss_name="l1")
    assert not loss.on_twin
    both = stereo_scene(depth_hints=hints())
    alone = stereo_scene(depth_hints=hints(), disp_stereo=None)
    assert torch.equal(loss(both)[0], loss(alone)[0])


def test_needs_the_photometric_error_only_with_the_automask():
    kind = LOSSES.get("depth_regr")
    assert depth_regr().needs == kind.needs_with({}) == kind.needs == {"hints"}
    wanted = {"hints", "supports", "img_recon"}
    assert depth_regr(use_automask=True).needs == kind.needs_with({"use_automask": True}) == wanted
    with pytest.raises(ValueError, match=r"add loss\.img_recon"):
        depth_regr(use_automask=True)(hinted_scene())


def test_a_scene_without_hints_says_what_to_set():
    with pytest.raises(ValueError, match=r"dataset\.use_hints: true"):
        depth_regr()(random_scene())
