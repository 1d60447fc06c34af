"""Depth Anything (arXiv:2401.10891, V2 arXiv:2406.09414) and DINOv2 (arXiv:2304.07193): files of transformers and .pth.

The names of their tensors are in `models_zoo.weights.depth_anything_names`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models_zoo.decoders.dpt import channels_of
from models_zoo.encoders.vit import DINOV2_PATCH, default_taps
from models_zoo.weights import FORMATS
from models_zoo.weights.base import (
    ForeignWeights,
    Format,
    MissingSettings,
    UnreadableWeights,
    listed,
    merged,
    tensors_of,
)
from models_zoo.weights.depth_anything_names import is_swiglu, of_authors, of_transformers
from models_zoo.weights.unpickling import unpickle

ENCODER, DECODER = "depth.encoder.vit.", "depth.decoders.disp."
KINDS = ("depth_anything", "dinov2", "dinov2_with_registers")  # `model_type` of folders
FILES = ("model.safetensors", "pytorch_model.bin")
VITS = {  # width, blocks, heads -> the name of timm
    (384, 12, 6): "vit_small_patch14_dinov2",
    (768, 12, 12): "vit_base_patch14_dinov2",
    (1024, 24, 16): "vit_large_patch14_dinov2",
    (1536, 40, 24): "vit_giant_patch14_dinov2",
}
SIZE = 518  # pixels: the images of DINOv2 and Depth Anything, 37 patches wide and high
FACTORS = [4, 2, 1, 0.5]  # of the four maps, of which the decoder is built


@FORMATS.register("depth_anything")
class DepthAnything(Format):
    """A folder of transformers (config.json and weights), or a .pth of the authors with encoder and head."""

    source = "Depth Anything, arXiv:2401.10891, V2 arXiv:2406.09414; DINOv2, arXiv:2304.07193"
    looked_for = (
        "Depth Anything or DINOv2: a folder of transformers (config.json with model_type depth_anything or dinov2,"
        " model.safetensors), or the authors' .pth with entries pretrained. ... and depth_head. ..."
    )

    def recognises(self, path: Path, content: Any) -> bool:
        if content is None:
            return _config(path).get("model_type") in KINDS
        names = [name for name in content if isinstance(name, str)] if isinstance(content, Mapping) else []
        return all(any(name.startswith(part) for name in names) for part in ("pretrained.", "depth_head."))

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        dropped: dict[str, list[str]] = {}
        config = _config(path) if content is None else {}
        try:
            if content is None:
                prefix = "backbone." if config["model_type"] == "depth_anything" else ""
                vit, head = of_transformers(_weights(path), prefix, dropped)
            else:
                vit, head = of_authors(tensors_of(content, path), dropped)
        except UnreadableWeights as error:
            raise UnreadableWeights(str(error) if str(path) in str(error) else f"{path}: {error}") from error
        _fold_registers(vit)
        notes: list[str] = []
        backbone = _backbone(config) if head else config
        depth = {**_encoder_options(path, vit, backbone, corrections), "pretrained": False, "dec_name": "dpt"}
        settings: dict[str, Any] = {}
        if head:
            more, settings = _decoder_options(path, vit, head, config, notes)
            depth |= more
        settings = merged({"net": {"depth": depth}, **settings}, corrections)
        net = settings.pop("net")
        part = _keep_what_is_read(vit, net["depth"], dropped)
        tensors = {ENCODER + name: tensor for name, tensor in vit.items()}
        tensors |= {DECODER + name: tensor for name, tensor in head.items()}
        name = "Depth Anything (arXiv:2401.10891, 2406.09414)" if head else "DINOv2 (arXiv:2304.07193)"
        kind = "folder of transformers" if content is None else "file of the authors"
        return ForeignWeights(
            path,
            f"{name}, {kind}",
            tensors,
            net,
            () if head else (part,),
            settings=settings,
            dropped=dropped,
            notes=notes,
        )


def _config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a folder; empty when there is none that can be read."""
    try:
        content = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _backbone(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the ViT in those of Depth Anything, of old files the default of transformers."""
    given = config.get("backbone_config")
    default = {"num_attention_heads": 6, "out_indices": [9, 10, 11, 12]} if config else {}
    return given if isinstance(given, dict) and given else default


def _weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder. Raises UnreadableWeights when it has none, or damaged ones."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UnreadableWeights(
            f"{folder}: has a config.json, but no weights in one file. Looked for {' and '.join(FILES)}"
        )
    if path.suffix == ".bin":
        content = unpickle(path)
        if not isinstance(content, Mapping):
            raise UnreadableWeights(f"{path}: expected a state dict, got {type(content).__name__}")
        return tensors_of(content, path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UnreadableWeights(f"{path}: damaged: {error}. Copy or download it again") from error


def _fold_registers(vit: dict[str, Tensor]) -> None:
    """With registers timm keeps no position of the class token: it becomes part of the token itself."""
    if "reg_token" in vit and {"cls_token", "pos_embed"} <= vit.keys():
        positions = vit["pos_embed"]
        vit["cls_token"], vit["pos_embed"] = vit["cls_token"] + positions[:, :1], positions[:, 1:].clone()


def _encoder_options(
    path: Path, vit: Mapping[str, Tensor], config: Mapping[str, Any], corrections: Mapping[str, Any]
) -> dict[str, Any]:
    """Return enc_name, and the options of a ViT that has no name in timm."""
    needed = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4}
    needed |= {f"blocks.0.mlp.fc{i}.weight": 2 for i in (1, 2)} | {name: 3 for name in vit if name == "reg_token"}
    _require(path, vit, needed, "DINOv2 encoder")
    for key, value in {"layer_norm_eps": 1e-6, "hidden_act": "gelu"}.items():
        if config.get(key, value) != value:
            raise UnreadableWeights(f"{path}: config.json: {key} is {config[key]!r}; only {value!r} is supported")
    patch = vit["patch_embed.proj.weight"].shape[-1]
    if patch != DINOV2_PATCH:
        raise UnreadableWeights(f"{path}: has patches of {patch} pixels; only {DINOV2_PATCH} are supported")
    width = vit["cls_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in vit if name.startswith("blocks."))
    known = next((shape for shape in VITS if shape[:2] == (width, depth)), None)
    given = ((corrections.get("net") or {}).get("depth") or {}).get("enc_options") or {}
    stated = config.get("num_attention_heads", 12) if config else (known[2] if known else None)  # 12: of transformers
    heads = given.get("num_heads") or stated
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise MissingSettings(
            f"{path}: does not say the number of attention heads of its ViT, {width} wide. Give"
            " net.depth.enc_options.num_heads, and for other settings, too"
        )
    gated = is_swiglu(vit)
    name = VITS.get((width, depth, heads))
    options: dict[str, Any] = {} if name else {"embed_dim": width, "depth": depth, "num_heads": heads}
    name = name or VITS[(1536, 40, 24) if gated else (384, 12, 6)]
    ratio = vit["blocks.0.mlp.fc1.weight"].shape[0] / width
    if options and ratio != (2 * 2.66667 if gated else 4):
        options["mlp_ratio"] = ratio
    if "blocks.0.attn.qkv.bias" not in vit:
        options["qkv_bias"] = False
    if registers := vit["reg_token"].shape[1] if "reg_token" in vit else 0:
        name = name.replace("patch14", "patch14_reg4")
        options |= {"reg_tokens": registers} if registers != 4 else {}
    if (size := _image_size(vit)) != SIZE:
        options["img_size"] = size
    return {"enc_name": name, **({"enc_options": options} if options else {})}


def _require(path: Path, tensors: Mapping[str, Tensor], dimensions: Mapping[str, int], what: str) -> None:
    """Raise UnreadableWeights unless there are tensors of these names and numbers of dimensions."""
    if wrong := [name for name, n in dimensions.items() if name not in tensors or tensors[name].ndim != n]:
        raise UnreadableWeights(f"{path}: is no {what}: it lacks {listed(wrong)}")


def _image_size(vit: Mapping[str, Tensor]) -> int:
    """Return the side in pixels of the square images that the positions are of."""
    rows = vit["pos_embed"].shape[1] - ("reg_token" not in vit)
    return int(rows**0.5) * DINOV2_PATCH


def _decoder_options(
    path: Path, vit: Mapping[str, Tensor], head: dict[str, Tensor], config: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the other options of the network, and settings; add to the notes what they mean."""
    for key, value in {"reassemble_factors": FACTORS, "head_in_index": -1}.items():
        if config.get(key, value) != value:
            raise UnreadableWeights(f"{path}: config.json: {key} is {config[key]!r}; only {value!r} is supported")
    if not _backbone(config).get("apply_layernorm", True):
        raise UnreadableWeights(f"{path}: config.json: apply_layernorm is false; only true is supported")
    layers = [f"reassemble.{k}.projection.weight" for k in range(4)]
    needed = dict.fromkeys((*layers, "convs.0.weight", "head.conv2.weight", "head.conv3.weight"), 4)
    _require(path, head, {**needed, "head.conv3.bias": 1}, "head of Depth Anything")
    neck, fusion, hidden = (
        [len(head[name]) for name in layers],
        len(head["convs.0.weight"]),
        len(head["head.conv2.weight"]),
    )
    usual_neck, usual_fusion = channels_of(vit["cls_token"].shape[-1])
    given = {"neck": (neck, list(usual_neck)), "fusion": (fusion, usual_fusion), "hidden": (hidden, 32)}
    options: dict[str, Any] = {key: value for key, (value, usual) in given.items() if value != usual}
    depth: dict[str, Any] = {"out_scales": [0], **({"dec_options": options} if options else {})}

    blocks = 1 + max(int(name.split(".")[1]) for name in vit if name.startswith("blocks."))
    is_metric, limit = _kind(path, config, notes)
    if (taps := _taps(path, config, blocks, notes)) != default_taps(blocks, DINOV2_PATCH):
        depth["taps"] = taps
    side = _image_size(vit)
    settings: dict[str, Any] = {"dataset": {"size": [side, side]}}
    notes.append(
        f"dataset.size: [{side}, {side}], the images of its training. For pictures of another shape give --size, e.g."
        f" {14 * round(4 * side / 42)},{side}"
    )
    if is_metric:
        notes.append("it predicts depth in metres, by its own training")
        return {**depth, "activation": "metric"}, {**settings, "trainer": {"max_depth": float(limit)}}
    if limit != 1:  # transformers multiplies, and a ReLU lets a positive factor through
        head |= {f"head.conv3.{kind}": head[f"head.conv3.{kind}"] * limit for kind in ("weight", "bias")}
    notes.append(
        "it predicts disparity up to scale and shift, so its depth has no unit and no true shape: evaluate with"
        " --alignment lsqr_disp"
    )
    return {**depth, "activation": "relu"}, settings


def _kind(path: Path, config: Mapping[str, Any], notes: list[str]) -> tuple[bool, float]:
    """Return whether the network predicts metres, and its largest depth (1 where there is none)."""
    if config:
        limit = config.get("max_depth") or 1
        if not isinstance(limit, int | float) or limit <= 0:
            raise UnreadableWeights(f"{path}: config.json: max_depth is {limit!r}; a number of metres is needed")
        return config.get("depth_estimation_type") == "metric", limit
    if "metric" not in path.stem:
        return False, 1
    limit = 80 if "vkitti" in path.stem else 20
    notes.append(f"by its name a metric network up to {limit} m. For another limit give trainer.max_depth")
    return True, limit


def _taps(path: Path, config: Mapping[str, Any], blocks: int, notes: list[str]) -> list[int]:
    """Return the blocks that the head reads, counted from 0."""
    if not config:
        if "v2" not in path.stem and re.search(r"vit[sblg]14", path.stem):
            notes.append("by its name Depth Anything V1, whose head reads the last four blocks. V2: net.depth.taps: ~")
            return [*range(blocks - 4, blocks)]
        notes.append(f"its head is taken to read the blocks of V2. V1: net.depth.taps: {[*range(blocks - 4, blocks)]}")
        return default_taps(blocks, DINOV2_PATCH)
    backbone = _backbone(config)
    stages = [str(stage).removeprefix("stage") for stage in backbone.get("out_features") or ()]
    indices = backbone.get("out_indices") or [int(stage) for stage in stages if stage.isdecimal()]
    if (
        not isinstance(indices, list)
        or len(indices) != 4
        or not all(isinstance(i, int) and -blocks <= i <= blocks and i for i in indices)
    ):
        raise UnreadableWeights(
            f"{path}: config.json: out_indices is {indices}; four blocks of 1 to {blocks} are needed"
        )
    return [(index if index > 0 else index + blocks + 1) - 1 for index in indices]


def _keep_what_is_read(vit: dict[str, Tensor], depth: Mapping[str, Any], dropped: dict[str, list[str]]) -> str:
    """Drop what the decoder does not read of the encoder. Returns the part of the networks that is left."""
    if depth.get("dec_name") != "dpt":
        unread = [name for name in vit if name.startswith("norm.")]
        dropped[f"the last norm, which dec_name {depth['dec_name']} does not read"] = unread
        for name in unread:
            del vit[name]
        return "depth.encoder.vit"
    last = max(depth.get("taps") or [10**6])
    if unread := [name for name in vit if name.startswith("blocks.") and int(name.split(".")[1]) > last]:
        dropped["blocks after the last one that is read"] = unread
        for name in unread:
            del vit[name]
    return "depth.encoder"
