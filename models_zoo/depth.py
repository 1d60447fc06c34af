"""The depth network: disparity maps of one image, optionally masks and a virtual stereo view."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from models_zoo import NETWORKS
from models_zoo.adapters import adapt, adapter_problems
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import SCALES, Decoder
from models_zoo.encoders.build import build_encoder, check_images, encode, encoder_problems, feature_spec
from models_zoo.encoders.vit import nearest_size, resized
from models_zoo.registry import did_you_mean, keywords_of, problems_of
from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD, Standardise, statistics_problems

MASKS = {
    "explainability": "sigmoid",  # weight of the photometric error; SfM-Learner, arXiv:1704.07813
    "uncertainty": "relu",  # high = unreliable; Klodt & Vedaldi, ECCV 2018; Kendall & Gal, arXiv:1703.04977
}
FROM_SCRATCH = {"relu": 0.1}  # disparity of a new network by activation; others start as PyTorch's layers do
Scaled = dict[int, Tensor]


@NETWORKS.register("depth")
class Depth(nn.Module):
    """Predict disparity from one image: a timm encoder and a decoder of the zoo.

    Args:
        enc_name: timm model with feature maps down to stride 32, or with `dec_name="dpt"` a plain ViT, or a name in
            `models_zoo.encoders.ENCODERS`.
        pretrained: true = start from timm's weights, which are downloaded once; a path = from those of a file, see
            docs/tasks/pretrained.md. Raises PretrainedUnavailable or UnreadableWeights when they cannot be had.
        dec_name: name in `models_zoo.decoders.DECODERS`.
        out_scales: scale or scales s to predict, of stride 2**s; the order numbers the output convolutions.
        mask_name: predict a mask per support frame with a second decoder.
        num_ch_mask: channels of the mask, the number of support frames.
        use_virtual_stereo: also predict for the virtual right and left cameras. Monodepth, arXiv:1609.03677.
        use_stereo_blend: also predict from the mirrored image and blend both, see `stereo_blend`.
        activation: of the output. "sigmoid": disparity in (0, 1) between two limits of depth; "relu": disparity >= 0,
            which is 1 / depth without limits, as of networks that learn from affine-invariant disparity
            (arXiv:1907.01341); "metric": disparity >= 1, whose inverse, a sigmoid, is depth as a share of the largest.
        init_disp: disparity that a new network starts from, in (0, 1), with "relu" any above 0; null = PyTorch's
            initialisation, about 0.5, and with "relu" 0.1 where nothing is pretrained, since single scales that start
            at 0 have no gradient at all. A training starts from 0.06 where nothing is pretrained and a stereo pair or a
            loss fixes the scale, see `trainer.build.start_disparity`.
        adapter: freeze the ViT that is the encoder and train low-rank updates of it, {type: lora | dv_lora, rank: 4,
            alpha: null (the rank), targets: [mlp.fc1, mlp.fc2], warmup_steps: 20000}; see `models_zoo.adapters`.
        mean: mean of RGB in [0, 1] for the standardisation of the images.
        std: deviation of RGB in [0, 1] for the standardisation of the images.
        enc_options: further arguments of the encoder, such as embed_dim, depth, num_heads, img_size of a ViT.
        dec_options: further arguments of the decoder, such as neck, fusion, hidden of dpt.
        taps: blocks that dpt reads, four, ascending, the first is 0; null for those of Depth Anything V2. V1 reads the
            last four, [8, 9, 10, 11] of ViT-S and B (arXiv:2401.10891).
    """

    source: ClassVar[str] = "Monodepth2, arXiv:1806.01260"

    def __init__(
        self,
        enc_name: str = "resnet18",
        pretrained: bool | str = True,
        dec_name: str = "monodepth",
        out_scales: int | Sequence[int] = SCALES,
        mask_name: Literal["explainability", "uncertainty"] | None = None,
        num_ch_mask: int | None = None,
        use_virtual_stereo: bool = False,
        use_stereo_blend: bool = False,
        activation: Literal["sigmoid", "relu", "metric"] = "sigmoid",
        init_disp: float | None = None,
        adapter: Mapping[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        enc_options: Mapping[str, Any] | None = None,
        dec_options: Mapping[str, Any] | None = None,
        taps: Sequence[int] | None = None,
    ):
        super().__init__()
        problems = depth_problems(
            enc_name,
            dec_name,
            out_scales,
            mask_name,
            num_ch_mask,
            init_disp,
            mean,
            std,
            activation,
            adapter,
            enc_options,
        )
        if problems := problems + part_problems(dec_name, dec_options, taps):
            raise ValueError("depth network: " + "; ".join(problems))
        self.mask_name, self.activation = mask_name, activation
        self.use_virtual_stereo = use_virtual_stereo
        self.use_stereo_blend = use_stereo_blend
        self.standardise = Standardise(mean, std)
        tokens = getattr(DECODERS.get(dec_name), "reads_tokens", False)
        judge = partial(feature_problems, dec_name)
        self.encoder = build_encoder(enc_name, pretrained, judge=judge, tokens=tokens, taps=taps, options=enc_options)
        spec = feature_spec(self.encoder)
        self.patch = spec.reductions[-1] if tokens else None  # of which sides become multiples

        shared = {**spec._asdict(), "out_scales": as_scales(out_scales), **(dec_options or {})}
        self.decoders = nn.ModuleDict()
        disp = self.decoders["disp"] = DECODERS.create(
            dec_name, out_ch=3 if use_virtual_stereo else 1, activation=activation, **shared
        )
        if init_disp is None and not pretrained and disp.heads():
            init_disp = FROM_SCRATCH.get(activation)
        if init_disp is not None:
            disp.set_output(init_disp)
        if mask_name is not None:
            shared |= {"out_ch": num_ch_mask, "activation": MASKS[mask_name]}
            self.decoders["mask"] = DECODERS.create(dec_name, **shared)
        if adapter is not None:  # last, so that all else starts as it does without
            adapt(self.encoder, **adapter)

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        return problems_of(cls, depth_problems, kwargs) + problems_of(cls, part_problems, kwargs)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the encoder features (b E_i h/R_i w/R_i) of images (b 3 h w) in [0, 1], shallow to deep.

        For a decoder of tokens h and w are first resized to the nearest multiples of the patch, at least two of it.
        """
        check_images(images, channels=3, any_size=self.patch is not None)
        if self.patch is not None:
            images = resized(images, nearest_size(images.shape[-2:], self.patch))
        return encode(self.encoder, self.standardise(images))

    def decode(self, name: str, feats: list[Tensor], size: Sequence[int]) -> Scaled:
        """Return what a decoder makes of features, at scale s of the size (h >> s, w >> s)."""
        maps: Scaled = self.decoders[name](feats)
        if self.patch is None:
            return maps
        return {s: resized(m, (size[0] >> s, size[1] >> s), antialias=False) for s, m in maps.items()}

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Predict from images (b 3 h w) in [0, 1]; h and w multiples of 32, at least 64, else ValueError.

        A decoder of tokens (`Decoder.reads_tokens`) takes any h and w; its maps have h >> s rows.

        Returns dicts {scale s: map}, ascending, float32 even under autocast:
            disp: (b 1 h/2**s w/2**s) disparity, 0 = far: in (0, 1), or as `activation` says.
            disp_stereo: (b 2 ...), with virtual stereo: channel 0 for the virtual right camera of a left
                image, channel 1 for the virtual left camera of a right image.
            mask: (b num_ch_mask ...), with a mask: [0, 1] explainability or [0, inf) uncertainty.
        and depth_feats: the encoder features, a list.
        """
        feats, size = self.encode(images), images.shape[-2:]
        raw = self.decode("disp", feats, size)
        if self.use_stereo_blend:
            mirrored = self.decode("disp", self.encode(images.flip(-1)), size)
            raw = {s: stereo_blend(disp, swap_cameras(mirrored[s]).flip(-1)) for s, disp in raw.items()}

        out: dict[str, Any] = {"disp": raw, "depth_feats": feats}
        if self.use_virtual_stereo:
            out["disp"] = {s: disp[:, :1] for s, disp in raw.items()}
            out["disp_stereo"] = {s: disp[:, 1:] for s, disp in raw.items()}
        if "mask" in self.decoders:
            out["mask"] = self.decode("mask", feats, size)
        return out


def stereo_blend(plain: Tensor, mirrored: Tensor) -> Tensor:
    """Blend two predictions of one image, so that each covers the border that the other cannot see.

    plain (b c h w): prediction for the image; mirrored (b c h w): that for the mirrored image, mirrored back.
    The left 5 % of the columns come from `mirrored`, the right 5 % from `plain`, the middle is their mean,
    with linear ramps up to 10 %. Monodepth, arXiv:1609.03677; in training SuperDepth, arXiv:1810.01849.
    """
    u = torch.linspace(0, 1, plain.shape[-1], dtype=plain.dtype, device=plain.device)
    left = 1 - (20 * (u - 0.05)).clamp(0, 1)
    right = 1 - (20 * (1 - u - 0.05)).clamp(0, 1)
    return left * mirrored + right * plain + (1 - left - right) * (plain + mirrored) / 2


def swap_cameras(disp: Tensor) -> Tensor:
    """Exchange the virtual right and left disparities, channels 1 and 2 of (b 3 h w), as mirroring does."""
    return disp if disp.shape[1] == 1 else torch.cat([disp[:, :1], disp[:, 2:], disp[:, 1:2]], 1)


def as_scales(out_scales: int | Sequence[int]) -> tuple[int, ...]:
    """Return one or several scales as a tuple."""
    return (out_scales,) if isinstance(out_scales, int) else tuple(out_scales)


def depth_problems(
    enc_name: str,
    dec_name: str,
    out_scales: int | Sequence[int],
    mask_name: str | None,
    num_ch_mask: int | None,
    init_disp: float | None,
    mean: Sequence[float],
    std: Sequence[float],
    activation: str = "sigmoid",
    adapter: Mapping[str, Any] | None = None,
    enc_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """List what is wrong with the options of a depth network."""
    problems = encoder_problems(enc_name, enc_options) + statistics_problems(mean, std)
    problems += scale_problems(out_scales, dec_name) + decoder_problems(dec_name) + adapter_problems(adapter)
    if init_disp is not None and not 0 < init_disp < (math.inf if activation == "relu" else 1):
        between = "be above 0" if activation == "relu" else "lie between 0 and 1"
        problems.append(f"init_disp is {init_disp}; it must {between}, or be null")
    if init_disp is not None and dec_name in DECODERS and dec_name not in with_trait("supports_init"):
        problems.append(f"init_disp: dec_name {dec_name!r} cannot start from a given disparity; set it to null")
    if mask_name is None:
        return problems
    if mask_name not in MASKS:
        problems.append(f"mask_name {mask_name!r} is not a mask. {did_you_mean(mask_name, MASKS)}; null for none")
    if num_ch_mask is None or num_ch_mask < 1:
        problems.append(
            f"num_ch_mask is {'null' if num_ch_mask is None else num_ch_mask}; with mask_name {mask_name!r} set it to"
            " the number of support frames (len(dataset.supp_idxs)), at least 1"
        )
    able = with_trait("supports_mask")
    if dec_name in DECODERS and dec_name not in able:
        problems.append(f"dec_name {dec_name!r} cannot predict masks; set mask_name: null, or choose from {able}")
    return problems


def part_problems(dec_name: str, dec_options: Mapping[str, Any] | None, taps: Sequence[int] | None) -> list[str]:
    """List what is wrong with the options of the decoder, and with taps that no decoder reads."""
    if dec_name not in DECODERS:
        return []  # reported as such
    known = {*DECODERS.parameters(dec_name)} - {*keywords_of(inspect.signature(Decoder))}
    problems = [
        f"dec_options: {key!r} is not an option of dec_name {dec_name!r}. {did_you_mean(key, known)}"
        for key in dec_options or {}
        if key not in known
    ]
    if taps is not None and dec_name not in (readers := with_trait("reads_tokens")):
        problems.append(f"taps: dec_name {dec_name!r} does not read blocks of a ViT, only {', '.join(readers)} does")
    return problems


def decoder_problems(dec_name: str) -> list[str]:
    """List what is wrong with the name of a decoder."""
    if dec_name in DECODERS:
        return []
    return [f"dec_name {dec_name!r} is not a decoder. {did_you_mean(dec_name, DECODERS.names())}"]


def feature_problems(dec_name: str, reductions: Sequence[int]) -> list[str]:
    """List why a decoder cannot read features of these strides, and the decoders that can."""
    readers = [name for name in DECODERS.names() if not _judge(name)(reductions)]
    choice = f", or dec_name {' or '.join(readers)}" if readers else ""
    return [problem + choice for problem in _judge(dec_name)(reductions)]


def _judge(dec_name: str) -> Callable[[Sequence[int]], list[str]]:
    return getattr(DECODERS.get(dec_name), "feature_problems", lambda _: [])


def with_trait(trait: str) -> list[str]:
    """Names of the decoders whose class attribute `trait` is true."""
    return [name for name in DECODERS.names() if getattr(DECODERS.get(name), trait, False)]


def scales_of(dec_name: str) -> Sequence[int]:
    """Return the scales that a decoder can predict."""
    return getattr(DECODERS.get(dec_name), "scales", SCALES)


def scale_problems(out_scales: int | Sequence[int], dec_name: str) -> list[str]:
    """List what is wrong with the scales to predict: they must be distinct, ones of the decoder, and include 0."""
    scales = as_scales(out_scales)
    choices = scales_of(dec_name) if dec_name in DECODERS else SCALES
    owner = "" if choices == SCALES else f" of decoder {dec_name!r}"
    problems = []
    if unknown := [scale for scale in scales if scale not in choices]:
        problems.append(f"out_scales {list(scales)} holds {unknown}; choose from {list(choices)}{owner} (strides 2**s)")
    if len(set(scales)) < len(scales):
        problems.append(f"out_scales {list(scales)} holds a scale twice")
    if 0 not in scales:
        problems.append(f"out_scales {list(scales)} lacks 0: evaluation and the last layers need the full resolution")
    return problems
