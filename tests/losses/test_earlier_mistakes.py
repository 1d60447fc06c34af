"""Mistakes of earlier benchmark code (arXiv:2208.01489): a test makes the mistake, and shows that ours does not."""

import pytest
import torch

from tests.benchmark.observation import resize, synthesise
from tests.losses.scenes import SIZE, plane_scene, random_features, random_scene, stereo_scene
from tests.losses.test_agreement import step_of
from tests.losses.test_stereo_consistency import two_planes
from trainer.geometry import ViewSynthesis
from trainer.losses import LOSSES
from trainer.losses._photometric import ERRORS
from trainer.losses._regression import criterion


def still(**changes):
    """A camera that does not move, and equal features: nothing differs."""
    feats, _ = random_features(1, 1)
    extras = {"depth_feats": feats, "supp_depth_feats": [feat.unsqueeze(1) for feat in feats]}
    torch.manual_seed(0)
    return plane_scene(extras=extras, **changes)


@pytest.mark.parametrize("name", ["img_recon", "feat_recon"])
def test_sampling_moved_the_picture_of_a_still_camera(name):
    assert LOSSES.create(name, loss_name="l1")(still())[0].item() == pytest.approx(0, abs=1e-12)
    scene = still(legacy_sampling=True)
    target = scene.target if name == "img_recon" else scene.feats[-4]
    image = resize(target, SIZE)
    moved = synthesise(image, scene.depth(0), torch.eye(4).double()[None], scene.K, align_corners=False)
    wrong = (image - moved).abs().mean().item()
    assert wrong > 0.01
    assert LOSSES.create(name, loss_name="l1")(scene)[0].item() == pytest.approx(wrong, rel=1e-6)


def test_sampling_moved_disparities_too():
    disp = {0: torch.linspace(0.1, 0.9, SIZE[1]).double().expand(1, 1, *SIZE).clone()}
    eye = torch.eye(4).double()[None]
    ours, legacy = (
        stereo_scene(b=1, supp_idxs=(0,), disp=disp, disp_stereo=disp, T_stereo=eye, legacy_sampling=flag)
        for flag in (False, True)
    )
    assert LOSSES.create("stereo_const", loss_name="l1")(ours)[0].item() == pytest.approx(0, abs=1e-12)
    assert LOSSES.create("stereo_const", loss_name="l1")(legacy)[0] > 0.005


def test_stereo_consistency_compared_each_map_with_itself():
    """True disparities must beat those with the front moved the wrong way; by the wrong pairs they lose."""

    def both(scene):
        view, virtual = step_of(scene).view, step_of(scene).virtual
        here = view.warp(virtual.disps[0], view.depths[0], scene.T_stereo)
        there = virtual.warp(view.disps[0], virtual.depths[0], virtual.Ts[0])
        wrong = (virtual.disps[0] - here).abs().mean() + (view.disps[0] - there).abs().mean()
        return LOSSES.create("stereo_const", loss_name="l1")(scene)[0].item(), wrong.item() / 2

    (ours, wrong), (ours_off, wrong_off) = both(two_planes()), both(two_planes(right=(10, 13)))
    assert (ours, wrong) == (pytest.approx(2 / 16 * 2 / 9.6), pytest.approx(4 / 16 * 2 / 9.6))
    assert ours < ours_off
    assert wrong > wrong_off


def test_berhu_took_its_threshold_from_pixels_without_a_hint():
    """A depth of 10 where nothing is known made the threshold 2, below which all known differences were linear."""
    depth, hint = torch.tensor([10.0, 3.0, 3.5]).double(), torch.tensor([0.0, 2.0, 3.0]).double()
    d = (depth - hint).abs()
    assert (d[1:] < 0.2 * d.max()).all()
    right = ((1 + 0.04) / 0.4 + (0.25 + 0.04) / 0.4) / 2
    assert criterion("berhu")(depth, hint, hint > 0).item() == pytest.approx(right)


def test_berhu_let_its_threshold_learn():
    """(d**2 + c**2) / 2c with c = d / 5 is 2.6 d, of slope 2.6 when c moves with d; held, the slope is d / c = 5."""
    depth = torch.tensor([3.0, 3.0]).double().requires_grad_()
    d = depth - 2
    c = 0.2 * d.max()
    (wrong,) = torch.autograd.grad(((d**2 + c**2) / (2 * c)).mean(), depth)
    (right,) = torch.autograd.grad(criterion("berhu")(depth, torch.full_like(depth, 2)), depth)
    assert wrong.sum().item() == pytest.approx(2.6)
    assert right.sum().item() == pytest.approx(5)


def test_regression_without_valid_pixels_was_not_a_number():
    disp = {0: torch.rand(1, 1, *SIZE).requires_grad_()}
    scene = random_scene(1, disp=disp, depth_hints=torch.zeros(1, 1, *SIZE))
    valid = scene.depth_hints > 0
    assert ((scene.depth(0) - scene.depth_hints).abs() * valid).sum().div(valid.sum()).isnan()
    value = LOSSES.create("depth_regr")(scene)[0]
    value.backward()
    assert value == 0
    assert (disp[0].grad == 0).all()


