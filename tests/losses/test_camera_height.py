"""Camera height: a street by hand, its derivative by the scale of depth, and the options."""

import math

import pytest
import torch

from tests.geometry.test_ground import H, K, W, ground
from tests.losses.scenes import random_scene
from trainer.geometry import depth_to_disp
from trainer.losses import LOSSES
from trainer.losses.camera_height import CameraHeight

UNIT = 5.4  # metres


def street(metres):
    """A scene whose depth is that of a street seen from so many metres above."""
    disp = depth_to_disp(ground(metres / UNIT)[0]).clamp(0, 1)
    return random_scene(1, scales=(0,), size=(H, W), dtype=torch.float64, K=K, disp={0: disp})


def value(scene, **options):
    return CameraHeight(rows=0.4, columns=0.6, **options)(scene)[0].item()


def test_the_relative_error_of_the_inverse_height():
    level = 1 / math.sqrt(0.05**2 + 1 + 0.1**2)  # the y of the normal of that street
    scene = street(1.65 * level)
    assert value(scene) == pytest.approx(0, abs=1e-9)
    assert value(scene, height=3.3) == pytest.approx(1, rel=1e-9)
    assert value(scene, height=0.825) == pytest.approx(0.5, rel=1e-9)
    assert value(street(2.2 * level)) == pytest.approx(0.25, rel=1e-9)
    assert value(street(1.65)) == pytest.approx(1 - level, rel=1e-9)  # 6.4 degrees off: 0.6 %


def test_a_wall_and_a_ceiling_are_no_ground():
    """However far: a plane straight ahead has no slope, one that comes nearer upwards has the wrong one."""
    wall = depth_to_disp(torch.full((1, 1, H, W), 1.65 / UNIT, dtype=torch.float64))
    changes = {"scales": (0,), "size": (H, W), "dtype": torch.float64, "K": K}
    scene = random_scene(1, disp={0: wall.requires_grad_()}, **changes)
    loss = CameraHeight(rows=0.4, columns=0.6)(scene)[0]
    assert loss.item() == pytest.approx(1, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, wall)
    rows = gradient[0, 0, -10:].sum(1)
    assert rows[-1] < 0 < rows[0]  # descending brings the lowest row nearer and the upper ones further away
    falling = torch.linspace(0.5, 0.1, H, dtype=torch.float64)[None, None, :, None].expand(1, 1, H, W)
    assert value(random_scene(1, disp={0: falling}, **changes)) > 2


def test_depth_that_is_too_large_shrinks():
    scene = street(3.0)
    disp = scene.disp[0].requires_grad_()
    (gradient,) = torch.autograd.grad(CameraHeight()(scene)[0], disp)
    assert (gradient * disp.detach()).sum() < 0  # descending makes disparity larger


def test_the_gradient_is_that_of_the_value_where_the_weights_stand_still():
    """On an exact plane residuals are 0, and so weights do not change to first order."""
    scene, loss = street(2.0), CameraHeight(rows=0.4, columns=0.6)
    disp = scene.disp[0]

    def along(scale):
        return loss(random_scene(1, scales=(0,), size=(H, W), dtype=torch.float64, K=K, disp={0: disp * scale}))[0]

    assert torch.autograd.gradcheck(along, torch.ones((), dtype=torch.float64, requires_grad=True))


def test_intrinsics_do_not_learn_from_it():
    scene = street(2.0)
    scene.K = K.clone().requires_grad_()
    scene.disp[0].requires_grad_()
    assert torch.autograd.grad(CameraHeight()(scene)[0], scene.K, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"height": 0.0}, "height must be metres"), ({"height": math.inf}, "height"), ({"rows": 0.0}, "rows must be"),
     ({"columns": 1.5}, "columns must be")],
)  # fmt: skip
def test_options_without_a_meaning_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        LOSSES.create("camera_height", **options)
