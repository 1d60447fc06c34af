"""Image reconstruction: warp, compare, keep the best, leave out what does not move."""

import pytest
import torch

from tests.losses import reference
from tests.losses.scenes import SIZE, plane_scene, random_scene
from trainer.geometry.scene import Scene
from trainer.losses import LOSSES
from trainer.losses._photometric import ERRORS
from trainer.losses.reconstruction import lower


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


@pytest.mark.parametrize("name", ["ssim", "l1", "l2"])
@pytest.mark.parametrize("use_min", [False, True])
@pytest.mark.parametrize("use_automask", [False, True])
def test_agrees_with_the_slow_reference(name, use_min, use_automask):
    scene = random_scene(dtype=torch.float64)
    ours = img_recon(loss_name=name, use_min=use_min, use_automask=use_automask)(scene)[0].item()
    assert ours == pytest.approx(
        by_reference(scene, name=name, use_min=use_min, automask=use_automask), rel=1e-6
    )


@pytest.mark.parametrize("mask_name", ["explainability", "uncertainty"])
@pytest.mark.parametrize("use_automask", [False, True])
def test_masks_weigh_each_support_before_the_minimum(mask_name, use_automask):
    torch.manual_seed(3)
    mask = {s: torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s).double() for s in (0, 1, 2)}
    scene = random_scene(dtype=torch.float64, mask=mask)
    ours = img_recon(mask_name=mask_name, use_min=True, use_automask=use_automask)(scene)[0].item()
    expected = by_reference(scene, use_min=True, automask=use_automask, mask_name=mask_name)
    assert ours == pytest.approx(expected, rel=1e-6)


def by_reference(scene, **options):
    values = []
    for item in range(len(scene.target)):
        masks = None if scene.mask is None else {s: m[item].numpy() for s, m in scene.mask.items()}
        values.append(
            reference.reconstruction(
                scene.target[item].numpy(),
                scene.supports[item].numpy(),
                scene.K[item].numpy(),
                scene.Ts[item].numpy(),
                {s: d[item, 0].numpy() for s, d in scene.disp.items()},
                masks=masks,
                **options,
            )
        )
    return sum(values) / len(values)


def test_a_mask_of_ones_explains_everything_and_of_zeros_nothing():
    ones = {0: torch.ones(2, 2, *SIZE)}
    plain = img_recon()(random_scene(scales=(0,)))[0]
    assert torch.allclose(
        img_recon(mask_name="explainability")(random_scene(scales=(0,), mask=ones))[0], plain
    )
    zeros = {0: torch.zeros(2, 2, *SIZE)}
    assert img_recon(mask_name="explainability")(random_scene(scales=(0,), mask=zeros))[0] == 0
    assert torch.allclose(img_recon(mask_name="uncertainty")(random_scene(scales=(0,), mask=zeros))[0], plain)


@pytest.mark.parametrize("name", ["ssim", "l1", "l2"])
def test_masks_learn_under_every_error(name):
    mask = {0: torch.full((2, 2, *SIZE), 0.5, requires_grad=True)}
    img_recon(loss_name=name, mask_name="explainability")(random_scene(scales=(0,), mask=mask))[0].backward()
    assert (mask[0].grad > 0).all()  # a smaller mask always lowers the error: hence `disp_mask`


def test_every_scale_counts_the_same():
    together = img_recon()(random_scene(dtype=torch.float64))[0]
    disp = random_scene(dtype=torch.float64).disp
    alone = [img_recon()(random_scene(dtype=torch.float64, disp={0: disp[0]}))[0]]
    for s in (1, 2):
        scene = random_scene(dtype=torch.float64, disp={0: disp[s]})  # the size tells how much to upsample
        alone.append(img_recon()(scene)[0])
    assert together.item() == pytest.approx(sum(a.item() for a in alone) / 3)


def test_gradients_reach_every_disparity_and_pose_exactly():
    base = random_scene(b=1, dtype=torch.float64, scales=(0, 1), size=(4, 6))
    disp0, disp1, Ts = (x.detach().requires_grad_() for x in (base.disp[0], base.disp[1], base.Ts))

    def value(disp0, disp1, Ts):
        scene = random_scene(b=1, dtype=torch.float64, size=(4, 6), disp={0: disp0, 1: disp1}, Ts=Ts)
        return img_recon(use_min=True, use_automask=True)(scene)[0]

    assert torch.autograd.gradcheck(value, (disp0, disp1, Ts))


def test_static_pixels_teach_nothing_but_stay_in_the_mean():
    disp = torch.full((1, 1, *SIZE), 0.5).double().requires_grad_()
    target = torch.rand(1, 3, *SIZE).double()
    scene = plane_scene(2.0)
    scene = Scene(target, 0.9 * target.unsqueeze(1), scene.K, scene.Ts, {0: disp}, supp_idxs=(1,))
    loss, pictures = img_recon(loss_name="l1", use_automask=True)(scene)
    static = ~pictures["masks/automask"][:, 0]
    (grad,) = torch.autograd.grad(loss, disp)
    assert (grad[:, 0][static] == 0).all()
    still = ERRORS["l1"]().against(target)(0.9 * target)
    warped = ERRORS["l1"]().against(target)(pictures["imgs_warp/supp_1"])
    assert loss.item() == pytest.approx(torch.minimum(still, warped).mean().item())


def test_black_images_have_finite_gradients():
    disp = {0: torch.full((1, 1, *SIZE), 0.5, requires_grad=True)}
    black = torch.zeros(1, 2, 3, *SIZE)
    for name in ERRORS:
        scene = random_scene(b=1, target=black[:, 0], supports=black, disp=disp)
        img_recon(loss_name=name, use_min=True, use_automask=True)(scene)[0].backward()
        assert disp[0].grad.isfinite().all()


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
    ],
)
def test_wrong_options_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        img_recon(**kwargs)


def test_has_no_state():
    assert not img_recon(use_automask=True, mask_name="uncertainty").state_dict()
