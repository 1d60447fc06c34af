"""The decoder of Lite-Mono (arXiv:2211.13202): three levels, bilinear upsampling, from stride 16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.assembling import assemble
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import Decoder
from models_zoo.layers import ConvELU, Named, activate, at_least_float32, conv3x3, convolve, takes_options

STRIDES = (4, 8, 16)  # of the features; level i starts from that of stride 4 * 2**i


@DECODERS.register("litemono")
class LiteMonoDecoder(Decoder):
    """Convolve, enlarge, fuse the skip, convolve; outputs of half the size of their scale, enlarged.

    Reads features of strides 4, 8 and 16, the last of which is the deepest: of `litemono`, and of other encoders with
    these. Layers of stride 32 would never learn, so encoders that have them are refused.
    """

    source = "Lite-Mono, arXiv:2211.13202"
    scales = (0, 1, 2)
    supports_init = True
    supports_no_skip = False

    @classmethod
    def feature_problems(cls, reductions: Sequence[int]) -> list[str]:
        if reductions[-1] == STRIDES[-1] and set(STRIDES) <= set(reductions):
            return []
        return [
            f"its feature maps have strides {list(reductions)}; decoder 'litemono' reads {list(STRIDES)}, none of them"
            " deeper. Choose litemono, litemono_small, litemono_tiny or litemono_8m"
        ]

    def build(self) -> None:
        """Create the layers by the names of published keys: `decoder.0` to `decoder.5`, then the outputs."""
        if not self._feature_at:
            raise ValueError("litemono needs use_skip=True: it fuses encoder features at every level")
        encoded = [self.channels[self._feature_at[stride]] for stride in STRIDES]
        widths = [channels // 2 for channels in encoded]
        layers: list[nn.Module] = []
        for i in (2, 1, 0):
            above = encoded[2] if i == 2 else widths[i + 1]
            layers.append(ConvELU(above, widths[i]))
            layers.append(ConvELU(widths[i] + (encoded[i - 1] if i else 0), widths[i]))
        layers += [conv3x3(widths[scale], self.out_ch) for scale in self.out_scales]
        self.decoder = nn.ModuleList(map(Named, layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(cast(Tensor, module.bias))

    def heads(self) -> Sequence[nn.Module]:
        return list(self.decoder[6:])

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        skips = [feats[self._feature_at[stride]] for stride in STRIDES]
        outputs: dict[int, Tensor] = {}
        x = skips[2]
        for level, reduce, fuse in zip((2, 1, 0), self.decoder[0:6:2], self.decoder[1:6:2], strict=True):
            skip = skips[level - 1] if level else None
            x = convolve(fuse, assemble(enlarge(reduce(x)), skip, pad=takes_options(fuse)), pad=True)
            if level in self.out_scales:
                head = self.decoder[6 + self.out_scales.index(level)]
                outputs[level] = activate(enlarge(at_least_float32(head(x))), self.activation)
        return dict(sorted(outputs.items()))


def enlarge(x: Tensor) -> Tensor:
    """Double height and width bilinearly: (b c h w) -> (b c 2h 2w)."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
