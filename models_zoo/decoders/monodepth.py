"""The U-Net decoder of Monodepth2 (arXiv:1806.01260): convolve, upsample, fuse the skip, convolve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LEVELS, SCALES, WIDTHS, Decoder
from models_zoo.layers import ConvELU, activate, conv3x3, up2


@DECODERS.register("monodepth")
class MonodepthDecoder(Decoder):
    """Nearest upsampling, skip concatenation, one output convolution per scale. arXiv:1806.01260."""

    source = "Monodepth2, arXiv:1806.01260"
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
        layers: list[nn.Module] = []
        for level in LEVELS:
            width, skip = WIDTHS[level], self.skip_channels(level)
            layers += [ConvELU(self.in_channels(level), width), ConvELU(width + skip, width)]
        layers += [conv3x3(WIDTHS[scale], out_ch) for scale in self.out_scales]
        self.decoder = nn.ModuleList(layers)  # flat: the positions are the keys of published checkpoints

    def output_convs(self) -> Sequence[nn.Conv2d]:
        """The last layers, one per scale."""
        return cast("list[nn.Conv2d]", list(self.decoder[2 * len(LEVELS) :]))

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: (b out_ch h/2**s w/2**s)}, ascending; feats (b E_i h/R_i w/R_i), shallow to deep."""
        x = feats[-1]
        outputs: dict[int, Tensor] = {}
        for step, level in enumerate(LEVELS):
            x = up2(self.decoder[2 * step](x))
            skip = self.skip_index(level)
            if skip is not None:
                x = torch.cat([x, feats[skip]], dim=1)
            x = self.decoder[2 * step + 1](x)
            if level in self.out_scales:
                head = self.decoder[2 * len(LEVELS) + self.out_scales.index(level)]
                outputs[level] = activate(head(x), self.activation)
        return dict(sorted(outputs.items()))
