"""The decoder of DIFFNet (arXiv:2110.09482): attention over the channels of the upsampled map and the skip."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from models_zoo.assembling import is_watched, join, up2
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LEVELS, WIDTHS, LevelDecoder
from models_zoo.layers import ConvELU, SqueezeExcite, conv3x3, convolve, takes_options


@DECODERS.register("diffnet")
class DIFFNetDecoder(LevelDecoder):
    """Gate the concatenated channels, then convolve; levels without a skip are plain."""

    source = "DIFFNet, arXiv:2110.09482"
    supports_init = True

    def build(self) -> None:
        """Create the layers by the names of published keys."""
        self.convs = nn.ModuleDict()
        for level in LEVELS:
            in_ch, skip, width = self.in_channels(level), self.skip_channels(level), WIDTHS[level]
            self.convs[f"upconv_{level}"] = (
                AttentionFusion(in_ch + skip, width)
                if skip
                else PlainLevel(ConvELU(in_ch, width), nn.Upsample(scale_factor=2), ConvELU(width, width))
            )
        for scale in sorted(self.out_scales):
            self.convs[f"outconv_{scale}"] = self.make_head(scale)

    def head(self, scale: int) -> nn.Module:
        return self.convs[f"outconv_{scale}"]

    def rise(self, level: int, x: Tensor, skip: Tensor | None) -> Tensor:
        return self.convs[f"upconv_{level}"](x if skip is None else join(up2(x), skip))


class PlainLevel(nn.Sequential):
    """Convolve, repeat pixels, convolve: a `ConvELU`, an `nn.Upsample`, a `ConvELU`. (b n h w) -> (b m 2h 2w)."""

    def forward(self, x: Tensor) -> Tensor:
        reduce, upsample, fuse = self
        if not takes_options(reduce) or is_watched(upsample):
            return super().forward(x)
        return convolve(fuse, convolve(reduce, x, up=True, pad=True), pad=True)


class AttentionFusion(nn.Module):
    """Gate the channels, convolve 3x3, ReLU: (b in_ch h w) -> (b out_ch h w), at least 0. arXiv:2110.09482."""

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        gate = nn.Sequential(OrderedDict(fc=SqueezeExcite(in_ch)))  # "fc" is part of the published keys
        self.layers = nn.Sequential(gate, conv3x3(in_ch, out_ch), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
