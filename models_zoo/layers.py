"""Building blocks of the decoders: reflect-padded convolutions, nearest upsampling, gates, output activations.

All of them keep the memory format of their input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(in_ch: int, out_ch: int) -> nn.Conv2d:
    """Build a 3x3 convolution with reflect padding 1 and bias: (b in_ch h w) -> (b out_ch h w); h, w >= 2."""
    return nn.Conv2d(in_ch, out_ch, kernel_size=3, padding=1, padding_mode="reflect")


class ConvELU(nn.Module):
    """Convolve 3x3 with reflect padding, then ELU: (b in_ch h w) -> (b out_ch h w). arXiv:1806.01260."""

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.conv = conv3x3(in_ch, out_ch)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(x))


def up2(x: Tensor) -> Tensor:
    """Double height and width by repeating pixels: (b c h w) -> (b c 2h 2w)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def join(x: Tensor, skip: Tensor | None) -> Tensor:
    """Concatenate a map (b c h w) and a skip (b d h w), if any, along the channels."""
    return x if skip is None else torch.cat([x, skip], dim=1)


class SqueezeExcite(nn.Sequential):
    """Scale every channel by a gate in (0, 1), computed from the means of all channels: (b c h w) -> (b c h w).

    Keys: 0.weight (c/16 c) and 2.weight (c c/16), no biases. Squeeze-and-Excitation, arXiv:1709.01507.
    """

    def __init__(self, channels: int):
        hidden = max(channels // 16, 1)
        super().__init__(nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(super().forward(x.mean(dim=(2, 3))))
        return x * gate[:, :, None, None]


def at_least_float32(x: Tensor) -> Tensor:
    """Return 16-bit tensors as float32 and all others unchanged.

    Heads use it under autocast: bfloat16 has 128 steps between 1/2 and 1, too few for a disparity.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def inverse_sigmoid_depth(x: Tensor) -> Tensor:
    """Return disparity >= 1 whose inverse, sigmoid(x), is depth as a share of the largest: Depth Anything's metric."""
    return 1 / torch.sigmoid(x).clamp_min(torch.finfo(torch.float32).eps)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "metric": inverse_sigmoid_depth,
    "none": lambda x: x,
}


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply an output activation, a key of ACTIVATIONS, in at least float32, whatever autocast says."""
    return ACTIVATIONS[activation](at_least_float32(x))
