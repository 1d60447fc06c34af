"""The decoder of CADepth-Net (arXiv:2112.13047): channels attend to each other at every level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import WIDTHS, LevelDecoder
from models_zoo.layers import ConvELU, at_least_float32, conv3x3, convolve


@DECODERS.register("cadepth")
class CADepthDecoder(LevelDecoder):
    """Structure perception of the deepest feature, then upsampling with detail emphasis."""

    source = "CADepth-Net, arXiv:2112.13047"
    supports_init = True

    def make_level(self, level: int) -> list[nn.Module]:
        """Create two convolutions and the detail emphasis between them, which published keys put last."""
        width, fused = WIDTHS[level], WIDTHS[level] + self.skip_channels(level)
        return [ConvELU(self.in_channels(level), width), ConvELU(fused, width), DetailEmphasis(fused)]

    def enter(self, feat: Tensor) -> Tensor:
        return perceive_structure(feat)

    def rise(self, level: int, x: Tensor, skip: Tensor | None) -> Tensor:
        reduce, fuse, emphasise = self.layers(level)
        return convolve(fuse, emphasise(convolve(reduce, x, skip, up=True, pad=True)), pad=True)


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
