"""The five metrics monitored during training, per image and median scaled; not those of the tables."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.geometry import valid_depth
from trainer.metrics import Metric

# In the order of `validation_metrics`. Keys are those of TensorBoard, checkpoints and monitors.
VALIDATION = {
    metric.key: metric
    for metric in (
        Metric("MAE", "m", title="MAE"),
        Metric("RMSE", "m", title="RMSE"),
        Metric("LogSI", "ln m", title="SI log"),
        Metric("AbsRel", "fraction", title="Abs Rel"),
        Metric("Acc", "fraction", higher_is_better=True, title="δ < 1.25"),
    )
}
VALIDATION_METRICS = tuple(VALIDATION)
ONCE_PER_CENT = ("LogSI", "AbsRel", "Acc")  # a hundred times as large in checkpoints of format 1 and their curves


def shown_name(name: str) -> str:
    """Name a number of the validation, by its key, on a terminal: "Abs Rel", "val loss"."""
    return VALIDATION[name].shown if name in VALIDATION else f"val {name}"


def higher_is_better(name: str) -> bool:
    """Return whether a larger value of the monitored quantity is better: true of accuracies only."""
    return "Acc" in name


def improvement(name: str, value: float, best: float) -> float:
    """Return by how much `value` of the monitored quantity is better than `best`; negative when it is worse."""
    return value - best if higher_is_better(name) else best - value


def monitor_problem(
    name: str, loss_names: Iterable[str], *, has_depth: bool = True, has_supports: bool = True
) -> str | None:
    """Return why validation does not compute the number called `name` and what to do, None when it does.

    Numbers are the metrics of this file, "loss", and "loss_<name>" of each loss.
    """
    known = [*VALIDATION_METRICS, "loss", *(f"loss_{loss}" for loss in loss_names)]
    if name not in known:
        return f"{name!r} is not a number of the validation. {did_you_mean(name, known)}"
    if name in VALIDATION_METRICS and not has_depth:
        fix = "set dataset.val.use_depth: true, or watch loss"
        return f"{name} needs true depth, but use_depth is false for val; {fix}"
    if name not in VALIDATION_METRICS and not has_supports:
        return f"{name} needs supports, but dataset.val.supp_idxs is empty; name supports there, or watch AbsRel"
    return None


@torch.no_grad()
def validation_metrics(depth: Tensor, target: Tensor, min_depth: float, max_depth: float) -> tuple[Tensor, Tensor]:
    """Score each image of a batch after scaling it by the ratio of medians.

    Args:
        depth: predicted depth (b 1 h w), any unit; resized bilinearly to the size of `target`.
        target: true depth (b 1 H W) in metres; what is no measurement (`trainer.geometry.valid_depth`) counts as none.
        min_depth, max_depth: metres, to which both depths are clamped; those of the network, see `metric_limits`.

    Returns:
        values (b 5) float32 in the order of `VALIDATION_METRICS`, and valid (b,) bool: whether any true depth of the
        image lies between the limits; were all of it clamped, every prediction would be perfect. Rows of other images
        are 0 and must not enter a mean. A NaN prediction makes the errors NaN and Acc 0.
    """
    depth = _resized(depth, target, min_depth, max_depth)
    min_depth, max_depth = metric_limits(min_depth, max_depth)
    values = depth.new_zeros(len(depth), len(VALIDATION_METRICS))
    has_truth = valid_depth(target)
    valid = (has_truth & valid_depth(target, min_depth, max_depth)).flatten(1).any(dim=1)
    for i_item in valid.nonzero().flatten().tolist():
        pred, truth = depth[i_item][has_truth[i_item]], target[i_item][has_truth[i_item]].float()
        values[i_item] = _item_metrics(pred, truth, min_depth, max_depth)
    return values, valid


@torch.no_grad()
def constant_error(target: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Return the AbsRel (b,) of one constant depth for each image of `validation_metrics`, 0 where it is not valid.

    Scaling by medians turns every constant into the median of the truth.
    """
    values, _ = validation_metrics(target.new_ones(len(target), 1, 1, 1), target, min_depth, max_depth)
    return values[:, VALIDATION_METRICS.index("AbsRel")]


@torch.no_grad()
def relative_error(depth: Tensor, target: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Return the map (H W) of which AbsRel is the mean: error over truth, NaN where there is none. See above; b = 1."""
    depth = _resized(depth, target, min_depth, max_depth)
    min_depth, max_depth = metric_limits(min_depth, max_depth)
    error, has_truth = torch.full_like(target, torch.nan, dtype=torch.float32), valid_depth(target)
    if has_truth.any():
        pred, truth = _scaled(depth[has_truth], target[has_truth].float(), min_depth, max_depth)
        error[has_truth] = (pred - truth).abs() / truth
    return error[0, 0]


def metric_limits(min_depth: float, max_depth: float) -> tuple[float, float]:
    """Return the limits of what is scored, in metres: those of the network, or 0.001 and 80 when it has none (0, inf).

    80 m: Eigen et al., arXiv:1406.2283. A disparity of 0 would be some 10,000 km.
    """
    return (min_depth, max_depth) if min_depth else (1e-3, 80.0)


def _resized(depth: Tensor, target: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Resize depth (b 1 h w) to the size of `target`, within its limits; as inverse depth when it has none."""
    depth = depth.float() if min_depth else 1 / depth.float()
    depth = F.interpolate(depth, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return (depth if min_depth else 1 / depth).clamp(min_depth, max_depth)


def _scaled(pred: Tensor, truth: Tensor, min_depth: float, max_depth: float) -> tuple[Tensor, Tensor]:
    """Scale by medians and clamp the valid pixels (n,) of an image. The median of an even count is the lower middle."""
    pred = (pred * (truth.median() / pred.median())).clamp(min_depth, max_depth)
    return pred, truth.clamp(min_depth, max_depth)


def _item_metrics(pred: Tensor, truth: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Five metrics of the valid pixels (n,) of one image."""
    pred, truth = _scaled(pred, truth, min_depth, max_depth)
    error = pred - truth
    log_error = pred.log() - truth.log()
    ratio = torch.maximum(pred / truth, truth / pred)
    # var: mean(e^2) - mean(e)^2 would cancel and may turn out negative.
    return torch.stack(
        (
            error.abs().mean(),
            error.square().mean().sqrt(),
            log_error.var(correction=0).sqrt(),
            (error.abs() / truth).mean(),
            (ratio < 1.25).float().mean(),
        )
    )