def test_points_behind_the_camera_counted_as_seen():
    """A plane at 1 and a camera that went 2 ahead: the plane is behind it, but is still divided by 0.1 and drawn."""
    K = torch.tensor([[[10.0, 0.0, 8.0], [0.0, 10.0, 4.0], [0.0, 0.0, 1.0]]]).double()
    T = torch.eye(4).double()[None].clone()
    # K Y of pixel (8, 4) is (8.5 - 8, 4.3 - 4, -1): drawn at (5, 3).
    T[0, :3, 3] = torch.tensor([0.85, 0.43, -2.0], dtype=torch.float64)
    image, depth = torch.rand(1, 1, *SIZE).double(), torch.ones(1, 1, *SIZE).double()
    view = ViewSynthesis(K, SIZE).view(image, depth, T)
    assert view.image[0, 0, 4, 8].item() == pytest.approx(image[0, 0, 3, 5].item())  # which images keep doing
    x, y = 2 * 5 / (SIZE[1] - 1) - 1, 2 * 3 / (SIZE[0] - 1) - 1
    assert abs(x) < 1  # and so it was seen, if that is all that is asked
    assert abs(y) < 1
    assert not view.valid.any()


@pytest.mark.parametrize("supp_idxs", [(-1, 0), (-1, 0, 1), (-1, 1, 0)])
def test_the_stereo_image_was_always_the_first_support(supp_idxs):
    scene = stereo_scene(supp_idxs=supp_idxs)
    ours = LOSSES.create("img_recon")(scene.stereo_twin())[0].item()
    i_stereo = supp_idxs.index(0)
    for i, agrees in ((i_stereo, True), (0, False)):
        alone = stereo_scene(supp_idxs=(0,), target=scene.target, supports=scene.supports[:, i : i + 1])
        value = LOSSES.create("img_recon")(alone.stereo_twin())[0].item()
        assert (value == pytest.approx(ours, rel=1e-9)) == agrees


def hinted_scene(**changes):
    generator = torch.Generator().manual_seed(5)
    depth_hints = 0.5 + torch.rand(2, 1, *SIZE, generator=generator, dtype=torch.float64)
    return random_scene(dtype=torch.float64, depth_hints=depth_hints, **changes)


def test_hints_asked_for_image_reconstruction_even_without_an_automask():
    losses = {"depth_regr": LOSSES.create("depth_regr")}
    with pytest.raises(KeyError, match="img_recon"):
        losses["img_recon"]
    assert losses["depth_regr"](hinted_scene())[0].isfinite()
    assert "img_recon" not in losses["depth_regr"].needs


@pytest.mark.parametrize("mask_name", ["explainability", "uncertainty"])
def test_hints_failed_beside_a_mask(mask_name):
    """The photometric error was asked as `img_recon` asks it, which wants a mask, but was given none."""
    photometric = LOSSES.create("img_recon", mask_name=mask_name)
    with pytest.raises(ValueError, match="no mask was predicted"):
        photometric.mask_of(hinted_scene(), 0)
    masked, plain = (LOSSES.create("depth_regr", use_automask=True) for _ in range(2))
    masked.photometric, plain.photometric = photometric, LOSSES.create("img_recon")
    mask = {s: torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s).double() for s in (0, 1, 2)}
    expected = plain(hinted_scene())[0]
    assert expected > 0
    assert torch.equal(masked(hinted_scene(mask=mask))[0], expected)


@pytest.mark.parametrize("mask_name", ["explainability", "uncertainty"])
def test_a_mask_and_a_virtual_view_failed_together(mask_name):
    mask = {s: torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s).double() for s in (0, 1)}
    twin = stereo_scene(mask=mask).stereo_twin()
    loss = LOSSES.create("img_recon", mask_name=mask_name)
    twin.is_virtual = False
    with pytest.raises(ValueError, match="no mask was predicted"):
        loss(twin)
    twin.is_virtual = True
    assert torch.equal(loss(twin)[0], LOSSES.create("img_recon")(twin)[0])


@pytest.mark.parametrize("name", ["img_recon", "feat_recon"])
def test_a_mask_multiplied_in_place_broke_the_gradient_of_l2(name):
    p = torch.rand(1, 3, *SIZE).requires_grad_()
    error = ERRORS["l2"](torch.rand(1, 3, *SIZE))(p)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        error.mul_(torch.rand(1, 1, *SIZE)).mean().backward()
    feats, supp_feats = random_features()
    mask = {s: torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s).double().requires_grad_() for s in (0, 1, 2)}
    scene = random_scene(dtype=torch.float64, mask=mask, extras={"depth_feats": feats, "supp_depth_feats": supp_feats})
    LOSSES.create(name, loss_name="l2", mask_name="explainability")(scene)[0].backward()
    assert (mask[0].grad > 0).all()
