"""Plain vision transformers as encoders: a pyramid of maps at strides 4 to 32, or the tokens of four blocks.

DINOv2 (arXiv:2304.07193) has patches of 14 pixels. For a pyramid the image is shrunk, so that they act as a stride
of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models import FeatureInfo, VisionTransformer
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

LEVELS = (4, 8, 16, 32)  # strides of the pyramid, as of a ConvNeXt
PATCHES = (8, 16, 32)  # pixels: powers of two, as the strides
DINOV2_PATCH, ITS_STRIDE = 14, 16  # pixels of a patch, and the stride that it stands for in a pyramid
CHOICES = "vit_tiny_patch16_224, deit3_small_patch16_224, vit_small_patch14_dinov2"


def is_plain(encoder: Any) -> bool:
    """Return whether a timm `features_only` model has one stride throughout and gives the output of any block."""
    strides = set(encoder.feature_info.reduction())
    return len(strides) == 1 and hasattr(getattr(encoder, "model", None), "forward_intermediates")


class WithFinalNorm(FeatureGetterNet):
    """The `features_only` model of timm that keeps the final norm of a ViT, for `ViTTokens`."""

    def __init__(self, model: nn.Module, **options: Any):
        super().__init__(model, norm=True, **options)


class SizedPositions(VisionTransformer):
    """A ViT of timm whose position embedding is resampled as DINOv2 does: bicubic, without antialiasing.

    timm's own resampling antialiases, with which the same weights give visibly other tokens for small images. The
    target is given as a size, as in transformers; the authors' code gives a ratio of (n + 0.1) / 37. float32.
    """

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions and prefix tokens to patches (b p q d). Returns tokens (b n d)."""
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        positions = resample_abs_pos_embed(
            self.pos_embed, list(x.shape[1:3]), list(self.patch_embed.grid_size), prefix, antialias=False
        )
        given = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        patches = x.flatten(1, 2)
        if self.no_embed_class:
            tokens = torch.cat([*given, patches + positions], dim=1)
        else:
            tokens = torch.cat([*given, patches], dim=1) + positions
        return self.pos_drop(tokens)


def resample_as_dinov2(encoder: Any) -> None:
    """Let a timm `features_only` model resample positions as DINOv2 does; with registers it does as timm."""
    vit = encoder.model
    if type(vit) is VisionTransformer and vit.pos_embed is not None and vit.reg_token is None:
        vit.__class__ = SizedPositions


