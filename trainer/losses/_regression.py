"""Regression: the distance between two maps of numbers, as one value, over the pixels that count.

L1; logarithmic L1, Depth Hints, arXiv:1909.09051; reverse Huber (berHu), Laina et al., arXiv:1606.00373, and
Kuznietsov et al., arXiv:1702.02706.

Of several processes each has its share of a training batch. The mean over processes of their values, and of their
gradients, is that of one process with the whole batch, however the pixels that count are spread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.losses._processes import max_over_processes, mean_over_processes

RegressionName = Literal["berhu", "l1", "log_l1"]
# Maps of a and b (b c h w), and which pixels count (bool, None = all) -> their distance, a scalar.
Criterion = Callable[..., Tensor]


def berhu(difference: Tensor) -> Tensor:
    """Weigh differences d >= 0: d up to c, (d**2 + c**2) / 2c above, c = a fifth of the largest, a constant.

    The largest of the batch, whichever process has it.
    """
    c = 0.2 * max_over_processes(difference.max())
    large = (difference.square() + c**2) / (2 * c + torch.finfo(difference.dtype).eps)
    return torch.where(difference <= c, difference, large)


# Every error of 0 is 0, so that a pixel that does not count can be given a difference of 0.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"berhu": berhu, "l1": lambda d: d, "log_l1": torch.log1p}


def criterion(loss_name: str) -> Criterion:
    """Find the criterion called `loss_name`. Raises ValueError naming the choices."""
    if loss_name not in ERRORS:
        raise ValueError(
            f"loss_name {loss_name!r} is not a regression error. {did_you_mean(loss_name, ERRORS)}"
        )
    error = ERRORS[loss_name]

    def distance(a: Tensor, b: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mean error over the valid pixels; 0, with a gradient of 0, when there are none.

        The sum of this process, over the mean number of valid pixels of all. Without `valid` all pixels count.
        """
        if valid is None:
            return error((a - b).abs()).mean()
        # Before anything nonlinear: what stands where nothing is known must reach neither value nor gradient.
        difference = torch.where(valid, a - b, 0.0)
        count = mean_over_processes(valid.sum())
        return error(difference.abs()).sum() / torch.where(count > 0, count, 1)

    return distance
