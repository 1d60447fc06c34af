"""Image reconstruction: warp, compare, keep the best, leave out what does not move."""

from dataclasses import replace

import pytest
import torch

from tests.losses.scenes import SIZE, plane_scene, random_scene, stereo_scene
from trainer.geometry.scene import Scene
from trainer.losses import LOSSES
from trainer.losses._photometric import ERRORS
from trainer.losses.reconstruction import automasked, lower


def img_recon(**kwargs):
    return LOSSES.create("img_recon", **{"automask_noise": 0.0, **kwargs})


def test_the_true_depth_and_motion_explain_the_picture():
    torch.manual_seed(0)
    scene = plane_scene(2.0)
    loss, pictures = img_recon(loss_name="l1")(scene)
    error = (pictures["imgs_warp/supp_1"] - scene.target).abs()
    assert error[..., :-2].max() < 1e-9  # two columns left the picture
    assert loss.item() == pytest.approx(error.mean().item())


def test_automask_keeps_nothing_of_a_still_video():
    torch.manual_seed(0)
    scene = plane_scene(0.0, Ts=plane_scene(2.0).Ts)  # support == target, but the network believes in motion
    loss, pictures = img_recon(use_automask=True)(scene)
    assert not pictures["masks/automask"].any()
    assert loss.item() == pytest.approx(0, abs=1e-9)


def test_automask_keeps_all_where_the_warped_picture_is_better():
    torch.manual_seed(0)
    target = torch.rand(1, 3, *SIZE).double()
    target[..., -2:] = 0.0  # so that the border that leaves the picture is black in both
    _, pictures = img_recon(use_automask=True, loss_name="l1")(plane_scene(2.0, target=target))
    assert pictures["masks/automask"][..., :-2].all()


def test_an_exact_tie_keeps_the_warped_picture():
    black = torch.zeros(1, 1, 3, *SIZE).double()  # warped or not, a black support is the same
    _, pictures = img_recon(use_automask=True)(plane_scene(2.0, supports=black))
    assert pictures["masks/automask"].all()


def test_a_tie_gives_its_gradient_to_the_first():
    a, b = torch.tensor([1.0, 2.0, 3.0]).requires_grad_(), torch.tensor([1.0, 5.0, 0.0]).requires_grad_()
    lower(a, b).sum().backward()
    assert a.grad.tolist() == [1, 1, 0]
    assert b.grad.tolist() == [0, 0, 1]


def test_noise_breaks_ties_and_does_not_move_the_mean():
    scene = plane_scene(2.0, supports=torch.zeros(1, 1, 3, *SIZE).double())  # ties everywhere
    torch.manual_seed(0)
    noisy, pictures = img_recon(use_automask=True, automask_noise=1e-7)(scene)
    kept = pictures["masks/automask"].double().mean().item()
    assert 0.3 < kept < 0.7
    assert noisy.item() == pytest.approx(img_recon()(scene)[0].item(), abs=1e-6)


def test_without_noise_a_step_is_a_function_of_the_scene():
    loss = img_recon(use_automask=True, use_min=True)
    torch.manual_seed(0)
    first = loss(random_scene())[0]
    assert torch.equal(first, loss(random_scene())[0])
    noisy = img_recon(use_automask=True, automask_noise=1e-2)
    assert not torch.equal(noisy(random_scene())[0], noisy(random_scene())[0])


def test_a_mask_of_ones_explains_everything_and_of_zeros_nothing():
    ones = {0: torch.ones(2, 2, *SIZE)}
    plain = img_recon()(random_scene(scales=(0,)))[0]
    assert torch.allclose(img_recon(mask_name="explainability")(random_scene(scales=(0,), mask=ones))[0], plain)
    zeros = {0: torch.zeros(2, 2, *SIZE)}
    assert img_recon(mask_name="explainability")(random_scene(scales=(0,), mask=zeros))[0] == 0
    assert torch.allclose(img_recon(mask_name="uncertainty")(random_scene(scales=(0,), mask=zeros))[0], plain)


def test_static_pixels_teach_nothing_but_stay_in_the_mean():
    disp = torch.full((1, 1, *SIZE), 0.5).double().requires_grad_()
    target = torch.rand(1, 3, *SIZE).double()
    scene = plane_scene(2.0)
    scene = Scene(target, 0.9 * target.unsqueeze(1), scene.K, scene.Ts, {0: disp}, supp_idxs=(1,))
    loss, pictures = img_recon(loss_name="l1", use_automask=True)(scene)
    static = ~pictures["masks/automask"][:, 0]
    (grad,) = torch.autograd.grad(loss, disp)
    assert (grad[:, 0][static] == 0).all()
    still = ERRORS["l1"](target)(0.9 * target)
    warped = ERRORS["l1"](target)(pictures["imgs_warp/supp_1"])
    assert loss.item() == pytest.approx(torch.minimum(still, warped).mean().item())


def test_automask_below_waits_image_by_image_until_warps_are_better():
    error = torch.tensor([[1.0, 3.0], [1.0, 1.5], [0.2, 0.4]]).view(3, 1, 1, 2).requires_grad_()  # of warped supports
    still = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 0.1]]).view(3, 1, 1, 2)
    # Means 2.0, 1.25 and 0.3 against 1.5, 1.5 and 1.05: worse, better, and less than half.
    for below, expected in (
        (None, [[1, 1], [1, 1], [0.2, 0.1]]),
        (1.0, [[1, 3], [1, 1], [0.2, 0.1]]),
        (0.5, [[1, 3], [1, 1.5], [0.2, 0.1]]),
    ):
        masked, kept = automasked(error, still, below)
        assert masked.flatten(1).tolist() == [pytest.approx(row) for row in expected]
        (grad,) = torch.autograd.grad(masked.sum(), error)
        assert torch.equal(grad.bool(), kept)


