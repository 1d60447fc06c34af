"""Validation during training: one row per item, so means are the same on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.geometry import valid_depth
from trainer.metrics import camera as cameras
from trainer.metrics.camera import LearnedCamera
from trainer.metrics.validation import VALIDATION_METRICS, constant_error, relative_error, validation_metrics
from trainer.runtime.processes import gathered, total
from trainer.runtime.seeding import VALIDATION, seed_everything
from trainer.tracking import viz
from trainer.types import Images, StepOutput

SHOWN_ITEMS = 4  # in the overview of a data set


@dataclass
class ValidationResult:
    """Means over all items of one validation pass, and pictures of this process's last batch."""

    losses: dict[str, float] = field(default_factory=dict)  # "loss" = weighted total, then unweighted terms
    metrics: dict[str, float] = field(default_factory=dict)  # over the items with ground truth
    num_items: int = 0
    num_with_depth: int = 0
    constant: float = math.nan  # AbsRel of one constant depth for each of these items
    disp_variation: float = math.nan  # mean over items of std / mean of 1 / depth; 0 = constant
    camera: LearnedCamera | None = None  # over the items with supports, where it is learned
    true_view: tuple[float, ...] | None = None  # field of view of the data, horizontal and vertical, degrees
    stretch: float = math.nan  # learned fx / fy over that of the data
    images: Images = field(default_factory=dict)
    shown_items: list[int] = field(default_factory=list)  # dataset indices of those pictures

    @property
    def shown(self) -> dict[str, float]:
        """The total loss and the metrics, for display."""
        return {"loss": self.losses["loss"], **self.metrics} if self.losses else self.metrics

    @property
    def kept(self) -> dict[str, float]:
        """What checkpoints keep: `shown`, and what tells whether anything was learned, see `health.learned`."""
        judged = {"disp_variation": self.disp_variation, "constant_AbsRel": self.constant}
        return {**self.shown, **{name: value for name, value in judged.items() if not math.isnan(value)}}

    def value(self, monitor: str) -> float:
        """Return the number called `monitor`, NaN if it could not be computed."""
        return self.metrics.get(monitor, self.losses.get(monitor.removeprefix("loss_"), math.nan))


@torch.no_grad()
def validate(
    objective: Any,
    batches: Iterable[Any],
    num_items: int,
    *,
    accelerator: Any,
    seed: int,
    epoch: int,
    min_depth: float,
    max_depth: float,
    knows_K: bool = True,
    want_images: bool = True,
    on_batch: Callable[[], None] = lambda: None,
) -> ValidationResult:
    """Run the objective over `batches` and average per item, exactly.

    Each process fills the rows of its items in a table with one row per item, and the tables are summed, so a mean does
    not depend on who had which item. Items share the losses of their batch, unless a loss mixes items
    (`trainer.losses`): then each item is compared alone, since batches are smaller on more processes.

    Args:
        objective: the raw module in eval mode, not the DDP wrapper (its buffer broadcast would wait for idle ranks).
            Batches without supports are only predicted: they give metrics but no losses.
        batches: this process's share; dataset indices 0 .. num_items-1 occur exactly once over all processes.
        knows_K: whether K of the batches is that of the camera, and not a guess.
    """
    dtype = torch.float64 if accelerator.device.type != "mps" else torch.float32
    names: list[str] = []
    rows: list[tuple[Tensor, Tensor]] = []
    output: StepOutput | None = None
    for number, batch in enumerate(batches):
        batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
        seed_everything(seed, VALIDATION, epoch, number, accelerator.process_index)
        with accelerator.autocast():
            output = objective(batch) if _has_supports(batch) else objective.predict_only(batch)
            losses = _losses(objective, output, batch).to(dtype)
        names = ["loss", *output.losses] if output.losses else []
        rows.append((batch["index"], _rows(output, losses, batch, min_depth, max_depth)))
        on_batch()

    names = next(filter(None, gathered(accelerator, names)), [])  # a process without items has none
    if num_items == 0:
        return ValidationResult()
    width = cameras.COLUMNS + 3 + len(names) + len(VALIDATION_METRICS)
    table = torch.zeros(num_items, width, dtype=dtype, device=accelerator.device)
    for index, values in rows:
        table[index] = values
    result = _summarise(total(accelerator, table).cpu().double(), names)
    result.true_view = result.true_view if knows_K else None
    if want_images and output is not None and accelerator.is_main_process:
        result.images, result.shown_items = output.images, rows[-1][0].tolist()
    return result


def _has_supports(batch: Any) -> bool:
    return "supports" in batch and batch["supports"].shape[1] > 0


def _losses(objective: Any, output: StepOutput, batch: Any) -> Tensor:
    """Return total and terms for each item (b k): of the batch, or of the item alone if a loss mixes items."""
    b, outputs = len(batch["index"]), [output]
    if not output.losses:
        return output.loss.new_zeros(b, 0)
    if any(getattr(loss, "mixes_items", False) for loss in getattr(objective, "losses", {}).values()):
        outputs = [objective({key: value[i : i + 1] for key, value in batch.items()}) for i in range(b)]
    return torch.stack([torch.stack([o.loss, *o.losses.values()]) for o in outputs]).expand(b, -1)


