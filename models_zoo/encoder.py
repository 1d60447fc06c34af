"""Encoders: any timm model that gives feature maps down to stride 32. Found, checked and run here."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.models import get_deprecated_models
from torch import Tensor, nn

from models_zoo._pretrained import find_pretrained, one_line, unavailable

STRIDE = 32  # of the deepest feature: every decoder upsamples five times from there
MIN_SIDE = 64  # pixels: reflect padding needs two of them at stride 32


def encoder_problems(enc_name: str) -> list[str]:
    """List what is wrong with the name of an encoder ("arch" or "arch.tag"), without building it."""
    name = current_name(enc_name)
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), n=5, cutoff=0.6)
        hint = f"Nearest names: {', '.join(near)}" if near else "List the names with timm.list_models()"
        return [f"enc_name {enc_name!r} is not a timm {timm.__version__} model. {hint}"]
    tags = [known.partition(".")[2] for known in timm.list_models(arch, include_tags=True)]
    if tag and tag not in tags:
        known = ", ".join(filter(None, tags)) or "none"
        return [f"enc_name {enc_name!r}: timm has no weights tagged {tag!r} for {arch}. Known tags: {known}"]
    return []


def current_name(enc_name: str) -> str:
    """Translate a model name that timm has replaced, as ssl_resnext101_32x8d, to the one it uses now."""
    return get_deprecated_models().get(enc_name) or enc_name


def build_encoder(enc_name: str, pretrained: bool, in_chans: int = 3) -> nn.Module:
    """Build the timm model `enc_name` as an encoder that returns feature maps, shallow to deep.

    `encoder.feature_info.channels()` and `.reduction()` describe the maps. Pretrained first layers are adapted to `in_chans`
    by repeating and scaling their RGB filters. Raises ValueError for an unknown name, a model without feature maps or
    with another deepest stride than 32; PretrainedUnavailable when the weights cannot be had.
    """
    if problems := encoder_problems(enc_name):
        raise ValueError("; ".join(problems))
    name = current_name(enc_name)
    overlay = find_pretrained(name) if pretrained else {}
    options: dict[str, Any] = {"features_only": True, "in_chans": in_chans}
    try:
        encoder = _create(name, options)
    except Exception as error:  # timm raises RuntimeError, AttributeError, TypeError, ... for the same mistake
        raise ValueError(
            f"enc_name {enc_name!r}: timm cannot give feature maps of this model ({one_line(error)}). "
            "Choose a convolutional or hierarchical model, e.g. resnet18, convnext_tiny, swin_tiny_patch4_window7_224"
        ) from error
    reductions = encoder.feature_info.reduction()
    if reductions[-1] != STRIDE:
        raise ValueError(
            f"enc_name {enc_name!r}: the feature maps have strides {reductions}; the deepest must have stride {STRIDE}, "
            "because decoders upsample five times from it. Choose e.g. resnet18, convnext_tiny, efficientnet_b0"
        )
    if pretrained:
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        try:
            encoder = _create(name, options)
        except Exception as error:
            raise unavailable(enc_name, timm.get_pretrained_cfg(name), one_line(error)) from error
    return encoder


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    """Create a timm model, free of its input size where it has one: Swin's windows adapt to any image."""
    source = timm.get_pretrained_cfg(name)
    if source is not None and source.fixed_input_size:
        try:
            return timm.create_model(name, strict_img_size=False, **options)
        except TypeError:  # the family has no such argument
            pass
    return timm.create_model(name, **options)


def check_images(images: Tensor, channels: int) -> None:
    """Raise ValueError unless images is (b channels h w) with sides that are multiples of 32 and at least 64."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"The network takes images of shape (b, {channels}, h, w), not {tuple(images.shape)}")
    h, w = images.shape[-2:]
    if h % STRIDE or w % STRIDE or min(h, w) < MIN_SIDE:
        raise ValueError(
            f"The network takes images whose sides are multiples of {STRIDE} and at least {MIN_SIDE} pixels, not "
            f"{h} x {w} (h x w). Nearest valid height: {_nearest_sides(h)}; nearest valid width: {_nearest_sides(w)}"
        )


def _nearest_sides(side: int) -> str:
    """Name the valid lengths around a length in pixels: 100 -> "96 or 128"."""
    below = side // STRIDE * STRIDE
    valid = {max(MIN_SIDE, below), max(MIN_SIDE, below + (STRIDE if side % STRIDE else 0))}
    return " or ".join(map(str, sorted(valid)))


def encode(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    """Run an encoder on standardised images (b c h w). Returns its feature maps (b E_i h/R_i w/R_i), shallow to deep.

    Swin and its kin give channels-last tensors (b h w c); they are permuted. Raises ValueError when the encoder refuses
    the size or its maps are not those of its strides, as those of models without padding.
    """
    try:
        feats = encoder(images)
    except AssertionError as error:
        raise ValueError(f"The encoder does not take images of {tuple(images.shape[-2:])} (h, w): {error}") from error
    if str(getattr(encoder, "output_fmt", "NCHW")).endswith("NHWC"):
        feats = [feat.permute(0, 3, 1, 2) for feat in feats]
    h, w = images.shape[-2:]
    for feat, channels, stride in zip(feats, encoder.feature_info.channels(), encoder.feature_info.reduction(), strict=True):
        if feat.shape[1:] != (channels, h // stride, w // stride):
            raise ValueError(
                f"The encoder gives a feature map of {tuple(feat.shape[1:])} (c, h, w) where stride {stride} calls for "
                f"{(channels, h // stride, w // stride)}; decoders cannot fuse it. Choose an encoder with padded convolutions"
            )
    return list(feats)
