"""The decoder of SuperDepth (arXiv:1810.01849): sub-pixel convolutions in place of nearest upsampling."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.assembling import assemble
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import WIDTHS, LevelDecoder
from models_zoo.layers import ConvELU, convolve, takes_options


class SubPixel(nn.Module):
    """Enlarge a map by a learned interpolation per channel: (b n h w) -> (b n f*h f*w).

    A zero-padded grouped 3x3 convolution gives f*f values per pixel and channel, which become its f x f block.
    Starts as nearest upsampling of a smoothed map: the f*f filters of a channel are equal and the bias is 0, so
    that there is no checkerboard to unlearn. ICNR, arXiv:1707.02937.

    Args:
        width: n, the channels.
        factor: f, the enlargement.
    """

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(width, width * factor**2, kernel_size=3, padding=1, groups=width)
        with torch.no_grad():
            one_each = self.conv.weight[:: factor**2]
            self.conv.weight.copy_(one_each.repeat_interleave(factor**2, dim=0))
        nn.init.zeros_(cast("Tensor", self.conv.bias))

    def forward(self, x: Tensor) -> Tensor:
        large = F.pixel_shuffle(self.conv(x), self.factor)
        if x.is_contiguous(memory_format=torch.channels_last):  # the CUDA kernel does not keep it
            return large.contiguous(memory_format=torch.channels_last)
        return large


@DECODERS.register("superdepth")
class SuperDepthDecoder(LevelDecoder):
    """Sub-pixel upsampling, skip concatenation, every scale predicted at full resolution.

    The map of scale s >= 1 is enlarged 2**s times by a last sub-pixel convolution, so that all outputs are
    (b out_ch h w).
    """

    source = "SuperDepth, arXiv:1810.01849"
    supports_init = True

    def make_level(self, level: int) -> list[nn.Module]:
        width = WIDTHS[level]
        enlarge = nn.Sequential(ConvELU(self.in_channels(level), width), SubPixel(width, 2))
        return [enlarge, ConvELU(width + self.skip_channels(level), width)]

    def make_head(self, scale: int) -> nn.Module:
        if scale == 0:
            return nn.Sequential(super().make_head(0))
        return nn.Sequential(ConvELU(WIDTHS[scale], self.out_ch), SubPixel(self.out_ch, 2**scale))

    def rise(self, level: int, x: Tensor, skip: Tensor | None) -> Tensor:
        enlarge, fuse = self.layers(level)
        return convolve(fuse, assemble(enlarge(x), skip, act="relu", pad=takes_options(fuse)), pad=True)
