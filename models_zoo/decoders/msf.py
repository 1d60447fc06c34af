"""The decoder of RA-Depth (arXiv:2207.11984): three rounds of fusion of all strides, then the way up to the image.

Level k has stride 2**(k + 1), as the feature k of an HRNet; level 0 waits until the others are fused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.assembling import up2
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import WIDTHS, Decoder
from models_zoo.layers import ConvELU, Named, activate, conv3x3, convolve

STRIDES = (2, 4, 8, 16, 32)
ROUNDS = (4, 3, 2)  # deepest level of each round


@DECODERS.register("msf")
class MultiScaleFusionDecoder(Decoder):
    """Add every level to all levels above it, in three rounds; one output, of scale 0.

    Channels stay those of the feature of a level. Reads features of strides 2, 4, 8, 16 and 32.
    """

    source = "RA-Depth, arXiv:2207.11984"
    scales = (0,)
    supports_init = True
    supports_no_skip = False

    @classmethod
    def feature_problems(cls, reductions: Sequence[int]) -> list[str]:
        if tuple(reductions) == STRIDES:
            return []
        return [
            f"its feature maps have strides {list(reductions)}; decoder 'msf' reads {list(STRIDES)}."
            " Choose e.g. hrnet_w18, resnet18"
        ]

    def build(self) -> None:
        """Create the layers in the order of published keys, in which `forward` takes them."""
        if not self._feature_at:
            raise ValueError("msf needs use_skip=True: it fuses encoder features of all levels")
        widths, half, whole = self.channels, WIDTHS[1], WIDTHS[0]
        layers: list[nn.Module] = []
        for deepest in ROUNDS:
            layers += [ConvELU(widths[level], widths[level]) for level in range(1, deepest + 1)]
            layers += [mixing(widths[source], widths[level]) for source, level in fusions(deepest)]
        layers += [ConvELU(widths[level], widths[level]) for level in (0, 1)]
        layers += [mixing(widths[1], widths[0]), ConvELU(widths[0], half), ConvELU(half, whole)]
        layers.append(conv3x3(whole, self.out_ch))
        self.decoder = nn.ModuleList(map(Named, layers))

    def heads(self) -> Sequence[nn.Module]:
        return list(self.decoder[-1:])

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        maps, layers = list(feats), iter(self.decoder)
        for deepest in ROUNDS:
            for level in range(1, deepest + 1):
                maps[level] = next(layers)(maps[level])
            sums = list(maps)
            for source, level in fusions(deepest):  # repeating pixels and a 1x1 convolution change places
                sums[level] = sums[level] + enlarge(next(layers)(maps[source]), 2 ** (source - level))
            maps = sums
        x, above = next(layers)(maps[0]), next(layers)(maps[1])
        x = x + up2(next(layers)(above))
        half = convolve(next(layers), x, up=True, pad=True)
        whole = convolve(next(layers), half, pad=True)
        return {0: activate(next(layers)(whole), self.activation)}


def fusions(deepest: int) -> Iterator[tuple[int, int]]:
    """Yield (source, level) of the maps that are added in a round, in the order of published keys."""
    for source in range(2, deepest + 1):
        for level in range(source - 1, 0, -1):
            yield source, level


def mixing(n_in: int, n_out: int) -> nn.Module:
    """Build a 1x1 convolution with ELU, named as `ConvELU` names its own."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(n_in, n_out, 1), act=nn.ELU()))


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Repeat pixels: (b c h w) -> (b c factor*h factor*w)."""
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")
