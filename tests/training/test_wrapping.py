"""Gradients that processes exchange in a shorter type, and what is said of batches in parts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.fakes import make_batch, make_objective
from tests.world import run_world
from trainer.data.loaders import EpochBatches
from trainer.objective import Objective
from trainer.objective.freezing import freeze
from trainer.training.wrapping import notes_on_parts, wrap


def _wrapped(objective: Objective, compression: str | None) -> nn.Module:
    """As `wrap` prepares it, by a stand-in of Accelerate."""
    accelerator = SimpleNamespace(
        num_processes=2,
        device=torch.device("cpu"),
        autocast=nullcontext,
        ddp_handler=SimpleNamespace(),
        prepare=lambda module, optimizer: (DistributedDataParallel(module, find_unused_parameters=True), optimizer),
    )
    return wrap(accelerator, objective, None, None, may_vary=True, compression=compression)[0]


def _compare(rank: int, world: int) -> None:
    """The mean of two processes is that of their gradients in the short type, on both of them."""
    batch = make_batch(seed=rank)
    local = _gradients(make_objective(), batch)
    dist.all_reduce(whole := local / world)
    dist.all_reduce(size := local.abs() / world)
    torch.testing.assert_close(_gradients(_wrapped(make_objective(), None), batch), whole)
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        shared = _gradients(_wrapped(make_objective(), name), batch)
        dist.all_reduce(short := local.to(dtype) / world)
        assert torch.equal(shared, short.float()), name
        limits = torch.finfo(dtype)
        assert ((shared - whole).abs() <= limits.eps * (size + 2 * limits.smallest_normal)).all(), name
        assert not torch.equal(shared, whole), name
        gathered = [torch.empty_like(shared) for _ in range(world)]
        dist.all_gather(gathered, shared)
        assert torch.equal(*gathered), name


def _gradients(model: nn.Module, batch: Any) -> Tensor:
    model.train()
    torch.manual_seed(0)
    model(batch).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.slow
def test_gradients_are_exchanged_in_the_type_of_the_key(tmp_path: Path) -> None:
    run_world(_compare, 2, tmp_path)


@pytest.mark.parametrize(
    ("world", "parts", "frozen", "said"),
    [
        (2, 1, False, []),
        (1, 3, True, ["batches of 12 items: computed in 3 parts of 4"]),
        (
            2,
            3,
            False,
            [
                "batches of 12 items: 2 processes compute 6 items each in 3 parts of 2",
                "trainer.micro_batch_size: 4 of the 12 items of a batch at a time reach batch norm",
            ],
        ),
    ],
)
def test_what_sees_no_whole_batch_is_named(world: int, parts: int, frozen: bool, said: Sequence[str]) -> None:
    objective = make_objective()
    objective.networks["norm"] = nn.BatchNorm2d(2)
    freeze(objective, [], batchnorm=frozen)
    assert notes_on_parts(objective, EpochBatches(12, 12, world=world), parts, sync_batchnorm=True) == said
