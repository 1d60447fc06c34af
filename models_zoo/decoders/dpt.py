"""The dense prediction transformer (DPT, arXiv:2103.13413) in the layout of Depth Anything (arXiv:2401.10891).

All convolutions are padded with zeros, and no layer normalises. Modules have the names of files of transformers, but
for their prefixes, see `models_zoo.weights.depth_anything_names`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import SCALES, Decoder
from models_zoo.layers import activate

NECKS = {1024: (256, 512, 1024, 1024), 1536: (1536, 1536, 1536, 1536)}  # ViT-L and g; else width / (8, 4, 2, 1)


@DECODERS.register("dpt")
class DPTDecoder(Decoder):
    """Turn the tokens of four blocks of a ViT into maps of four strides, and fuse them from deep to shallow.

    Scale 0 has the size of the image that the tokens were made of, P times that of their grid, where P is the patch.
    Scales 1, 2 and 3, where asked for, come from heads of their own on fused maps, with 8, 4 and 2 times the size of
    the grid.

    Args:
        neck: channels of the four maps, shallow to deep; None for those of Depth Anything.
        fusion: channels of the fused maps; None for those of Depth Anything: width / 6, with ViT-L and g width / 4.
        hidden: channels before the last convolution of a head.

    Raises ValueError for a neck of other than four maps, and for what is no number of channels.
    """

    source = "DPT, arXiv:2103.13413; Depth Anything, arXiv:2401.10891"
    supports_init = True
    supports_no_skip = False
    reads_tokens = True

    def __init__(
        self,
        channels: Sequence[int],
        reductions: Sequence[int],
        out_scales: Sequence[int] = SCALES,
        out_ch: int = 1,
        activation: str = "sigmoid",
        use_skip: bool = True,
        neck: Sequence[int] | None = None,
        fusion: int | None = None,
        hidden: int = 32,
    ):
        width = channels[-1]
        self.patch, self.hidden = reductions[-1], hidden
        usual_neck, usual_fusion = channels_of(width)
        if neck is not None and not (isinstance(neck, list | tuple) and len(neck) == len(channels)):
            raise ValueError(f"neck {neck} must be the channels of {len(channels)} maps, shallow to deep")
        self.neck, self.fused = tuple(neck or usual_neck), usual_fusion if fusion is None else fusion
        if wrong := [n for n in (*self.neck, self.fused, hidden) if not isinstance(n, int) or n < 2]:
            raise ValueError(f"neck, fusion, hidden: {wrong[0]!r} is no number of channels, 2 or more")
        super().__init__(channels, reductions, out_scales, out_ch, activation, use_skip)

    @classmethod
    def feature_problems(cls, reductions: Sequence[int]) -> list[str]:
        if len(reductions) == 4 and len(set(reductions)) == 1:
            return []
        return [
            f"its feature maps have strides {list(reductions)}; dec_name 'dpt' reads the tokens of a plain vision"
            " transformer. Choose e.g. vit_small_patch14_dinov2, vit_small_patch16_dinov3"
        ]

    def build(self) -> None:
        """Create the layers."""
        self.reassemble = nn.ModuleList(
            Reassemble(width, channels, factor)
            for width, channels, factor in zip(self.channels, self.neck, (4, 2, 1, 0.5), strict=True)
        )
        self.convs = nn.ModuleList(nn.Conv2d(n, self.fused, kernel_size=3, padding=1, bias=False) for n in self.neck)
        self.fusion = nn.ModuleList(Fusion(self.fused) for _ in self.neck)
        self.fusion[0].residual_layer1.requires_grad_(False)  # published files have it; it is never used
        self.head = Head(self.fused, self.hidden, self.out_ch)
        self.scale_heads = nn.ModuleDict(
            {str(scale): Head(self.fused, self.hidden, self.out_ch) for scale in self.out_scales if scale}
        )

    def heads(self) -> Sequence[nn.Module]:
        return [self.scale_heads[str(scale)] if scale else self.head for scale in self.out_scales]

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        p, q = feats[-1].shape[-2:]
        maps = [conv(layer(feat)) for conv, layer, feat in zip(self.convs, self.reassemble, feats, strict=True)]
        fused: list[Tensor] = []
        for layer, skip, wider in zip(self.fusion, maps[::-1], [*maps[-2::-1], None], strict=True):
            size = (8 * p, 8 * q) if wider is None else wider.shape[-2:]
            fused.append(layer(skip, None, size) if not fused else layer(fused[-1], skip, size))
        outputs = {}
        for scale in sorted(self.out_scales):
            head, factor = (self.scale_heads[str(scale)], 2 ** (4 - scale)) if scale else (self.head, self.patch)
            outputs[scale] = activate(head(fused[3 - scale], (factor * p, factor * q)), self.activation)
        return outputs


def channels_of(width: int) -> tuple[tuple[int, ...], int]:
    """Return the channels of the four maps and of the fused ones that Depth Anything has for a ViT of a width."""
    return NECKS.get(width, (width // 8, width // 4, width // 2, width)), width // (4 if width in NECKS else 6)


class Reassemble(nn.Module):
    """Give a map of tokens its channels and size: (b d p q) -> (b n factor*p factor*q), halves rounded up."""

    def __init__(self, width: int, channels: int, factor: float):
        super().__init__()
        self.projection = nn.Conv2d(width, channels, kernel_size=1)
        self.resize: nn.Module = nn.Identity()
        if factor > 1:
            self.resize = nn.ConvTranspose2d(channels, channels, kernel_size=int(factor), stride=int(factor))
        elif factor < 1:
            self.resize = nn.Conv2d(channels, channels, kernel_size=3, stride=int(1 / factor), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(self.projection(x))


class Residual(nn.Module):
    """Add to a map what two convolutions, each after a ReLU, make of it: (b f h w) -> (b f h w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.convolution2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution2(F.relu(self.convolution1(F.relu(x))))


class Fusion(nn.Module):
    """Add a skip (b f h w), if any, to a map of its size and enlarge the sum: (b f h w) -> (b f *size)."""

    def __init__(self, channels: int):
        super().__init__()
        self.projection = nn.Conv2d(channels, channels, kernel_size=1)
        self.residual_layer1 = Residual(channels)
        self.residual_layer2 = Residual(channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        if skip is not None:
            x = x + self.residual_layer1(skip)
        return self.projection(aligned(self.residual_layer2(x), size))


class Head(nn.Module):
    """Turn a fused map into an output of a size (height, width), not yet activated: (b f h w) -> (b out_ch *size)."""

    def __init__(self, channels: int, hidden: int, out_ch: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, hidden, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(hidden, out_ch, kernel_size=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return self.conv3(F.relu(self.conv2(aligned(self.conv1(x), size))))


def aligned(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map (b c h w) to a size (height, width) bilinearly; the corner pixels keep their place."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
