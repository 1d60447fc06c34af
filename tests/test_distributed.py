"""Two processes compute what one computes on the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.world import run_world
from trainer.distributed import GlobalBatchNorm2d, check_world, synchronise_batchnorm
from trainer.types import UserError

CPU = torch.device("cpu")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.Conv2d(4, 2, 1))


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 3 + 5


def one_process() -> tuple[torch.Tensor, nn.Module]:
    model = net()
    loss = model(batch()).square().mean()
    loss.backward()
    return loss.detach(), model


def _half_of_the_batch(rank: int, world: int) -> None:
    loss_alone, alone = one_process()
    model = synchronise_batchnorm(net(), CPU)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    loss = wrapped(batch()[2 * rank : 2 * rank + 2]).square().mean()
    loss.backward()
    mean = loss.detach().clone()
    torch.distributed.all_reduce(mean)
    torch.testing.assert_close(mean / world, loss_alone, rtol=1e-6, atol=1e-6)
    for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    for (name, ours), theirs in zip(model.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_global_batchnorm_equals_one_process(tmp_path: Path) -> None:
    run_world(_half_of_the_batch, 2, tmp_path)


def test_conversion_keeps_names_and_single_process_output() -> None:
    model, plain = synchronise_batchnorm(net(), CPU), net()
    assert isinstance(model[1], GlobalBatchNorm2d)
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(model(batch()), plain(batch()), rtol=0, atol=0)
    assert type(copy.deepcopy(model)[2]).__name__ == "GlobalBatchNormAct2d"


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"started 2 processes but Accelerate sees 1.*cpu_x2\.yaml"):
        check_world(SimpleNamespace(num_processes=1))
