"""Stereo consistency: the disparities of two cameras, each seen by the other."""

import pytest
import torch

from tests.losses.scenes import SIZE, random_scene, stereo_scene
from trainer.losses import LOSSES

NAMES = ["berhu", "l1", "log_l1"]


def stereo_const(**kwargs):
    return LOSSES.create("stereo_const", **kwargs)


def columns(first, last, shift=1.0, front=3.0):
    """Disparity (1 1 h w) of a background that moves `shift` pixels and, from `first` to `last`, of one in front of it.

    With fx = 9.6 pixels, a baseline of 0.1 and depth = 0.1 / disp, disparity 1 moves a pixel by 9.6.
    """
    disp = torch.full((1, 1, *SIZE), shift, dtype=torch.float64)
    disp[..., first : last + 1] = front
    return disp / 9.6


def two_planes(left=(8, 11), right=(5, 8)):
    """A right camera sees the front, which moves by three pixels, at columns 5 to 8 instead of 8 to 11."""
    disp, disp_stereo = {0: columns(*left)}, {0: columns(*right)}
    return stereo_scene(b=1, supp_idxs=(0,), disp=disp, disp_stereo=disp_stereo, max_depth=None)


@pytest.mark.parametrize("name", NAMES)
def test_planes_that_are_equal_or_differ_by_a_tenth(name):
    disp = {s: torch.full((2, 1, SIZE[0] >> s, SIZE[1] >> s), 0.2).double() for s in (0, 1)}
    assert stereo_const(loss_name=name)(stereo_scene(disp=disp, disp_stereo=disp))[0].abs() < 1e-12
    other = {s: d + 0.1 for s, d in disp.items()}
    value = stereo_const(loss_name="l1")(stereo_scene(disp=disp, disp_stereo=other))[0]
    assert value.item() == pytest.approx(0.1)


def test_true_disparities_differ_where_one_camera_sees_what_the_other_does_not():
    """Each camera sees two columns of background that the front hides from the other: 2 of 16, 2 / 9.6 too near."""
    loss, pictures = stereo_const(loss_name="l1")(two_planes())
    assert loss.item() == pytest.approx(2 / 16 * 2 / 9.6)
    seen_here, seen_there = pictures["disp/stereo_warp"], pictures["disp/warp"]
    assert torch.allclose(seen_here, columns(6, 11))
    assert torch.allclose(seen_there, columns(5, 10))


def test_a_left_camera_on_the_other_side_is_the_mirror_image():
    scene = two_planes()
    mirrored = stereo_scene(
        b=1, supp_idxs=(0,), disp={0: scene.disp[0].flip(-1)}, disp_stereo={0: scene.disp_stereo[0].flip(-1)},
        T_stereo=scene.T_stereo.inverse(), max_depth=None,
    )  # fmt: skip
    _, plain = stereo_const(loss_name="l1")(scene)
    loss, pictures = stereo_const(loss_name="l1")(mirrored)
    assert loss.item() == pytest.approx(2 / 16 * 2 / 9.6)
    assert torch.allclose(pictures["disp/warp"].flip(-1), plain["disp/warp"])


def test_the_position_of_the_stereo_support_does_not_matter():
    value = stereo_const()(stereo_scene(supp_idxs=(0,)))[0]
    for supp_idxs in ((-1, 0), (0, 1), (-1, 0, 1)):
        scene = stereo_scene(supp_idxs=supp_idxs, disp=stereo_scene(supp_idxs=(0,)).disp)
        assert stereo_const()(scene)[0].item() == pytest.approx(value.item())


def test_pictures_have_no_graph():
    disp = {s: d.requires_grad_() for s, d in stereo_scene().disp.items()}
    _, pictures = stereo_const()(stereo_scene(disp=disp))
    assert set(pictures) == {"disp/warp", "disp/stereo_warp"}
    assert all(picture.shape == (2, 1, *SIZE) and not picture.requires_grad for picture in pictures.values())


def test_needs_the_virtual_view():
    assert stereo_const().needs == {"supports", "virtual_stereo"}
    assert not stereo_const().on_twin
    with pytest.raises(ValueError, match=r"net\.depth\.use_virtual_stereo"):
        stereo_const()(random_scene())


def test_an_automask_is_refused():
    assert stereo_const(use_automask=False)
    with pytest.raises(ValueError, match="use_automask must be false"):
        stereo_const(use_automask=True)
