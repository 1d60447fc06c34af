"""A frozen part is a fixed function: no gradient, no step, no new statistics, no draw; nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from timm.layers import DropPath
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.fakes import FakeDepth, FakePose, make_batch, make_losses, make_objective
from tests.world import run_world
from trainer.objective import Objective
from trainer.objective.batchnorm import synchronise_batchnorm
from trainer.objective.freezing import freeze, without_statistics
from trainer.runtime.errors import UserError
from trainer.training.optim import make_optimizer


class Depth(FakeDepth):
    """The fake depth network behind an encoder with everything that differs between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), DropPath(0.1))
        self.bn1 = nn.BatchNorm2d(3)
        self.plain = nn.BatchNorm2d(3, affine=False)

    def forward(self, images):
        return super().forward(self.plain(self.bn1(self.encoder(images))))


def make() -> Objective:
    return make_objective(depth=Depth())


def step(objective: Objective, model: nn.Module | None = None) -> None:
    optimizer = make_optimizer(objective.networks, "sgd", 0.1)
    (model or objective)(make_batch()).loss.backward()
    optimizer.step()


def changed(objective: Objective, before: dict[str, torch.Tensor]) -> set[str]:
    """Names under `networks` of the tensors that are not what they were, without the last part."""
    after = objective.networks.state_dict()
    return {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def state(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in objective.networks.state_dict().items()}


EVERYTHING = {"depth.encoder.0", "depth.encoder.1", "depth.bn1", "depth.plain", "depth.head", "pose"}


@pytest.mark.parametrize(
    ("patterns", "batchnorm", "kept"),
    [
        ((), False, set()),
        (["depth.encoder"], False, {"depth.encoder.0", "depth.encoder.1"}),
        (["depth.encoder.*"], False, {"depth.encoder.0", "depth.encoder.1"}),
        (["*.bn1.*", "pose"], False, {"depth.bn1", "pose"}),
        (["depth.plain"], False, {"depth.plain"}),
        (["depth.encoder.0"], True, {"depth.encoder.0", "depth.encoder.1", "depth.bn1", "depth.plain"}),
        (["depth"], False, EVERYTHING - {"pose"}),
    ],
)
def test_a_step_changes_all_but_what_is_frozen(patterns, batchnorm, kept) -> None:
    objective = make()
    before = state(objective)
    freeze(objective, patterns, batchnorm)
    step(objective)
    assert changed(objective, before) == EVERYTHING - kept
    for name, parameter in objective.networks.named_parameters():
        assert (parameter.grad is None) == (name.rpartition(".")[0] in kept), name


def test_a_frozen_encoder_draws_nothing() -> None:
    objective = make()
    freeze(objective, ["depth.encoder"])
    encoder, image = objective.networks["depth"].encoder, torch.rand(2, 3, 8, 8)
    assert torch.equal(encoder(image), encoder(image))
    assert objective.networks["depth"].bn1.training


def test_dropout_beside_a_frozen_batchnorm_stays() -> None:
    objective = make()
    freeze(objective, [], batchnorm=True)
    assert [m.training for m in objective.networks["depth"].encoder] == [True, False, True, True]


def test_it_holds_after_validation_and_in_a_copy() -> None:
    objective = make()
    freeze(objective, ["depth.encoder"])
    twin = copy.deepcopy(objective)
    encoders = [o.networks["depth"].encoder for o in (objective, twin)]
    twin.eval()
    twin.train()
    assert not any(m.training for encoder in encoders for m in encoder.modules())
    assert twin.networks["depth"].bn1.training
    encoders[0].train()  # a copy that meant the modules of the original would not see its own
    assert not encoders[1].training
    assert objective.train() is objective
    assert not encoders[0].training


def test_notes_count_what_a_pattern_names() -> None:
    objective = make()
    # 3 x 3 x 3 x 3 + 3 of the convolution, 3 + 3 of the batch norm
    assert freeze(objective, ["depth.encoder"], batchnorm=True) == [
        "frozen: 4 tensors, 9e-05 M parameters (depth.encoder)",
        "frozen: statistics, scales and shifts of 3 batch norm layers",
    ]


def test_what_names_nothing_is_refused_with_the_nearest() -> None:
    objective = make()
    with pytest.raises(UserError, match=r"'dept' matches no parameter. Did you mean 'depth'\? Known: depth, pose"):
        freeze(objective, ["dept"])
    with pytest.raises(UserError, match=r"Did you mean 'depth.encoder'\?") as caught:
        freeze(objective, ["depth.encodr.0", "depth.bn1", "*.bn7.*"])
    assert "'*.bn7.*'" in str(caught.value)
    assert all(p.requires_grad for p in objective.parameters())
    assert objective.fixed == ()


@pytest.mark.parametrize("patterns", [["*"], ["depth", "pose"]])
def test_something_must_be_left_to_train(patterns) -> None:
    objective = make()
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(objective, patterns)
    assert all(p.requires_grad for p in objective.parameters())


def test_statistics_that_normalise_nothing_are_told() -> None:
    objective = make()
    freeze(objective, ["depth.encoder"])
    (warning,) = without_statistics(objective)
    assert warning.startswith("1 frozen batch norm layers have never seen data")
    assert "depth.encoder.1" in warning
    objective.networks["depth"].encoder[1].running_mean.fill_(0.5)
    assert without_statistics(objective) == []


def test_accelerate_wraps_and_trains_it() -> None:
    accelerator = Accelerator(cpu=True)
    objective = make()
    freeze(objective, ["depth"])
    before = state(objective)
    optimizer = make_optimizer(objective.networks, "sgd", 0.1)
    model, prepared = accelerator.prepare(objective, optimizer)
    model.train()
    accelerator.backward(model(make_batch()).loss)
    prepared.step()
    assert changed(objective, before) == {"pose"}


def _two_processes(rank: int, world: int) -> None:
    """Frozen batch norm: the mean gradient of two halves is that of the whole batch, without a word between them."""
    whole = make_batch(b=4)
    alone = Objective({"depth": Depth(), "pose": FakePose()}, make_losses(), {}, (-1, 1))
    for drop in alone.networks["depth"].encoder[2:]:
        drop.p = drop.drop_prob = 0.0  # draws differ between processes
    torch.manual_seed(3)
    for parameter in alone.parameters():
        nn.init.normal_(parameter, std=0.1)
    split = synchronise_batchnorm(copy.deepcopy(alone), torch.device("cpu"))
    for objective in (alone, split):
        freeze(objective, ["pose"], batchnorm=True)
    wrapped = DistributedDataParallel(split, broadcast_buffers=False, find_unused_parameters=True)
    wrapped.train()
    alone(whole).loss.backward()
    wrapped({key: value[2 * rank : 2 * rank + 2] for key, value in whole.items()}).loss.backward()
    for (name, ours), theirs in zip(split.named_parameters(), alone.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (".head." not in name and ".encoder.0." not in name)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.slow
def test_two_processes_with_a_network_frozen_as_a_whole(tmp_path: Path) -> None:
    run_world(_two_processes, 2, tmp_path)
