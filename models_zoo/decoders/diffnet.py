"""The decoder of DIFFNet (arXiv:2110.09482): attention over the channels of the upsampled map and the skip."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LEVELS, SCALES, WIDTHS, Decoder
from models_zoo.layers import ConvELU, SqueezeExcite, activate, conv3x3, up2


@DECODERS.register("diffnet")
class DIFFNetDecoder(Decoder):
    """Gate the concatenated channels, then convolve; levels without a skip are plain. arXiv:2110.09482."""

    source = "DIFFNet, arXiv:2110.09482"
    supports_init = True

    def __init__(
        self,
        channels: Sequence[int],
        reductions: Sequence[int],
        out_scales: Sequence[int] = SCALES,
        out_ch: int = 1,
        activation: str = "sigmoid",
        use_skip: bool = True,
    ):
        super().__init__(channels, reductions, out_scales, out_ch, activation, use_skip)
        self.convs = nn.ModuleDict()
        for level in LEVELS:
            in_ch, skip, width = self.in_channels(level), self.skip_channels(level), WIDTHS[level]
            self.convs[f"upconv_{level}"] = (
                AttentionFusion(in_ch + skip, width)
                if skip
                else nn.Sequential(ConvELU(in_ch, width), nn.Upsample(scale_factor=2), ConvELU(width, width))
            )
        for scale in sorted(self.out_scales):
            self.convs[f"outconv_{scale}"] = conv3x3(WIDTHS[scale], out_ch)

    def output_convs(self) -> Sequence[nn.Conv2d]:
        """The output convolutions, ascending by scale."""
        return [cast("nn.Conv2d", self.convs[f"outconv_{scale}"]) for scale in sorted(self.out_scales)]

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: (b out_ch h/2**s w/2**s)}, ascending; feats (b E_i h/R_i w/R_i), shallow to deep."""
        x = feats[-1]
        outputs: dict[int, Tensor] = {}
        for level in LEVELS:
            skip = self.skip_index(level)
            if skip is not None:
                x = torch.cat([up2(x), feats[skip]], dim=1)
            x = self.convs[f"upconv_{level}"](x)
            if level in self.out_scales:
                outputs[level] = activate(self.convs[f"outconv_{level}"](x), self.activation)
        return dict(sorted(outputs.items()))


class AttentionFusion(nn.Module):
    """Gate the channels, convolve 3x3, ReLU: (b in_ch h w) -> (b out_ch h w), at least 0. arXiv:2110.09482."""

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        gate = nn.Sequential(OrderedDict(fc=SqueezeExcite(in_ch)))  # "fc" is part of the published keys
        self.layers = nn.Sequential(gate, conv3x3(in_ch, out_ch), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the fused map; see the class."""
        fused: Tensor = self.layers(x)
        return fused
