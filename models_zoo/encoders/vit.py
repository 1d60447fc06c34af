"""Plain vision transformers as encoders: maps of one stride, reassembled to strides 4, 8, 16 and 32."""

from __future__ import annotations

from typing import Any

from timm.models import FeatureInfo
from torch import Tensor, nn

LEVELS = (4, 8, 16, 32)  # strides of the pyramid, as of a ConvNeXt
PATCHES = (8, 16, 32)  # pixels: powers of two, as the strides
CHOICES = "vit_tiny_patch16_224, deit3_small_patch16_224, vit_small_patch8_224"


def is_plain(encoder: Any) -> bool:
    """Return whether a timm `features_only` model has one stride throughout and gives the output of any block."""
    strides = set(encoder.feature_info.reduction())
    return len(strides) == 1 and hasattr(getattr(encoder, "model", None), "forward_intermediates")


class ViTPyramid(nn.Module):
    """Give a plain ViT four feature maps: (b c h w) -> (b E_i h/R_i w/R_i), R = 4, 8, 16, 32, shallow to deep.

    Four blocks, evenly spaced and the last among them, are each read out by a 1x1 convolution and resized by a
    learned one: transposed for the strides below the patch, strided for those above. Vision transformers for
    dense prediction, arXiv:2103.13413, sec. 3. Deviates from it: prefix tokens (class, registers) are left out
    rather than projected into the map; channels are width / (8, 4, 2, 1) for every width, as there for the base
    size; patches may also be of 8 or 32 pixels, where it has 16.

    Args:
        encoder: timm `features_only` model for which `is_plain` holds, without final norm and head.
        deepest_only: return only the map of stride 32 and create no layers for the others.

    Raises ValueError for patches of another size, such as 14 pixels.
    """

    def __init__(self, encoder: Any, deepest_only: bool = False):
        super().__init__()
        info = encoder.feature_info
        width, patch, depth = info.channels()[-1], info.reduction()[-1], len(info.info)
        if patch not in PATCHES:
            raise ValueError(
                f"its patches are {patch} x {patch} pixels; strides {list(LEVELS)} can be made from patches of "
                f"{', '.join(map(str, PATCHES))} pixels. Choose e.g. {CHOICES}"
            )
        levels = [
            (quarter * depth // len(LEVELS) - 1, width * stride // LEVELS[-1], stride)
            for quarter, stride in enumerate(LEVELS, start=1)
        ][-1 if deepest_only else 0 :]
        self.vit = encoder.model
        self.blocks = [block for block, _, _ in levels]
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), _resize(channels, patch, stride))
            for _, channels, stride in levels
        )
        self.feature_info = FeatureInfo(
            [
                {"num_chs": channels, "reduction": stride, "module": f"reassemble.{position}"}
                for position, (_, channels, stride) in enumerate(levels)
            ],
            out_indices=tuple(range(len(levels))),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps; see the class. Sides of the images are multiples of 32."""
        maps = self.vit.forward_intermediates(images, indices=self.blocks, intermediates_only=True)
        return [layers(tokens) for layers, tokens in zip(self.reassemble, maps, strict=True)]


def _resize(channels: int, patch: int, stride: int) -> nn.Module:
    """Build the layer that takes a map (b c h w) of stride `patch` to `stride`."""
    if stride < patch:
        factor = patch // stride
        return nn.ConvTranspose2d(channels, channels, kernel_size=factor, stride=factor)
    if stride == patch:
        return nn.Identity()
    factor = stride // patch
    return nn.Conv2d(channels, channels, kernel_size=factor + 1, stride=factor, padding=factor // 2)
