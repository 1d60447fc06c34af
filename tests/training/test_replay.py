"""A failed step is repeated, and the first place that is not finite gets a name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.fakes import make_batch, make_losses, make_objective
from trainer.runtime.seeding import TRAINING, seed_everything
from trainer.training.replay import Moment, name_operation, replay

MOMENT = Moment(seed=3, step=7, micro_batch=0, rank=0)


class Between(nn.Module):
    """A network whose disparity is changed."""

    def __init__(self, network: nn.Module, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images):
        out = dict(self.network(images))
        out["disp"] = {scale: self.change(disp) for scale, disp in out["disp"].items()}
        return out


def changed(change):
    objective = make_objective()
    objective.networks["depth"] = Between(objective.networks["depth"], change)
    return objective


def test_a_healthy_step_has_the_loss_of_the_training() -> None:
    batch = make_batch()
    seed_everything(MOMENT.seed, TRAINING, MOMENT.step, MOMENT.micro_batch, MOMENT.rank)
    loss = float(make_objective().train()(batch).loss.detach())
    found = replay(make_objective(), batch, MOMENT)
    assert found.findings == []
    assert found.loss == loss
    assert found.losses.keys() == {"img_recon", "disp_smooth"}
    assert " to " in found.ranges["depth"]


def test_a_broken_picture_is_the_cause_not_what_follows() -> None:
    batch = make_batch()
    batch["supports"][1, 0, 0, 2, 3] = torch.nan
    found = replay(make_objective(), batch, MOMENT)
    assert found.findings[0].startswith("the batch: supports (1 of ")
    assert len(found.findings) > 1


def test_broken_weights_are_named() -> None:
    objective = make_objective()
    name, parameter = next(iter(objective.named_parameters()))
    with torch.no_grad():
        parameter.flatten()[0] = torch.inf
    found = replay(objective, make_batch(), MOMENT)
    assert found.findings[0].startswith(f"the weights: {name} (1 of ")


def test_the_innermost_module_that_overflows_is_named() -> None:
    class Overflow(nn.Module):
        def forward(self, disp):
            return disp * 1e38 * 1e38

    found = replay(changed(Overflow()), make_batch(), MOMENT)
    assert found.findings[0].startswith("the output of networks.depth.change (Overflow): ")
    assert "not finite; its input: 0." in found.findings[0]


@pytest.mark.parametrize(
    ("batch_key", "gain", "named"),
    [
        ("K", 0.1, "the inverse of the intrinsics K (3 of 18 numbers not finite"),
        ("", 1e30, "the motions Ts ("),
        ("T_stereo", 0.1, "the projections K [R K^-1 | t] ("),
    ],
)
def test_geometry_that_breaks_is_named_before_the_losses(batch_key: str, gain: float, named: str) -> None:
    objective, batch = make_objective((-1, 0)), make_batch(supp_idxs=(-1, 0))
    with torch.no_grad():
        objective.networks["pose"].gain.fill_(gain)
    if batch_key:  # numbers that are finite themselves
        batch[batch_key] = batch[batch_key].clone()
        batch[batch_key][1, 0] = {"K": 0.0, "T_stereo": 3e38}[batch_key]
    found = replay(objective, batch, MOMENT)
    assert found.findings[0].startswith(named)
    assert found.loss != found.loss


def test_a_loss_that_breaks_is_named() -> None:
    class Hole(nn.Module):
        needs, on_twin = frozenset(), False

        def forward(self, scene):
            return scene.disp[0].mean() * torch.nan, {}

    objective = make_objective(losses={**make_losses(), "hole": Hole()})
    found = replay(objective, make_batch(), MOMENT)
    assert found.findings[0].startswith("the output of losses.hole (Hole): 1 of 1 numbers not finite")


def test_a_gradient_that_breaks_is_named_with_its_operation() -> None:
    def touch(disp):
        return disp + torch.sqrt(disp * 0)  # its value is fine, its gradient 0 / 0

    objective = changed(touch)
    found = replay(objective, make_batch(), MOMENT)
    assert torch.isfinite(torch.tensor(found.loss))
    assert found.findings[0].startswith("the gradient that arrives at the output of networks.depth.network")
    assert found.findings[1].startswith("the gradient of networks.depth.")
    operation = name_operation(objective, make_batch(), MOMENT)
    assert "SqrtBackward0" in operation or "MulBackward0" in operation


def test_a_step_without_a_nan_names_no_operation() -> None:
    assert name_operation(make_objective(), make_batch(), MOMENT) == ""


def test_no_hook_is_left() -> None:
    objective = make_objective()
    for dtype in (None, torch.bfloat16):
        replay(objective, make_batch(), MOMENT, dtype)
    assert not any(module._forward_hooks for module in objective.modules())
