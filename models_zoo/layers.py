"""Building blocks of the decoders: reflect-padded convolutions, gates, output activations.

All of them keep the memory format of their input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.assembling import assemble, is_watched, join, padded, up2


class ReflectConv2d(nn.Conv2d):
    """A 3x3 convolution with reflect padding 1, which reads the padded buffer that holds its input, if there is one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(padded(x, reader=self), self.weight, self.bias)


def conv3x3(in_ch: int, out_ch: int) -> nn.Conv2d:
    """Build a 3x3 convolution with reflect padding 1 and bias: (b in_ch h w) -> (b out_ch h w); h, w >= 2."""
    return ReflectConv2d(in_ch, out_ch, kernel_size=3, padding=1, padding_mode="reflect")


class ConvELU(nn.Module):
    """Convolve 3x3 with reflect padding, then ELU: (b in_ch h w) -> (b out_ch h w). arXiv:1806.01260."""

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.conv = conv3x3(in_ch, out_ch)

    def forward(self, x: Tensor, *skips: Tensor | None, up: bool = False, pad: bool = False) -> Tensor:
        """Convolve, then `assemble` with these options; decoders call `convolve` for them."""
        return assemble(self.conv(x), *skips, act="elu", up=up, pad=pad)


class Named(nn.Sequential):
    """One layer under the name `conv`, which published keys give to all of theirs."""

    def __init__(self, layer: nn.Module):
        super().__init__(OrderedDict(conv=layer))

    def forward(self, *args: Any, **options: Any) -> Any:
        layer: Any = self.conv
        return layer(*args, **options)


def convolve(layer: nn.Module, x: Tensor, *skips: Tensor | None, up: bool = False, pad: bool = False) -> Tensor:
    """Return join(up2(layer(x)), *skips), without up2 unless `up`, where `layer` is a ConvELU or stands for one.

    A ConvELU does all of it at once (`assemble`), unless it has hooks, which shall see its ELU, or was changed.
    """
    if takes_options(layer):
        out: Tensor = layer(x, *skips, up=up, pad=pad)
        return out
    x = layer(x)
    return join(up2(x) if up else x, *skips)


def takes_options(layer: nn.Module) -> bool:
    """Return whether a layer is a ConvELU, perhaps `Named`, without hooks, other forward passes and other parts.

    For a compiler, which would have to read all this, none is.
    """
    if torch.compiler.is_compiling() or is_watched(layer) or "forward" in vars(layer):
        return False
    if type(layer).forward is Named.forward:
        return takes_options(layer.conv)  # type: ignore[arg-type]
    if type(layer).forward is not ConvELU.forward:
        return False
    conv = layer.conv
    return type(conv) is ReflectConv2d and not is_watched(conv) and "forward" not in vars(conv)


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
