"""The decoder of CADepth-Net (arXiv:2112.13047): channels attend to each other at every level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LEVELS, SCALES, WIDTHS, Decoder
from models_zoo.layers import ConvELU, activate, at_least_float32, conv3x3, up2

PER_LEVEL = 3  # layers: convolution, convolution, detail emphasis


@DECODERS.register("cadepth")
class CADepthDecoder(Decoder):
    """Structure perception of the deepest feature, then upsampling with detail emphasis. arXiv:2112.13047."""

    source = "CADepth-Net, arXiv:2112.13047"
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
            width, fused = WIDTHS[level], WIDTHS[level] + self.skip_channels(level)
            layers += [ConvELU(self.in_channels(level), width), ConvELU(fused, width), DetailEmphasis(fused)]
        layers += [conv3x3(WIDTHS[scale], out_ch) for scale in self.out_scales]
        self.decoder = nn.ModuleList(layers)  # flat: the positions are the keys of published checkpoints

    def output_convs(self) -> Sequence[nn.Conv2d]:
        """The last layers, one per scale."""
        return cast("list[nn.Conv2d]", list(self.decoder[PER_LEVEL * len(LEVELS) :]))

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: (b out_ch h/2**s w/2**s)}, ascending; feats (b E_i h/R_i w/R_i), shallow to deep."""
        x = perceive_structure(feats[-1])
        outputs: dict[int, Tensor] = {}
        for step, level in enumerate(LEVELS):
            reduce, fuse, emphasise = self.decoder[PER_LEVEL * step : PER_LEVEL * (step + 1)]
            x = up2(reduce(x))
            skip = self.skip_index(level)
            if skip is not None:
                x = torch.cat([x, feats[skip]], dim=1)
            x = fuse(emphasise(x))
            if level in self.out_scales:
                head = self.decoder[PER_LEVEL * len(LEVELS) + self.out_scales.index(level)]
                outputs[level] = activate(head(x), self.activation)
        return dict(sorted(outputs.items()))


class DetailEmphasis(nn.Module):
    """Convolve, then amplify the channels that a gate in (0, 1) picks: (b c h w) -> (b c h w), at least 0.

    arXiv:2112.13047. The gate is computed from the means of all channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Sequential(conv3x3(channels, channels), nn.BatchNorm2d(channels), nn.ReLU())
        self.att = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the emphasised map; see the class."""
        x = self.conv(x)
        return x + x * self.att(x)


def perceive_structure(feat: Tensor) -> Tensor:
    """Add to every channel of feat (b c h w) a mixture of the channels that are least like it.

    The weights are a softmax over the negated products of channels, not scaled by their length. They and the
    mixture are float32 under autocast: the products sum over all positions, too much for float16.
    CADepth-Net, arXiv:2112.13047.
    """
    with torch.autocast(feat.device.type, enabled=False):
        channels = at_least_float32(feat).flatten(2)  # (b c hw)
        likeness = channels @ channels.transpose(1, 2)  # (b c c)
        unlike = (likeness.amax(dim=-1, keepdim=True) - likeness).softmax(dim=-1)
        mixture = (unlike @ channels).view_as(feat)
    return feat + mixture.to(feat.dtype)
