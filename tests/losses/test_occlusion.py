"""The occlusion regulariser: mean disparity."""

import pytest
import torch

from tests.losses.scenes import SIZE, random_scene, stereo_scene
from trainer.losses import LOSSES


def disp_occ(**kwargs):
    return LOSSES.create("disp_occ", **kwargs)


def flat(*values):
    return {s: torch.full((1, 1, SIZE[0] >> s, SIZE[1] >> s), value).double() for s, value in enumerate(values)}


def test_is_the_mean_disparity_and_every_scale_counts_the_same():
    scene = random_scene(1, dtype=torch.float64, disp=flat(0.2, 0.6))
    value, pictures = disp_occ()(scene)
    assert value.item() == pytest.approx(0.4)
    assert disp_occ(invert=True)(scene)[0].item() == pytest.approx(-0.4)
    assert not pictures


def test_the_virtual_view_is_added_to_the_same_value():
    scene = stereo_scene(b=1, disp=flat(0.2, 0.6), disp_stereo=flat(0.1, 0.3))
    assert disp_occ()(scene)[0].item() == pytest.approx(0.4 + 0.2)
    assert disp_occ(invert=True)(scene)[0].item() == pytest.approx(-0.6)
    assert not disp_occ().on_twin  # or else it would be added twice
