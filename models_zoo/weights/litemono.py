"""Weights of Lite-Mono (arXiv:2211.13202): folders with the file names of Monodepth2, and encoders alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models_zoo.encoders import ENCODERS
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
from models_zoo.weights.monodepth2 import LITEMONO, STATISTICS, pose_network, read_files, size_of
from models_zoo.weights.unpickling import names_entry

NAMES = ("litemono", "litemono_small", "litemono_tiny", "litemono_8m")
ENCODER = ("downsample_layers.", "stem2.", "stages.")  # prefixes of its entries
COUNTERS = ("total_ops", "total_params")  # of the library thop, one pair per layer
FIRST_OUTPUT = 6  # position of the first output convolution
LIMITS = {"min_depth": 0.1, "max_depth": 100.0}  # of depth
WIDE = 832  # pixels: wider images are those of 1024 x 320, whose dilations are larger


@FORMATS.register("litemono")
class LiteMonoWeights(Format):
    """encoder.pth, depth.pth, optionally pose_encoder.pth and pose.pth; or an encoder alone, as of ImageNet."""

    source = "Lite-Mono, arXiv:2211.13202"
    looked_for = (
        "a Lite-Mono folder: encoder.pth, depth.pth, optionally pose_encoder.pth, pose.pth; or its encoder alone"
    )

    def recognises(self, path: Path, content: Any) -> bool:
        if content is None:
            return names_entry(path / "encoder.pth", LITEMONO)
        return LITEMONO in _state(content)

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        dropped: dict[str, list[str]] = {}
        if content is not None:
            return _encoder_alone(path, content, corrections, dropped)
        files = {name: without_counters(state, name, dropped) for name, state in read_files(path, "Lite-Mono").items()}
        if (path / "adam.pth").exists():
            dropped["the state of its optimizer"] = ["adam.pth"]
        facts = {key: files["encoder.pth"].pop(key, None) for key in ("height", "width", "use_stereo")}
        encoder, enc_name = encoder_of(path / "encoder.pth", files["encoder.pth"])
        decoder, scales = decoder_of(path / "depth.pth", files["depth.pth"], enc_name)
        notes = complete_batchnorm(encoder)
        tensors = {f"depth.encoder.{name}": t for name, t in encoder.items()}
        tensors |= {f"depth.decoders.disp.{name}": t for name, t in decoder.items()}
        net = {"depth": {**options_of(enc_name), "out_scales": scales}}
        if "pose.pth" in files:
            pose, net["pose"] = pose_network(path, files, dropped)
            tensors |= {f"pose.{name}": t for name, t in pose.items()}
        size = size_of(facts, notes)
        if size[0] >= WIDE:
            net["depth"]["enc_options"] = {"dilation": "large"}
            notes.append(f"trained on images {size[0]} pixels wide, so net.depth.enc_options.dilation is large")
        supports = ([-1, 1] if "pose" in net else []) + ([0] if facts["use_stereo"] else [])
        dataset = {"size": size, "supp_idxs": supports or None}
        settings = merged({"dataset": dataset, "trainer": LIMITS}, corrections)
        net = merged(net, settings.pop("net", {}))
        name = f"Lite-Mono folder (arXiv:2211.13202): {enc_name}"
        return ForeignWeights(path, name, tensors, net, settings=settings, dropped=dropped, notes=notes)


def _encoder_alone(
    path: Path, content: Mapping[str, Any], corrections: Mapping[str, Any], dropped: dict[str, list[str]]
) -> ForeignWeights:
    state = without_counters(_state(content), path.name, dropped)
    own = {name: value for name, value in state.items() if str(name).startswith(ENCODER)}
    if head := [str(name) for name in state if name not in own]:
        dropped["what is not of the encoder, as the classifier of ImageNet"] = head
    encoder, enc_name = encoder_of(path, own)
    notes = [*complete_batchnorm(encoder), "only an encoder: the file holds no decoders and no other networks"]
    if (path.parent / "depth.pth").is_file():
        notes.append(f"depth.pth lies beside it: name the folder, {path.parent}, for the whole network")
    settings = merged({"net": {"depth": {**options_of(enc_name), "out_scales": [0, 1, 2]}}}, corrections)
    return ForeignWeights(
        source=path,
        format=f"Lite-Mono encoder (arXiv:2211.13202): {enc_name}",
        tensors={f"depth.encoder.{name}": t for name, t in encoder.items()},
        net=settings.pop("net"),
        parts=("depth.encoder",),
        settings=settings,
        dropped=dropped,
        notes=notes,
    )


def _state(content: Any) -> Mapping[str, Any]:
    """Return the state dict of a file: the file itself, or its entry `model`."""
    inner = content.get("model", content) if isinstance(content, Mapping) else {}
    return inner if isinstance(inner, Mapping) else {}


def without_counters(state: Mapping[str, Any], place: str, dropped: dict[str, list[str]]) -> dict[str, Any]:
    """Return a state dict without the counters of thop."""
    counters = [name for name in state if str(name).rpartition(".")[2] in COUNTERS]
    if counters:
        dropped.setdefault("counters of operations", []).extend(f"{place}: {name}" for name in counters)
    return {name: value for name, value in state.items() if name not in counters}


def encoder_of(path: Path, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Check an encoder; return its tensors and the name of its variant, which its shapes decide."""
    tensors = tensors_of(state, path)
    if left := sorted(name for name in tensors if not name.startswith(ENCODER)):
        raise UnreadableWeights(f"{path}: {len(left)} entries are not of Lite-Mono: {listed(left)}")
    found = Counter(match[1] for name in tensors if (match := re.fullmatch(r"stages\.(\d)\.\d+\.gamma", name)))
    blocks = tuple(found[stage] for stage in "012")
    widths = [tensors.get(f"stages.{stage}.0.gamma") for stage in "012"]
    dims = tuple(len(gamma) if gamma is not None and gamma.ndim == 1 else 0 for gamma in widths)
    for name in NAMES:
        variant: Any = ENCODERS.get(name)
        if (variant.dims, variant.blocks) == (dims, blocks):
            return tensors, name
    raise UnreadableWeights(
        f"{path}: is none of the encoders {', '.join(NAMES)}: it has {blocks} blocks of {dims} channels"
    )