class ViTPyramid(nn.Module):
    """Give a plain ViT four feature maps: (b c h w) -> (b E_i h/R_i w/R_i), R = 4, 8, 16, 32, shallow to deep.

    Four blocks, evenly spaced and the last among them, are each read out by a 1x1 convolution and resized by a
    learned one: transposed for the strides below the patch, strided for those above. Vision transformers for
    dense prediction, arXiv:2103.13413, sec. 3. Deviates from it: prefix tokens (class, registers) are left out
    rather than projected into the map; channels are width / (8, 4, 2, 1) for every width, as there for the base
    size; patches may also be of 8 or 32 pixels, where it has 16. Images for patches of 14 pixels are resized by
    14/16, bilinearly and antialiased.

    Args:
        encoder: timm `features_only` model for which `is_plain` holds, without final norm and head.
        deepest_only: return only the map of stride 32 and create no layers for the others.

    Raises ValueError for patches of another size.
    """

    def __init__(self, encoder: Any, deepest_only: bool = False):
        super().__init__()
        info = encoder.feature_info
        width, patch, depth = info.channels()[-1], info.reduction()[-1], len(info.info)
        if patch not in (*PATCHES, DINOV2_PATCH):
            raise ValueError(
                f"its patches are {patch} x {patch} pixels; strides {list(LEVELS)} can be made from patches of "
                f"{', '.join(map(str, sorted((*PATCHES, DINOV2_PATCH))))} pixels. Choose e.g. {CHOICES}"
            )
        grid = ITS_STRIDE if patch == DINOV2_PATCH else patch
        levels = [
            (quarter * depth // len(LEVELS) - 1, width * stride // LEVELS[-1], stride)
            for quarter, stride in enumerate(LEVELS, start=1)
        ][-1 if deepest_only else 0 :]
        self.patch, self.grid = patch, grid  # pixels of a patch in the resized image, and in the image
        self.vit = encoder.model
        self.blocks = [block for block, _, _ in levels]
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), _resize(channels, grid, stride))
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
        if self.patch != self.grid:
            h, w = images.shape[-2:]
            images = resized(images, (h // self.grid * self.patch, w // self.grid * self.patch))
        maps = self.vit.forward_intermediates(images, indices=self.blocks, intermediates_only=True)
        return [layers(tokens) for layers, tokens in zip(self.reassemble, maps, strict=True)]


class ViTTokens(nn.Module):
    """Read the patch tokens of four blocks of a plain ViT: (b c h w) -> 4 x (b d h/P w/P), shallow to deep.

    The final norm of the ViT is applied to each; prefix tokens (class, registers) are left out. h and w are multiples
    of the patch P. As in Depth Anything, arXiv:2401.10891.

    Args:
        encoder: timm `features_only` model for which `is_plain` holds, made with `WithFinalNorm`.
        taps: positions of the blocks, ascending; None for evenly spaced ones, of a DINOv2 ViT-L those of Depth
            Anything V2 (arXiv:2406.09414). Blocks after the last are removed.

    Raises ValueError for taps that are not four ascending positions of blocks.
    """

    def __init__(self, encoder: Any, taps: Sequence[int] | None = None):
        super().__init__()
        info = encoder.feature_info
        width, patch, depth = info.channels()[-1], info.reduction()[-1], len(info.info)
        self.taps = list(default_taps(depth, patch) if taps is None else taps)
        if len(self.taps) != 4 or sorted({*self.taps}) != self.taps or not 0 <= self.taps[0] <= self.taps[-1] < depth:
            raise ValueError(f"taps {self.taps} must be four ascending positions of its blocks, 0 to {depth - 1}")
        self.vit = encoder.model
        self.vit.prune_intermediate_layers(self.taps, prune_norm=False)
        self.feature_info = FeatureInfo(
            [{"num_chs": width, "reduction": patch, "module": f"vit.blocks.{tap}"} for tap in self.taps],
            out_indices=tuple(range(len(self.taps))),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the tokens as maps; see the class."""
        return list(self.vit.forward_intermediates(images, indices=self.taps, norm=True, intermediates_only=True))


def default_taps(depth: int, patch: int) -> list[int]:
    """Return the blocks that are read of a ViT with `depth` blocks, for example 2, 5, 8, 11 of 12."""
    if (depth, patch) == (24, DINOV2_PATCH):
        return [4, 11, 17, 23]  # Depth Anything V2; evenly spaced would be 5, 11, 17, 23
    return [quarter * depth // 4 - 1 for quarter in range(1, 5)]


def nearest_size(size: Sequence[int], patch: int) -> tuple[int, int]:
    """Return the multiples of the patch nearest to a size (height, width), at least two patches each."""
    h, w = (max(2, (2 * side + patch) // (2 * patch)) * patch for side in size)
    return h, w


def resized(maps: Tensor, size: tuple[int, int], antialias: bool = True) -> Tensor:
    """Resize images or maps (b c h w) bilinearly to a size (height, width), antialiased where they shrink."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=antialias)


def _resize(channels: int, patch: int, stride: int) -> nn.Module:
    """Build the layer that takes a map (b c h w) of stride `patch` to `stride`."""
    if stride < patch:
        factor = patch // stride
        return nn.ConvTranspose2d(channels, channels, kernel_size=factor, stride=factor)
    if stride == patch:
        return nn.Identity()
    factor = stride // patch
    return nn.Conv2d(channels, channels, kernel_size=factor + 1, stride=factor, padding=factor // 2)
