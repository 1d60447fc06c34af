"""Speed: metres by hand, unknown ways do not count, and only motions learn."""

import pytest
import torch

from tests.fakes import FakeDepth, FakePose, make_batch
from tests.losses.scenes import random_scene
from trainer.geometry import pose_matrix
from trainer.losses import LOSSES
from trainer.losses.speed import Speed
from trainer.objective import Objective


def moved(lengths, travelled, **changes):
    """A scene whose motions have the given lengths (b n), in units, in a direction of their own."""
    t = torch.tensor(lengths, dtype=torch.float64)[..., None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    Ts = pose_matrix(torch.full_like(t, 0.1), t)
    ways = torch.tensor(travelled, dtype=torch.float64)
    return random_scene(len(lengths), dtype=torch.float64, Ts=Ts, travelled=ways, **changes)


def test_a_unit_is_5_4_metres():
    value, pictures = Speed()(moved([[0.2, 0.1]], [[1.0, 0.5]]))  # 1.08 m and 0.54 m
    assert value.item() == pytest.approx((0.08 + 0.04) / 2)
    assert pictures == {}


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf"), -1.0])
def test_an_unknown_way_does_not_count(unknown):
    scene = moved([[0.2, 7.0], [0.3, 9.0]], [[1.0, unknown], [1.6, unknown]])
    scene.Ts.requires_grad_()
    value, _ = Speed()(scene)
    assert value.item() == pytest.approx((0.08 + 0.02) / 2)
    (gradient,) = torch.autograd.grad(value, scene.Ts)
    assert gradient[:, 0].any()
    assert not gradient[:, 1].any()


def test_without_any_known_way_it_is_0_with_a_gradient_of_0():
    scene = moved([[0.2, 0.2]], [[0.0, 0.0]])
    scene.Ts.requires_grad_()
    value, _ = Speed()(scene)
    assert value.item() == 0
    assert not torch.autograd.grad(value, scene.Ts)[0].any()


def test_a_motion_of_0_has_a_finite_gradient():
    scene = moved([[0.0, 0.2]], [[1.0, 1.0]])
    scene.Ts.requires_grad_()
    assert torch.autograd.grad(Speed()(scene)[0], scene.Ts)[0].isfinite().all()


def test_the_gradient_is_that_of_the_value():
    scene = moved([[0.2, 0.4], [0.7, 0.1]], [[1.0, 3.0], [0.0, 0.4]])

    def value(Ts):
        scene.Ts = Ts
        return Speed()(scene)[0]

    assert torch.autograd.gradcheck(value, scene.Ts.clone().requires_grad_())


def test_a_scene_without_ways_is_refused():
    with pytest.raises(ValueError, match=r"dataset\.use_speed"):
        LOSSES.create("speed")(random_scene())


def test_an_objective_asks_for_supports_in_time_and_for_ways():
    networks, batch = {"depth": FakeDepth(n_mask=0), "pose": FakePose()}, make_batch(2, (-1, 1))
    objective = Objective(networks, {"speed": Speed()}, supp_idxs=(-1, 1))
    with pytest.raises(ValueError, match=r"has no 'travelled': set dataset\.use_speed: true"):
        objective(batch)
    length = objective.predict(batch)["Ts"][..., :3, 3].norm(dim=-1)
    out = objective({**batch, "travelled": 5.4 * length.detach() + 0.25})
    assert out.losses["speed"].item() == pytest.approx(0.25, rel=1e-4)
    with pytest.raises(ValueError, match="needs how far the camera moves"):
        Objective({"depth": FakeDepth(n_mask=0)}, {"speed": Speed()}, supp_idxs=(0,))
