"""Encoders by name: those of `models_zoo.encoders`, any timm model with feature maps, and plain ViTs."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import get_deprecated_models
from torch import Tensor, nn

from models_zoo.encoders import ENCODERS
from models_zoo.encoders.vit import ViTPyramid, ViTTokens, WithFinalNorm, is_plain, resample_as_dinov2
from models_zoo.pretrained import find_pretrained, not_downloaded, one_line, packaged_file, unavailable
from models_zoo.registry import did_you_mean
from models_zoo.weights.encoder_file import match_encoder, read_encoder, unfit

STRIDE = 32  # of the deepest feature of most encoders; sides of images are multiples of it
MIN_SIDE = 64  # pixels: reflect padding needs two of them at stride 32


class FeatureSpec(NamedTuple):
    """Feature maps of an encoder, shallow to deep."""

    channels: tuple[int, ...]
    reductions: tuple[int, ...]  # strides: map i has h / reductions[i] rows


def feature_spec(encoder: Any) -> FeatureSpec:
    """Describe the feature maps of a timm `features_only` model."""
    info = encoder.feature_info
    return FeatureSpec(tuple(info.channels()), tuple(info.reduction()))


def encoder_problems(enc_name: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """List what is wrong with an encoder, one of `ENCODERS` or "arch" or "arch.tag" of timm, and with its options."""
    if enc_name in ENCODERS:
        return [f"enc_options: {problem}" for problem in _option_problems(enc_name, options or {})]
    arch, _, tag = current_name(enc_name).partition(".")
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, [*ENCODERS.names(), *timm.list_models()], n=5, cutoff=0.6)
        hint = f"Nearest names: {', '.join(near)}" if near else "List the names with timm.list_models()"
        return [f"enc_name {enc_name!r} is not a model of timm {timm.__version__}. {hint}"]
    tags = [name.partition(".")[2] for name in timm.list_models(arch, include_tags=True)]
    if tag and tag not in tags:
        known = ", ".join(filter(None, tags)) or "none"
        return [f"enc_name {enc_name!r}: timm has no weights tagged {tag!r} for {arch}. Known tags: {known}"]
    return []


def _option_problems(enc_name: str, options: Mapping[str, Any]) -> list[str]:
    known = ENCODERS.parameters(enc_name).keys() - {"in_chans"}  # which the network decides
    if wrong := [key for key in options if key not in known]:
        return [f"encoder {enc_name!r} has no argument {key!r}. {did_you_mean(key, known)}" for key in wrong]
    judge: Callable[[Any], list[str]] = getattr(ENCODERS.get(enc_name), "validate_config", lambda _: [])
    return judge(options)


def current_name(enc_name: str) -> str:
    """Translate a model name that timm has replaced, such as ssl_resnext101_32x8d, to the current one."""
    return get_deprecated_models().get(enc_name) or enc_name


def build_encoder(
    enc_name: str,
    pretrained: bool | str,
    in_chans: int = 3,
    deepest_only: bool = False,
    *,
    judge: Callable[[Sequence[int]], list[str]] = lambda _: [],
    tokens: bool = False,
    taps: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    network: str = "depth",
) -> nn.Module:
    """Build an encoder that returns feature maps, see `feature_spec`: one of `ENCODERS`, or a model of timm.

    Pretrained first layers are adapted to `in_chans` by repeating and scaling their RGB filters. Plain ViTs get new
    layers for a pyramid of maps, see `models_zoo.encoders.vit`, or with `deepest_only` for its last map; with `tokens`
    they give those of four blocks, `taps`, as they are. Without weights the residual branches of timm's models take
    part from the start, see `wake_branches`.

    Args:
        pretrained: start from timm's weights, or from those of a file, see `models_zoo.weights.encoder_file`.
        judge: lists what is wrong with the strides of the maps, such as `Decoder.feature_problems`; it is asked before
            any weights are fetched.
        options: further arguments of one of `ENCODERS` or of timm's model, such as `embed_dim`, `depth`, `num_heads`,
            `img_size` of a ViT.
        network: whose encoder is taken from a checkpoint of this project.

    Raises ValueError for an unknown name or option, a model without feature maps, and strides that `judge` objects to;
    UnreadableWeights, a ValueError, for a file that is missing, refused or does not fit; PretrainedUnavailable when
    timm's weights are out of reach.
    """
    if problems := encoder_problems(enc_name, options):
        raise ValueError("; ".join(problems))
    if enc_name in ENCODERS:
        encoder = ENCODERS.create(enc_name, in_chans=in_chans, **(options or {}))
        _refuse(enc_name, encoder, judge)
        if isinstance(pretrained, str):
            _load(encoder, Path(os.path.expanduser(pretrained)), network, enc_name, in_chans)
        elif pretrained:
            raise not_downloaded(enc_name, getattr(encoder, "weights", ""))
        return encoder
    name = current_name(enc_name)

    def build(**source: Any) -> nn.Module:
        return _build(name, tokens, taps, deepest_only, {**(options or {}), "in_chans": in_chans}, source)

    try:
        encoder = build()
    except UnfitViT as error:
        raise ValueError(f"enc_name {enc_name!r}: {error}") from error
    except Exception as error:  # timm raises many types
        given = f" with enc_options {dict(options)}" if options else ""
        raise ValueError(
            f"enc_name {enc_name!r}: timm cannot give feature maps of this model{given} ({one_line(error)}). "
            "Choose another, e.g. resnet18, convnext_tiny, vit_tiny_patch16_224"
        ) from error
    _refuse(enc_name, encoder, judge)
    if not pretrained:
        if "zero_init_last" not in (options or {}):
            wake_branches(encoder)
        return encoder
    file = Path(os.path.expanduser(pretrained)) if isinstance(pretrained, str) else packaged_file(name)
    if file is not None:
        whole = {key: value for key, value in (options or {}).items() if key != "img_size"}  # timm resizes positions
        return _load(encoder, file, network, name, in_chans, partial(timm.create_model, name, **whole), build)
    overlay = find_pretrained(name)
    try:
        return build(pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # of the hub, the disk or the file
        raise unavailable(timm.get_pretrained_cfg(name), one_line(error)) from error


def _load(
    encoder: nn.Module,
    file: Path,
    network: str,
    enc_name: str,
    in_chans: int,
    whole: Callable[[], nn.Module] | None = None,
    build: Callable[..., nn.Module] = nn.Identity,
) -> nn.Module:
    """Return the encoder with the weights of a file, under the names of the `whole` model of timm or under its own.

    `build` makes the encoder anew and lets timm load the former: it knows how layers are renamed, cut and adapted.
    """
    state, own = read_encoder(file, network), encoder.state_dict()
    with torch.random.fork_rng(devices=[]):  # decoders start as they do from timm's own weights
        theirs = own if whole is None else whole().state_dict()
    matched, problems = match_encoder(state, theirs)
    if whole is not None and not problems:
        logger = logging.getLogger("timm.models._builder")
        logger.addFilter(_is_no_leftover)
        try:
            encoder = build(pretrained=True, pretrained_cfg_overlay={"state_dict": matched, "custom_load": False})
        except Exception as error:  # of many types
            raise unfit(file, enc_name, [one_line(error)]) from error
        finally:
            logger.removeFilter(_is_no_leftover)
        for module in encoder.modules():  # timm keeps the weights in its notes
            if isinstance(about := getattr(module, "pretrained_cfg", None), dict):
                about.pop("state_dict", None)
        return encoder
    matched, own_problems = match_encoder(state, own, in_chans)
    if own_problems:
        nearer = len(state.keys() & own.keys()) > len(state.keys() & theirs.keys())
        raise unfit(file, enc_name, own_problems if nearer or whole is None else problems)
    encoder.load_state_dict(matched)
    return encoder


def _is_no_leftover(record: logging.LogRecord) -> bool:
    """Return False for timm's warning of layers behind the last feature map, which encoders lack."""
    return not record.getMessage().startswith("Unexpected keys")


