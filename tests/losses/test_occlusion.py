"""The occlusion regulariser: mean disparity."""

import pytest
import torch

from tests.losses.scenes import SIZE, random_scene, stereo_scene
from trainer.losses import LOSSES


def disp_occ(**kwargs):
    return LOSSES.create("disp_occ", **kwargs)


def flat(*values):
    return {
        s: torch.full((1, 1, SIZE[0] >> s, SIZE[1] >> s), value).double() for s, value in enumerate(values)
    }


def test_is_the_mean_disparity_and_every_scale_counts_the_same():
    scene = random_scene(1, dtype=torch.float64, disp=flat(0.2, 0.6))
    value, pictures = disp_occ()(scene)
    assert value.item() == pytest.approx(0.4)
    assert disp_occ(invert=True)(scene)[0].item() == pytest.approx(-0.4)
    assert not pictures


@pytest.mark.parametrize("b", [1, 2])
def test_agrees_with_numpy(b):
    scene = random_scene(b, dtype=torch.float64)
    expected = sum(disp.numpy().mean() for disp in scene.disp.values()) / 3
    assert disp_occ()(scene)[0].item() == pytest.approx(expected)


def test_the_virtual_view_is_added_to_the_same_value():
    scene = stereo_scene(b=1, disp=flat(0.2, 0.6), disp_stereo=flat(0.1, 0.3))
    assert disp_occ()(scene)[0].item() == pytest.approx(0.4 + 0.2)
    assert disp_occ(invert=True)(scene)[0].item() == pytest.approx(-0.6)
    assert not disp_occ().on_twin  # or else it would be added twice


def test_both_views_learn_exactly():
    disp, other = (m[0].detach().requires_grad_() for m in (stereo_scene().disp, stereo_scene().disp_stereo))

    def value(disp, other):
        return disp_occ(invert=True)(stereo_scene(disp={0: disp}, disp_stereo={0: other}))[0]

    assert torch.autograd.gradcheck(value, (disp, other))


def test_needs_nothing():
    assert not disp_occ().needs
    assert not disp_occ().state_dict()
