"""Regression: the distance between two maps as one value, over valid pixels.

L1; logarithmic L1, Depth Hints, arXiv:1909.09051; reverse Huber (berHu), Laina et al., arXiv:1606.00373, and
Kuznietsov et al., arXiv:1702.02706.

The mean over processes of values and gradients equals that of one process with the whole batch, however the valid
pixels are spread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.losses._processes import max_over_processes, mean_over_processes

RegressionName = Literal["berhu", "l1", "log_l1"]
# Maps a and b (b c h w), valid pixels (bool, None = all) -> their distance, a scalar.
Criterion = Callable[..., Tensor]


def berhu(difference: Tensor) -> Tensor:
    """Weigh differences d >= 0: d up to c, (d**2 + c**2) / 2c above; c, constant, is a fifth of the batch's largest."""
    c = 0.2 * max_over_processes(difference.max())
    large = (difference.square() + c**2) / (2 * c + torch.finfo(difference.dtype).eps)
    return torch.where(difference <= c, difference, large)


# All map 0 to 0, so that invalid pixels can get a difference of 0.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"berhu": berhu, "l1": lambda d: d, "log_l1": torch.log1p}


def criterion(loss_name: str) -> Criterion:
    """Find the criterion called `loss_name`. Raises ValueError naming the choices."""
    if loss_name not in ERRORS:
        raise ValueError(f"loss_name {loss_name!r} is not a regression error. {did_you_mean(loss_name, ERRORS)}")
    error = ERRORS[loss_name]

    def distance(a: Tensor, b: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the mean error over valid pixels; 0, with a gradient of 0, when there are none.

        This is the sum of this process over the mean number of valid pixels of all processes.
        """
        if valid is None:
            return error((a - b).abs()).mean()
        # Before anything nonlinear: invalid pixels must reach neither value nor gradient.
        difference = torch.where(valid, a - b, 0.0)
        count = mean_over_processes(valid.sum())
        return error(difference.abs()).sum() / torch.where(count > 0, count, 1)

    return distance