def wake_branches(encoder: nn.Module) -> None:
    """Let norms whose scales are all zero start from one, as PyTorch's do and torchvision's ResNets.

    timm silences every residual branch by the last norm in it (`zero_init_last`, after Goyal et al., arXiv:1706.02677),
    for long runs with large batches; in a short one what lies in the branches hardly learns.
    """
    for module in encoder.modules():
        scale = getattr(module, "weight", None)
        if not isinstance(scale, Tensor) or scale.ndim != 1 or scale.is_meta or getattr(module, "bias", None) is None:
            continue
        if not scale.any():
            nn.init.ones_(scale)


def _refuse(enc_name: str, encoder: nn.Module, judge: Callable[[Sequence[int]], list[str]]) -> None:
    if problems := judge(feature_spec(encoder).reductions):
        raise ValueError(f"enc_name {enc_name!r}: {'; '.join(problems)}")


class UnfitViT(ValueError):
    """A plain ViT that cannot give the maps that are asked for."""


def _build(
    name: str,
    tokens: bool,
    taps: Sequence[int] | None,
    deepest_only: bool,
    options: dict[str, Any],
    source: dict[str, Any],
) -> nn.Module:
    """Create a model of timm, with weights of a source, and around a plain ViT what makes maps of it."""
    if tokens:
        with torch.device("meta"):  # only a look: other families do not take this class
            if is_plain(_create(name, options)):
                options = {**options, "feature_cls": WithFinalNorm}
    encoder = _create(name, {**options, **source})
    if not is_plain(encoder):
        return encoder
    if "dinov2" in name:
        resample_as_dinov2(encoder)
    try:
        return ViTTokens(encoder, taps) if tokens else ViTPyramid(encoder, deepest_only)
    except ValueError as error:
        raise UnfitViT(error) from error


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    """Create a timm model for images of any size, if it can: windows (Swin) and position embeddings (ViT) adapt."""
    options = {**options, "features_only": True}
    source = timm.get_pretrained_cfg(name)
    if source is not None and source.fixed_input_size:
        for key, value in (("strict_img_size", False), ("dynamic_img_size", True)):
            with contextlib.suppress(TypeError):  # the family has no such argument
                return timm.create_model(name, **{**options, key: value})
    return timm.create_model(name, **options)