@pytest.mark.parametrize(("below", "learns"), [(None, False), (1.0, True)])
def test_a_picture_that_warps_only_spoil_teaches_all_the_same_with_automask_below(below, learns):
    torch.manual_seed(0)
    target = torch.rand(1, 3, *SIZE).double()
    scene = plane_scene(2.0)
    disp = torch.full((1, 1, *SIZE), 0.5).double().requires_grad_()
    scene = Scene(target, 0.95 * target.unsqueeze(1), scene.K, scene.Ts, {0: disp}, supp_idxs=(1,))
    loss, pictures = img_recon(use_automask=True, automask_below=below)(scene)
    kept = pictures["masks/automask"].double().mean()
    (grad,) = torch.autograd.grad(loss, disp)
    assert (kept == 1) == learns
    assert ((grad != 0).double().mean() > 0.7) == learns  # the warps leave the picture on the right


@pytest.mark.parametrize("below", [None, 0.9, 1.0])
def test_the_formula_of_all_scales_masks_as_piece_by_piece(below):
    loss = img_recon(use_automask=True, use_min=True, automask_below=below)
    (value, drawn), (expected, pictures) = (
        loss(replace(random_scene(), fused=runner)) for runner in (lambda formula, *args: formula(*args), None)
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(drawn["masks/automask"], pictures["masks/automask"])


def test_pictures_have_no_graph():
    disp = {0: torch.rand(2, 1, *SIZE, requires_grad=True)}
    _, pictures = img_recon(use_automask=True)(random_scene(disp=disp))
    assert set(pictures) == {"masks/automask", "imgs_warp/supp_-1", "imgs_warp/supp_1"}
    assert not any(picture.requires_grad for picture in pictures.values())
    assert pictures["masks/automask"].dtype == torch.bool


def test_needs_a_mask_only_when_one_is_named():
    assert img_recon().needs == {"supports"}
    assert img_recon(mask_name="uncertainty").needs == {"supports", "mask"}
    with pytest.raises(ValueError, match=r"net\.depth\.mask_name"):
        img_recon(mask_name="uncertainty")(random_scene())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss_name": "sim"}, "Did you mean 'ssim'"),
        ({"mask_name": "explain"}, "Did you mean 'explainability'"),
        ({"automask_noise": -1.0}, "-1.0"),
        ({"automask_below": 0.0}, r"automask_below must lie in \(0, 1\], or be null, got 0.0"),
    ],
)
def test_wrong_options_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        img_recon(**kwargs)


def plainly(formula, *args):
    return formula(*args)


def results(scene: Scene, loss) -> list[torch.Tensor]:
    """Loss, pictures and gradients of a scene and its twin."""
    leaves = [scene.Ts, *scene.disp.values(), *(scene.mask or {}).values(), *(scene.disp_stereo or {}).values()]
    for leaf in leaves:
        leaf.requires_grad_()
    torch.manual_seed(0)
    drawn = [loss(view) for view in scene.views]
    total = sum(value for value, _ in drawn) + scene.fault() + scene.depth(1).mean() + scene.warp(1, 0).mean()
    pictures = [picture.double() for _, named in drawn for _, picture in sorted(named.items())]
    return [total.detach(), *pictures, *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize(
    ("name", "mask_name"), [("l1", None), ("l2", "uncertainty"), ("ssim", None), ("ssim", "explainability")]
)
@pytest.mark.parametrize("make", [random_scene, stereo_scene])
def test_the_formula_over_all_supports_and_scales_is_the_same_function(name, mask_name, make):
    """In float64, values and gradients, to the rounding of sums in another order."""
    for use_min, use_automask, legacy in ((True, True, False), (False, False, True), (False, True, False)):
        noisy = {"use_min": use_min, "use_automask": use_automask, "automask_noise": 1e-2}
        loss = img_recon(loss_name=name, mask_name=mask_name, **noisy)

        def scene(fused, legacy=legacy):
            masks = {s: torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s).double() for s in (0, 1)}
            given = {"mask": masks if mask_name else None, "legacy_sampling": legacy, "fused": fused}
            torch.manual_seed(1)
            return make(scales=(0, 1), dtype=torch.float64, **given)

        torch.manual_seed(2)
        expected = results(scene(None), loss)
        torch.manual_seed(2)
        for a, b in zip(expected, results(scene(plainly), loss), strict=True):
            assert (a - b).abs().max() <= 1e-10


@pytest.mark.parametrize("fused", [None, plainly])
def test_a_point_that_is_not_finite_is_a_fault_in_both_forms(fused):
    disp = {0: torch.full((2, 1, *SIZE), torch.nan)}
    scene = random_scene(scales=(0,), disp=disp, fused=fused)
    scene.warp(0, 0)
    assert scene.fault().isnan()
    sound = random_scene(scales=(0,), fused=fused)
    sound.warp(0, 0)
    assert sound.fault() == 0


def test_points_behind_the_camera_have_the_same_gradient():
    """Of the division by at least 0.1."""
    Ts = random_scene(dtype=torch.float64).Ts
    Ts[..., 2, 3] = -0.12
    found = []
    for fused in (None, plainly):
        scene = random_scene(dtype=torch.float64, scales=(0, 1), Ts=Ts.clone(), max_depth=0.3, fused=fused)
        found.append(results(scene, img_recon()))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-10
