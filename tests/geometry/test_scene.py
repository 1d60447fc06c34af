"""The scene: what is computed once, and the view of the virtual stereo camera."""

import pytest
import torch

from tests.losses.scenes import SIZE, random_scene, stereo_scene
from trainer.geometry import disp_to_depth, invert_pose
from trainer.geometry.scene import Scene, resize
from trainer.losses import LOSSES


def test_scales_are_ascending_and_zero_must_be_there():
    disp = random_scene().disp
    assert random_scene(disp={2: disp[2], 0: disp[0], 1: disp[1]}).scales == (0, 1, 2)
    with pytest.raises(ValueError, match=r"net\.depth\.out_scales"):
        random_scene(disp={1: disp[1]})


def test_depth_is_that_of_the_upsampled_disparity_and_computed_once():
    scene = random_scene()
    assert scene.depth(2).shape == (2, 1, *SIZE)
    assert scene.depth(2) is scene.depth(2)
    assert torch.equal(scene.depth(2), disp_to_depth(resize(scene.disp[2], SIZE)))
    assert torch.equal(scene.depth(0), disp_to_depth(scene.disp[0]))


def test_warps_are_computed_once_per_scale_and_support():
    scene = random_scene()
    assert scene.warp(1, 0) is scene.warp(1, 0)
    assert not torch.equal(scene.warp(1, 0), scene.warp(0, 0))
    assert not torch.equal(scene.warp(1, 0), scene.warp(1, 1))


def test_legacy_sampling_reaches_the_warp():
    assert not torch.equal(random_scene().warp(0, 0), random_scene(legacy_sampling=True).warp(0, 0))


def test_half_precision_predictions_are_widened():
    disp = {0: torch.rand(2, 1, *SIZE, dtype=torch.bfloat16)}
    scene = random_scene(disp=disp)
    assert scene.disp[0].dtype == scene.depth(0).dtype == scene.warp(0, 0).dtype == torch.float32


def test_masks_are_upsampled():
    scene = random_scene(mask={0: torch.rand(2, 2, *SIZE), 1: torch.rand(2, 2, 4, 8)})
    assert scene.mask_up(1).shape == (2, 2, *SIZE)
    assert random_scene().mask_up(0) is None


def test_resize_averages_two_by_two_pixels_at_half_the_size():
    assert resize(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), (1, 1)).item() == 1.5


def test_the_twin_sees_the_target_from_the_other_camera():
    scene = stereo_scene()
    twin = scene.stereo_twin()
    assert torch.equal(twin.target, scene.supports[:, 1])  # the stereo image, at the position of 0
    assert torch.equal(twin.supports[:, 0], scene.target)
    assert torch.equal(twin.Ts[:, 0], invert_pose(scene.T_stereo))
    assert torch.equal(twin.disp[1], scene.disp_stereo[1])
    assert (twin.supp_idxs, twin.mask, twin.scales) == ((0,), None, (0, 1))
    assert twin.stereo_twin() is None
    assert scene.stereo_twin() is twin


def test_the_stereo_image_is_found_at_the_position_of_zero():
    for supp_idxs in ((0, -1, 1), (-1, 0, 1), (-1, 1, 0)):
        scene = stereo_scene(supp_idxs=supp_idxs)
        assert torch.equal(scene.stereo_twin().target, scene.supports[:, supp_idxs.index(0)])


def test_the_twin_has_no_mask():
    mask = {s: torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s) for s in (0, 1)}
    assert stereo_scene(mask=mask).stereo_twin().mask_up(0) is None


def test_no_twin_without_its_disparity():
    assert random_scene().stereo_twin() is None


def test_a_twin_without_a_stereo_support_is_an_error():
    with pytest.raises(ValueError, match=r"add 0 to dataset\.supp_idxs"):
        stereo_scene(supp_idxs=(-1, 1)).stereo_twin()


def test_scenes_of_twins_agree_when_left_and_right_change_places():
    """With equal disparities the twin of a scene is the scene one gets by exchanging the two pictures."""
    scene = stereo_scene(supp_idxs=(0,))
    scene = Scene(
        scene.target, scene.supports, scene.K, scene.T_stereo[:, None], scene.disp, supp_idxs=(0,),
        disp_stereo=scene.disp, T_stereo=scene.T_stereo,
    )  # fmt: skip
    swapped = Scene(
        scene.supports[:, 0], scene.target[:, None], scene.K, invert_pose(scene.Ts), scene.disp, supp_idxs=(0,)
    )
    loss = LOSSES.create("img_recon")
    assert torch.equal(loss(scene.stereo_twin())[0], loss(swapped)[0])


@pytest.mark.parametrize("missing", ["supports", "K", "Ts"])
def test_what_is_missing_is_named(missing):
    with pytest.raises(ValueError, match=f"'{missing}'"):
        random_scene(**{missing: None}).warp(0, 0)