def check_images(images: Tensor, channels: int, any_size: bool = False) -> None:
    """Raise ValueError unless images is (b channels h w) with sides that are multiples of 32, at least 64, or any."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"The network takes (b, {channels}, h, w) images, not {tuple(images.shape)}")
    h, w = images.shape[-2:]
    if any_size:
        return
    if h % STRIDE or w % STRIDE or min(h, w) < MIN_SIDE:
        raise ValueError(
            f"The network takes images whose sides are multiples of {STRIDE} and at least {MIN_SIDE} pixels, "
            f"not {h} x {w} (h x w). Nearest valid height: {_valid_sides(h)}; width: {_valid_sides(w)}"
        )


def _valid_sides(side: int) -> str:
    """Name the valid lengths around a length in pixels: 100 -> "96 or 128"."""
    below = side // STRIDE * STRIDE
    above = -(-side // STRIDE) * STRIDE
    return " or ".join(map(str, sorted({max(MIN_SIDE, below), max(MIN_SIDE, above)})))


def encode(encoder: Any, images: Tensor) -> list[Tensor]:
    """Run an encoder on standardised images (b c h w): feature maps (b E_i h/R_i w/R_i), shallow to deep.

    Channels-last features (b h w c), e.g. of Swin, are permuted. Raises ValueError when the encoder refuses the size,
    or when its maps do not have the size of their strides, as without padding.
    """
    try:
        feats = list(encoder(images))
    except AssertionError as error:
        size = tuple(images.shape[-2:])
        raise ValueError(f"The encoder does not take {size} (h, w) images: {error}") from error
    if str(getattr(encoder, "output_fmt", "NCHW")).endswith("NHWC"):
        feats = [feat.permute(0, 3, 1, 2) for feat in feats]
    h, w = images.shape[-2:]
    for feat, channels, stride in zip(feats, *feature_spec(encoder), strict=True):
        expected = (channels, h // stride, w // stride)
        if feat.shape[1:] != expected:
            raise ValueError(
                f"The encoder gives a feature map of {tuple(feat.shape[1:])} (c, h, w) where stride {stride} "
                f"calls for {expected}; decoders cannot fuse it. Choose an encoder with padded convolutions"
            )
    return feats