def _rows(output: StepOutput, losses: Tensor, batch: Any, min_depth: float, max_depth: float) -> Tensor:
    """Return the rows of a batch (b k): learned camera, disparity variation, losses, metrics, constant, has depth."""
    b, dtype = len(batch["index"]), losses.dtype
    height, width = batch["target"].shape[-2:]
    camera = cameras.measure(output.predictions, batch.get("K"), (width, height)).to(dtype)
    disp = 1 / output.predictions["depth"][0].flatten(1).to(dtype)  # that of a dead sigmoid varies in proportion
    variation = (disp.std(1) / disp.mean(1).clamp(min=1e-12))[:, None]
    if "depth" in batch:
        values, valid = validation_metrics(output.predictions["depth"][0], batch["depth"], min_depth, max_depth)
        values = torch.cat([values, constant_error(batch["depth"], min_depth, max_depth)[:, None]], 1)
        values = torch.where(valid[:, None], values.to(dtype), 0.0)
    else:
        values, valid = losses.new_zeros(b, len(VALIDATION_METRICS) + 1), losses.new_zeros(b)
    return torch.cat([camera, variation, losses, values, valid[:, None].to(dtype)], 1)


def _summarise(table: Tensor, names: list[str]) -> ValidationResult:
    valid = table[:, -1] > 0
    of_camera, table = table[:, : cameras.COLUMNS], table[:, cameras.COLUMNS :]
    variation, losses = table[:, 0], table[:, 1 : 1 + len(names)]
    metrics, constant = table[valid, 1 + len(names) : -2], table[valid, -2]
    return ValidationResult(
        losses=dict(zip(names, losses.mean(0).tolist(), strict=True)),
        metrics=dict(zip(VALIDATION_METRICS, metrics.mean(0).tolist(), strict=True)) if len(metrics) else {},
        num_items=len(table),
        num_with_depth=len(metrics),
        constant=float(constant.mean()),
        disp_variation=float(variation.mean()),
        camera=cameras.summarise(of_camera),
        true_view=cameras.true_view(of_camera),
        stretch=cameras.stretch(of_camera),
    )


@torch.no_grad()
def overview(
    objective: Any,
    loader: Any,
    accelerator: Any,
    seed: int,
    min_depth: float,
    max_depth: float,
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> list[dict[str, Any]]:
    """Predict a few items of a loader's data set, always the same and evenly spaced; return rows for `viz.sheet`.

    Each is a batch of its own, predicted from its clean image in evaluation mode. For one process alone: nothing is
    reduced. Draws of later steps do not depend on those here, because every step seeds its own.
    """
    dataset, last = loader.dataset, loader.batch_sampler.num_items - 1
    rows: list[dict[str, Any]] = []
    for index in sorted({round(last * i / (SHOWN_ITEMS - 1)) for i in range(SHOWN_ITEMS)}):
        item = {k: v for k, v in dataset[index].items() if not k.endswith("_aug")}
        batch = prepare({k: v[None].to(accelerator.device) for k, v in item.items()})
        seed_everything(seed, VALIDATION, 0, index, accelerator.process_index)
        with accelerator.autocast(), _uncompiled(objective):
            output = objective(batch) if _has_supports(batch) else objective.predict_only(batch)
        names = {"label": str(len(rows) + 1), "name": dataset.describe(index)}
        rows.append({**names, **_pictures(output, batch, min_depth, max_depth)})
    return rows


def _pictures(output: StepOutput, batch: Mapping[str, Tensor], min_depth: float, max_depth: float) -> dict[str, Any]:
    """Return the pictures of a batch of one item, by the keys of `viz.sheet`."""
    images = output.images
    warps = [image for tag, image in images.items() if tag.startswith("imgs_warp/supp_")]
    colours = {"input": batch["target"], **({"warp": warps[0]} if warps else {})}
    row: dict[str, Any] = {key: viz.to_uint8(viz.colour_image(image)[0]) for key, image in colours.items()}
    row["prediction"] = viz.to_uint8(viz.colour_disp(output.predictions["disp"][0])[0])  # in no unit
    maps = {}
    if "masks/automask" in images:
        maps["automask"] = images["masks/automask"][0, 0]
    if "depth" in batch and valid_depth(batch["depth"]).any():
        truth = batch["depth"]
        maps["truth"] = torch.where(valid_depth(truth), truth, 0.0)[0, 0]
        maps["error"] = relative_error(output.predictions["depth"][0], truth, min_depth, max_depth)
        row["abs_rel"] = float(maps["error"].nanmean())
    return row | {key: image.float().cpu().numpy() for key, image in maps.items()}


def _uncompiled(objective: Any) -> AbstractContextManager[Any]:
    """Leave compiled code aside: a single item has a shape of its own, and compiling for it takes minutes."""
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in objective.modules())
    known = hasattr(torch.compiler, "set_stance")  # since torch 2.6
    return torch.compiler.set_stance("force_eager") if compiled and known else nullcontext()