def decoder_of(path: Path, state: Mapping[str, Any], enc_name: str) -> tuple[dict[str, Tensor], list[int]]:
    """Check a decoder; return its tensors, and its scales in the order of the output convolutions."""
    tensors = tensors_of(state, path)
    known = [name for name in tensors if re.fullmatch(r"decoder\.\d+\.conv(\.conv)?\.(weight|bias)", name)]
    if left := sorted(tensors.keys() - set(known)):
        raise UnreadableWeights(f"{path}: {len(left)} entries are not of Lite-Mono: {listed(left)}")
    variant: Any = ENCODERS.get(enc_name)
    widths = [dim // 2 for dim in variant.dims]
    positions = sorted(int(m[1]) for name in tensors if (m := re.fullmatch(r"decoder\.(\d+)\.conv\.weight", name)))
    outputs = [tensors[f"decoder.{position}.conv.weight"] for position in positions]
    read = [output.shape[1] if output.ndim == 4 else 0 for output in outputs]
    if not read or positions[0] != FIRST_OUTPUT or not set(read) <= set(widths):
        raise UnreadableWeights(f"{path}: no output convolutions of {enc_name}, which take {listed(widths)} channels")
    return tensors, [widths.index(channels) for channels in read]


def options_of(enc_name: str) -> dict[str, Any]:
    """Return the options of the depth network of a variant, but for its scales."""
    return {"enc_name": enc_name, "pretrained": False, "dec_name": "litemono", **STATISTICS}
