"""Validation averages items, not batches, and is the same however the items are dealt out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.world import run_world
from trainer.training.validation import ValidationResult, validate
from trainer.types import StepOutput


class Doubling:
    """Predicts twice the true depth where it is 2 m, and the truth elsewhere; its loss is the mean index."""

    def __call__(self, batch: dict[str, Tensor]) -> StepOutput:
        output = self.predict_only(batch)
        output.loss = batch["index"].float().mean()
        output.losses = {"img_recon": output.loss * 2}
        return output

    def predict_only(self, batch: dict[str, Tensor]) -> StepOutput:
        depth = batch["depth"].clamp(min=1)
        depth = torch.where((depth == 2) & (torch.arange(4) % 2 == 0), 4.0, depth)
        disp = 1 / depth
        return StepOutput(torch.tensor(torch.nan), {}, {"disp": {0: disp}, "depth": {0: depth}})


class Learning(Doubling):
    """Learns a camera of 90 degrees from even items, and a longer one from odd ones."""

    def __call__(self, batch: dict[str, Tensor]) -> StepOutput:
        output = super().__call__(batch)
        focal = (0.5 + 0.1 * (batch["index"] % 2))[:, None, None].expand(-1, 1, 2)
        motion = torch.tensor([0.0, 0.5, 0.0]).expand(len(focal), 1, 3)
        output.predictions |= {"focal": focal, "centre": torch.full_like(focal, 0.5), "R": motion}
        return output


def item(index: int, has_depth: bool = True, supports: int = 1) -> dict[str, Tensor]:
    depth = torch.full((1, 2, 4), float(index + 1)) if has_depth else torch.zeros(1, 2, 4)
    images = {"target": torch.zeros(3, 2, 4), "supports": torch.zeros(supports, 3, 2, 4)}
    return {"index": torch.tensor(index), "depth": depth, **images}


def batches(items: list[dict[str, Tensor]], size: int) -> list[dict[str, Tensor]]:
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    return [{k: torch.stack([one[k] for one in part]) for k in part[0]} for part in parts]


def accelerator(rank: int = 0, world: int = 1) -> Any:
    return SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=world,
        process_index=rank,
        is_main_process=rank == 0,
        autocast=lambda: torch.autocast("cpu", enabled=False),
    )


def result_of(
    items: list[Any], size: int, total: int, rank: int = 0, world: int = 1, objective: Any = None, **options: Any
) -> ValidationResult:
    limits = {"min_depth": 0.1, "max_depth": 100.0, **options}
    given, where = batches(items, size) if items else [], accelerator(rank, world)
    return validate(
        objective or Doubling(), given, total, accelerator=where, seed=1, epoch=0, want_images=False, **limits
    )


def test_the_mean_is_over_items_with_truth() -> None:
    items = [item(0), item(1), item(2, has_depth=False)]
    result = result_of(items, 2, 3)
    assert (result.num_items, result.num_with_depth) == (3, 2)
    # Half of the pixels of item 1 are doubled; the (lower) median is not, so its AbsRel is 0.5, and the mean 0.25.
    assert result.metrics["AbsRel"] == pytest.approx(0.25)
    assert result.losses == pytest.approx({"loss": (0.5 + 0.5 + 2) / 3, "img_recon": 2.0})
    assert result.value("AbsRel") == result.metrics["AbsRel"]
    assert result.value("loss_img_recon") == pytest.approx(2.0)


def varied(index: int) -> dict[str, Tensor]:
    """Item whose truth is 1 in one half and index + 3 in the other: the lower median is 1."""
    one = item(index)
    one["depth"] = torch.ones(1, 2, 4)
    one["depth"][..., 2:] = index + 3.0
    return one


def test_the_constant_is_scored_on_the_items_with_truth() -> None:
    result = result_of([varied(0), varied(1), item(2, has_depth=False)], 2, 3)
    # 1 everywhere: half of the pixels are off by 2 of 3, and by 3 of 4
    assert result.constant == pytest.approx((2 / 3 / 2 + 3 / 4 / 2) / 2)
    assert result.kept == pytest.approx(
        {**result.shown, "constant_AbsRel": result.constant, "disp_variation": result.disp_variation}
    )
    assert "constant_AbsRel" not in result.shown
    assert math.isnan(result_of([item(0, has_depth=False)], 1, 1).constant)
    assert ValidationResult().kept == {}


def test_items_without_supports_have_metrics_but_no_losses() -> None:
    result = result_of([item(0, supports=0), item(1, supports=0)], 2, 2)
    assert result.losses == {}
    assert result.metrics["AbsRel"] == pytest.approx(0.25)
    assert result.shown == result.metrics


def test_a_number_that_was_not_computed_is_nan() -> None:
    result = result_of([item(0, has_depth=False)], 1, 1)
    assert result.metrics == {}
    assert result.value("AbsRel") != result.value("AbsRel")


def test_a_learned_camera_is_measured_beside_that_of_the_data() -> None:
    items = [item(i) | {"K": torch.tensor([[2.0, 0, 2], [0, 1, 1], [0, 0, 1]])} for i in range(3)]
    result = result_of(items, 2, 3, objective=Learning())
    assert result.camera is not None
    assert result.camera.images == 3
    assert result.camera.mean == pytest.approx((1.6 / 3, 1.6 / 3, 0.5, 0.5))
    assert result.true_view == pytest.approx((90, 90))  # 2 of 4 pixels, 1 of 2
    assert result_of(items, 2, 3, objective=Learning(), knows_K=False).true_view is None
    alone = [item(0, supports=0)]  # without supports there is nothing to learn it from
    assert result_of(alone, 1, 1, objective=Learning()).camera is None
    assert result_of(items, 2, 3).camera is None


def _deal(rank: int, world: int) -> None:
    items = [varied(i) for i in range(5)]
    alone = result_of(items, 1, 5)
    mine = items if rank == 0 else []  # a process may get nothing at all
    together = result_of(mine, 1, 5, rank, world)
    assert together.metrics == alone.metrics
    assert together.losses == alone.losses
    assert together.constant == alone.constant > 0
    shared = result_of(items[rank::world], 1, 5, rank, world)
    assert shared.metrics == alone.metrics
    assert shared.losses == alone.losses
    assert shared.constant == alone.constant
    dist.barrier()


def test_two_processes_find_the_same_means(tmp_path: Path) -> None:
    run_world(_deal, 2, tmp_path)
