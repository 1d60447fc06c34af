"""depth_regr on two processes is depth_regr on one, in value and gradient, however the hints are spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.fakes import FakeDepth, FakePose, make_batch
from tests.losses.scenes import SIZE
from tests.world import run_world
from trainer.losses import LOSSES
from trainer.losses._processes import max_over_processes, mean_over_processes
from trainer.losses._regression import ERRORS, criterion
from trainer.objective import Objective

# Share of the pixels of each of four items that have a hint; two items go to each process.
SPREADS = {
    "even": (0.6, 0.6, 0.6, 0.6),
    "uneven": (0.9, 0.7, 0.1, 0.02),
    "none on one process": (0.5, 0.2, 0.0, 0.0),
    "one pixel": (0.0, 0.0, 0.0, 1 / 128),
    "none at all": (0.0, 0.0, 0.0, 0.0),
}


def whole_batch(shares: tuple[float, ...], with_supports: bool = False) -> dict[str, Tensor]:
    """Four items; the hints of the first two are farther, so that berHu's threshold is theirs."""
    generator = torch.Generator().manual_seed(3)
    pixels = SIZE[0] * SIZE[1]
    hints = (0.5 + 2 * torch.rand(4, pixels, generator=generator)) * torch.tensor([[3.0], [3.0], [1.0], [1.0]])
    for hint, share in zip(hints, shares, strict=True):
        hint[torch.randperm(pixels, generator=generator)[round(share * pixels) :]] = 0
    return {**make_batch(4, (-1, 1) if with_supports else ()), "depth_hints": hints.view(4, 1, *SIZE)}


def objective(**kwargs: Any) -> Objective:
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {"depth": FakeDepth(n_mask=0)}
    losses: dict[str, nn.Module] = {"depth_regr": LOSSES.create("depth_regr", **kwargs)}
    if kwargs.get("use_automask"):
        networks["pose"] = FakePose()
        losses["img_recon"] = LOSSES.create("img_recon", automask_noise=0.0)
    return Objective(networks, losses, supp_idxs=(-1, 1) if "pose" in networks else ())


def part(batch: dict[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    share = len(batch["target"]) // world
    return {key: value[rank * share : (rank + 1) * share] for key, value in batch.items()}


def mean(value: Tensor, world: int) -> Tensor:
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / world


CASES: list[tuple[dict[str, Any], tuple[float, ...]]] = [
    *(({"loss_name": name}, shares) for name in ERRORS for shares in SPREADS.values()),
    *(({"loss_name": "log_l1", "use_automask": True}, shares) for shares in SPREADS.values()),
    ({"loss_name": "berhu", "invert": True}, SPREADS["uneven"]),
]


def _step(rank: int, world: int, alone: list[tuple[Tensor, list[Tensor]]]) -> None:
    for case, (value, gradients) in zip(CASES, alone, strict=True):
        options, shares = case
        model = DistributedDataParallel(objective(**options))
        out = model(part(whole_batch(shares, "use_automask" in options), rank, world))
        out.loss.backward()
        ours = [mean(out.losses["depth_regr"], world), *(p.grad for p in model.parameters())]
        for a, b in zip(ours, [value, *gradients], strict=True):
            assert a is not None, case
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), f"{case}: {a} is not {b}"


@pytest.mark.slow
def test_two_processes_step_as_one(tmp_path: Path) -> None:
    alone = []
    for options, shares in CASES:
        model = objective(**options)
        out = model(whole_batch(shares, "use_automask" in options))
        out.loss.backward()
        alone.append((out.losses["depth_regr"].detach(), [p.grad for p in model.parameters()]))
    assert all(value > 0 for (value, _), case in zip(alone, CASES, strict=True) if any(case[1]))
    run_world(_step, 2, tmp_path, alone)


def _compare_everywhere(rank: int, world: int) -> None:
    """Leave no pixel out, as stereo_const does: berHu's threshold alone is shared."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, 1, 3, 4, generator=generator) for _ in range(2))
    a[0, 0, 0, 0] = 9.0
    for name in ERRORS:
        with torch.no_grad():  # asks nobody
            expected = criterion(name)(a, b)
        ours = mean(criterion(name)(a.chunk(world)[rank], b.chunk(world)[rank]), world)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0, msg=name)


def _validate(rank: int, world: int) -> None:
    """Bring two batches to the first process and none to the other, which must not be waited for."""
    model = objective(loss_name="berhu").eval()
    batch = part(whole_batch(SPREADS["uneven"]), rank, world)
    for mode in (torch.no_grad, torch.inference_mode) if rank == 0 else ():
        with mode():
            assert torch.isfinite(model(batch).loss)


@pytest.mark.slow
@pytest.mark.parametrize("fn", [_compare_everywhere, _validate])
def test_two_processes(fn, tmp_path: Path) -> None:
    run_world(fn, 2, tmp_path)


@pytest.mark.parametrize("over_processes", [mean_over_processes, max_over_processes])
def test_alone_it_is_the_number_itself_as_a_constant(over_processes) -> None:
    x = torch.tensor([3.0, -1.0]).requires_grad_()
    assert torch.equal(over_processes(x), x)
    assert not over_processes(x).requires_grad
