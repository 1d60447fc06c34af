"""The decoder of SuperDepth (arXiv:1810.01849): sub-pixel convolutions in place of nearest upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LEVELS, SCALES, WIDTHS, Decoder
from models_zoo.layers import ConvELU, activate, conv3x3


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
        """Return the enlarged map in the memory format of x; see the class."""
        large = F.pixel_shuffle(self.conv(x), self.factor)
        if x.is_contiguous(memory_format=torch.channels_last):  # the CUDA kernel does not keep it
            return large.contiguous(memory_format=torch.channels_last)
        return large


@DECODERS.register("superdepth")
class SuperDepthDecoder(Decoder):
    """Sub-pixel upsampling, skip concatenation, every scale predicted at full resolution. arXiv:1810.01849.

    The map of scale s >= 1 is enlarged 2**s times by a last sub-pixel convolution, so that all outputs are
    (b out_ch h w).
    """

    source = "SuperDepth, arXiv:1810.01849"
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
            layers += [
                nn.Sequential(ConvELU(self.in_channels(level), width), SubPixel(width, 2)),
                ConvELU(width + skip, width),
            ]
        layers += [_head(scale, out_ch) for scale in self.out_scales]
        self.decoder = nn.ModuleList(layers)  # flat: the positions are the keys of published checkpoints

    def output_convs(self) -> Sequence[nn.Conv2d]:
        """The last convolution of every scale, whose bias is that of the output."""
        heads = cast("list[nn.Sequential]", list(self.decoder[2 * len(LEVELS) :]))
        last = [head[-1] for head in heads]
        return [cast("nn.Conv2d", layer.conv if isinstance(layer, SubPixel) else layer) for layer in last]

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: (b out_ch h w)}, ascending; feats (b E_i h/R_i w/R_i), shallow to deep."""
        x = feats[-1]
        outputs: dict[int, Tensor] = {}
        for step, level in enumerate(LEVELS):
            x = F.relu(self.decoder[2 * step](x))
            skip = self.skip_index(level)
            if skip is not None:
                x = torch.cat([x, feats[skip]], dim=1)
            x = self.decoder[2 * step + 1](x)
            if level in self.out_scales:
                head = self.decoder[2 * len(LEVELS) + self.out_scales.index(level)]
                outputs[level] = activate(head(x), self.activation)
        return dict(sorted(outputs.items()))


def _head(scale: int, out_ch: int) -> nn.Sequential:
    """Build the layers that turn level `scale` into a map of full resolution, before the activation."""
    if scale == 0:
        return nn.Sequential(conv3x3(WIDTHS[0], out_ch))
    return nn.Sequential(ConvELU(WIDTHS[scale], out_ch), SubPixel(out_ch, 2**scale))
