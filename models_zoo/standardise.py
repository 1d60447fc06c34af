"""Standardisation of images: the first layer of a network, which therefore takes RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]; the statistics timm's encoders were trained with
IMAGENET_STD = (0.229, 0.224, 0.225)


def statistics_problems(mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """List what is wrong with per-channel statistics: three numbers each, std above 0."""
    problems = [
        f"{name} is {list(values)}; it needs 3 numbers, one each for red, green and blue in [0, 1]"
        for name, values in (("mean", mean), ("std", std))
        if len(values) != 3
    ]
    if any(value <= 0 for value in std):
        problems.append(f"std is {list(std)}; every value must be above 0")
    return problems


class Standardise(nn.Module):
    """Subtract `mean` and divide by `std` per channel: (b 3k h w) RGB in [0, 1] -> (b 3k h w).

    The statistics are constructor arguments, so checkpoints record them with the hyper-parameters; the state dict holds
    only the keys of published weights.

    Args:
        mean, std: 3 numbers each, RGB. ImageNet's by default; 0.45 and 0.225 for Monodepth2's weights.
        images: k, the number of RGB images stacked on the channel axis.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, images: int = 1):
        super().__init__()
        if problems := statistics_problems(mean, std):
            raise ValueError("; ".join(problems))
        self.register_buffer("mean", torch.tensor([*mean] * images).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([*std] * images).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
