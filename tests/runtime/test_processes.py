"""Two processes compute what one computes on the whole batch."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.runtime.conftest import forked
from tests.world import run_world
from trainer.objective import batchnorm
from trainer.objective.batchnorm import GlobalBatchNorm2d, share_statistics, synchronise_batchnorm
from trainer.runtime import processes
from trainer.runtime.errors import UserError
from trainer.runtime.processes import (
    check_launcher,
    check_same_items,
    check_world,
    leaving_with_launcher,
    lost_peer,
    parent,
)

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


def _statistics(rank: int, world: int) -> None:
    sent, real = [], dist.broadcast
    with patch.object(dist, "broadcast", lambda tensor, source: sent.append(tensor.nbytes) or real(tensor, source)):
        model = net()
        model[1].running_mean.fill_(rank + 1.0)
        model[2].running_var.fill_(rank + 5.0)
        share_statistics(model)
        assert sent == [2 * (4 + 4) * 4]  # mean and variance of two layers of four channels, once
        assert (model[1].running_mean == 1).all()
        assert (model[2].running_var == 5).all()
        share_statistics(synchronise_batchnorm(model, CPU))
        share_statistics(nn.Linear(2, 2))
        assert len(sent) == 1

        kinds = (torch.bool, torch.float64, torch.uint16, torch.bfloat16, torch.int64, torch.float8_e4m3fn)
        odd = [torch.full((3,), float(rank == 0)).to(kind) for kind in kinds]
        odd += [torch.tensor(float(rank)), torch.zeros(0), torch.full((2, 3), float(rank)).T]
        with patch.object(processes, "MESSAGE", 40):
            processes.broadcast(odd, CPU)
        assert all((t.float() == 1).all() for t in odd[:6])
        assert all((t == 0).all() for t in odd[6:])
        assert 1 + len(odd) > len(sent) > 2  # several small ones together


def test_statistics_of_the_main_process_are_sent_in_one_message_and_only_where_they_differ(tmp_path: Path) -> None:
    run_world(_statistics, 2, tmp_path)


def test_batchnorm_without_float64_keeps_a_small_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes with the same half, around a mean a thousand times the deviation."""
    monkeypatch.setattr(batchnorm, "WITHOUT_FLOAT64", ("cpu",))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(2))
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 6) * 0.1 + 100
    ours, plain = GlobalBatchNorm2d(3), torch.nn.BatchNorm2d(3).double()
    torch.testing.assert_close(ours(x).double(), plain(x.double()), rtol=0, atol=2e-3)
    unbiased = 4 * 5 * 6 / (4 * 5 * 6 - 1) / (8 * 5 * 6 / (8 * 5 * 6 - 1))
    found = 0.9 + (ours.running_var.double() - 0.9) * unbiased
    torch.testing.assert_close(found, plain.running_var, rtol=1e-4, atol=0)


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"started 2 processes but Accelerate sees 1.*cpu_x2"):
        check_world(SimpleNamespace(num_processes=1))


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
WAITED = "Timed out waiting 4000ms for recv operation to complete"
RESET = "Read error [10.0.0.2]:25835: Connection reset by peer"
CLOSED = "got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"
HUNG = "Watchdog caught collective operation timeout: ran for 900000 milliseconds"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(f"{GLOO}unbound_buffer.cc:81] {WAITED}"), WAITED),
        (RuntimeError(f"{GLOO}pair.cc:547] {RESET}. This is typically caused by bugs."), RESET),
        (dist.DistBackendError(f"NCCL error in: x.cpp:1\nncclRemoteError: {HUNG}"), f"ncclRemoteError: {HUNG}"),
        (dist.DistStoreError("Timed out after 4 s. 1/2 joined."), "Timed out after 4 s. 1/2 joined"),
        (dist.DistNetworkError(f"Failed to recv, {CLOSED}"), f"Failed to recv, {CLOSED}"),
        (dist.DistBackendError("NCCL error: invalid usage"), None),  # a mistake, nobody is lost
        (RuntimeError(f"{GLOO}pair.cc:1] op.nbytes <= size"), None),
        (RuntimeError("DataLoader timed out after 5 seconds"), None),
        (ConnectionResetError("Connection reset by peer"), None),  # of a tracker's server, say
    ],
)
def test_a_lost_process_differs_from_other_errors(error: BaseException, reason: str | None) -> None:
    assert lost_peer(error) == reason


SEVERAL = "has started this 2 times"


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"LOCAL_RANK": "z"}, "LOCAL_RANK is 'z', not a whole number from 0 on"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', not a whole number from 1 on"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, SEVERAL),  # srun --ntasks=2 python ...
        ({"OMPI_COMM_WORLD_SIZE": "2"}, SEVERAL),
        ({"PMI_SIZE": "2"}, SEVERAL),
        ({"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "4", "RANK": "3"}, None),  # a launcher in each task
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_NPROCS": "2"}, None),  # a script of sbatch
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"}, None),  # shell of salloc
    ],
)
def test_what_a_launcher_or_scheduler_says_is_checked(monkeypatch, environ: dict[str, str], told: str | None) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if told is None:
        check_launcher()
        return
    with pytest.raises(UserError) as caught:
        check_launcher()
    assert told in str(caught.value)


def _see_data(rank: int, world: int) -> None:
    accelerator = SimpleNamespace(num_processes=world)

    def told(names: list[str]) -> str:
        with pytest.raises(UserError) as caught:
            check_same_items(accelerator, len(names), names.__getitem__, "dataset (train)")
        return str(caught.value)

    check_same_items(accelerator, 2, ["a", "b"].__getitem__, "dataset (train)")
    assert "process 0 has 1 items, process 1 has 2. All machines" in told(["a", "b"][: 1 + rank])
    assert "item 1 is b0 on process 0 and b1 on process 1" in told(["a", f"b{rank}"])


def test_processes_that_see_other_data_are_refused(tmp_path: Path) -> None:
    run_world(_see_data, 2, tmp_path)


def _orphaned() -> None:
    """Wait for others when the launcher has died: `parent` is what it was at the start."""
    os.environ["WORLD_SIZE"] = "2"
    parent.cache_clear()
    with patch("os.getppid", lambda: 4):
        parent()
    with leaving_with_launcher():
        time.sleep(60)


def test_a_process_leaves_when_its_launcher_dies_before_all_have_met() -> None:
    process = forked(_orphaned)
    process.join(30)
    assert process.exitcode == 1
