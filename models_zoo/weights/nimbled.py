"""Folders of NimbleD (arXiv:2408.14177): Monodepth2 or Lite-Mono with ReLU disparity, and a learned camera."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models_zoo.weights import FORMATS
from models_zoo.weights.base import (
    ForeignWeights,
    Format,
    UnreadableWeights,
    complete_batchnorm,
    listed,
    merged,
    tensors_of,
)
from models_zoo.weights.litemono import decoder_of, encoder_of, options_of, without_counters
from models_zoo.weights.monodepth2 import LITEMONO, SIZE, STATISTICS, resnet, size_of, unet
from models_zoo.weights.unpickling import unpickle

DEPTH = ("depth_encoder.pth", "depth_decoder.pth")
CAMERA = ("camera_encoder.pth", "camera_decoder.pth")
BRANCHES = {"pose_decoder": "decoder", "focal_decoder": "focal", "center_decoder": "centre"}  # their names -> ours
HEADS = {"squeeze.0": "squeeze.0"} | {
    f"{theirs}.{layer}": f"{ours}.{name}"
    for theirs, ours in BRANCHES.items()
    for layer, name in (("0", "0.0"), ("2", "1.0"), ("4", "2"))
}


@FORMATS.register("nimbled")
class NimbleD(Format):
    """depth_encoder.pth, depth_decoder.pth, and camera_encoder.pth and camera_decoder.pth if there."""

    source = "NimbleD, arXiv:2408.14177"
    looked_for = (
        "a NimbleD folder: depth_encoder.pth, depth_decoder.pth, optionally camera_encoder.pth, camera_decoder.pth"
    )

    def recognises(self, path: Path, content: Any) -> bool:
        return content is None and any((path / name).is_file() for name in DEPTH)

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        dropped: dict[str, list[str]] = {}
        files = _read_files(path, dropped)
        encoder_file, decoder_file = (files[name] for name in DEPTH)
        facts = {key: encoder_file.pop(key, None) for key in ("height", "width", "use_stereo")}
        if LITEMONO in encoder_file:
            encoder, enc_name = encoder_of(path / DEPTH[0], encoder_file)
            decoder, scales = decoder_of(path / DEPTH[1], decoder_file, enc_name)
            options = options_of(enc_name)
        else:
            encoder, enc_name = resnet(path / DEPTH[0], encoder_file, 3, dropped)
            decoder, scales = unet(path / DEPTH[1], decoder_file)
            options = {"enc_name": enc_name, "pretrained": False, "dec_name": "monodepth", **STATISTICS}
        notes = complete_batchnorm(encoder)
        tensors = {f"depth.encoder.{name}": t for name, t in encoder.items()}
        tensors |= {f"depth.decoders.disp.{name}": t for name, t in decoder.items()}
        net = {"depth": {**options, "out_scales": scales, "activation": "relu"}}
        if CAMERA[0] in files:
            camera, net["pose"] = _camera(path, files, dropped)
            tensors |= {f"pose.{name}": t for name, t in camera.items()}
        supports = [-1, 1] if "pose" in net else None
        size = size_of(facts, notes) if facts["height"] else list(SIZE)
        settings = merged({"dataset": {"size": size, "supp_idxs": supports}}, corrections)
        net = merged(net, settings.pop("net", {}))
        name = f"NimbleD folder (arXiv:2408.14177): {enc_name}"
        return ForeignWeights(path, name, tensors, net, settings=settings, dropped=dropped, notes=notes)


def _read_files(path: Path, dropped: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    there = [name for name in (*DEPTH, *CAMERA) if (path / name).is_file()]
    for pair in (DEPTH, CAMERA):
        lack = [name for name in pair if name not in there]
        if lack and (pair is DEPTH or len(lack) < len(pair)):
            raise UnreadableWeights(f"{path}: a NimbleD folder without {lack[0]}; it has {', '.join(there)}")
    files = {}
    for name in there:
        content = unpickle(path / name)
        if not isinstance(content, dict):
            raise UnreadableWeights(f"{path / name}: expected a state dict, got {type(content).__name__}")
        files[name] = without_counters(content, name, dropped)
    return files


def _camera(
    path: Path, files: Mapping[str, Mapping[str, Any]], dropped: dict[str, list[str]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Translate the two files of a camera network; return its tensors and options."""
    encoder, enc_name = resnet(path / CAMERA[0], files[CAMERA[0]], 6, dropped)
    complete_batchnorm(encoder)
    heads = tensors_of(files[CAMERA[1]], path / CAMERA[1])
    if left := sorted(name for name in heads if name.rpartition(".")[0] not in HEADS):
        raise UnreadableWeights(f"{path / CAMERA[1]}: {len(left)} entries are not of NimbleD: {listed(left)}")
    camera = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    for name, tensor in heads.items():
        layer, _, kind = name.rpartition(".")
        camera[f"{HEADS[layer]}.{kind}"] = tensor
    learned = {"learn_K": True} if any(name.startswith("focal_decoder.") for name in heads) else {}
    return camera, {"enc_name": enc_name, "pretrained": False, **STATISTICS, **learned}
