"""Folders of Monodepth2 (arXiv:1806.01260): one file per part of a network, legacy serialisation included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from models_zoo.decoders.base import WIDTHS
from models_zoo.weights import FORMATS
from models_zoo.weights.base import (
    ForeignWeights,
    Format,
    UnreadableWeights,
    complete_batchnorm,
    listed,
    merged,
    tensors_of,
    without_classifier,
)
from models_zoo.weights.torchvision import RESNETS, architecture
from models_zoo.weights.unpickling import names_entry, unpickle

NEEDED = ("encoder.pth", "depth.pth")
STATISTICS = {"mean": [0.45] * 3, "std": [0.225] * 3}  # of the images, for both encoders
SIZE = (640, 192)  # width, height of most released models
PARTNERS = {"pose_encoder.pth": "pose.pth", "pose.pth": "pose_encoder.pth"}
POSE_HEAD = {"net.0": "squeeze.0", "net.1": "decoder.0.0", "net.2": "decoder.1.0", "net.3": "decoder.2"}
FIRST_OUTPUT = 10  # position of the first output convolution
LITEMONO = "stem2.0.conv.weight"  # an entry by which the same files of Lite-Mono are known
SINGLE = ("encoder.conv1.weight", "decoder.0.conv.conv.weight", "net.0.weight")  # recognise single files

# Settings of a Monodepth2 run. The paper: 20 epochs, batches of 12, Adam, 1e-4 falling to 1e-5 after 15.
SETTINGS: dict[str, Any] = {
    "loss": {
        "img_recon": {"weight": 1.0, "loss_name": "ssim", "use_min": True, "use_automask": True},
        "disp_smooth": {"weight": 0.001, "use_edges": True},
    },
    "dataset": {"type": "kitti", "split": "eigen_zhou", "train": {"use_aug": True, "use_depth": False}},
    "loader": {"batch_size": 12, "num_workers": 4},
    "optimizer": {"type": "adam", "lr": 1e-4},
    "scheduler": {"type": "steplr", "step_size": 15, "gamma": 0.1},
    "trainer": {"max_epochs": 20, "min_depth": 0.1, "max_depth": 100.0, "legacy_sampling": False},
}


@FORMATS.register("monodepth2")
class Monodepth2(Format):
    """encoder.pth, depth.pth; pose_encoder.pth and pose.pth unless trained on stereo pairs; predictive_mask.pth."""

    source = "Monodepth2, arXiv:1806.01260"
    looked_for = (
        "a Monodepth2 folder: encoder.pth, depth.pth, optionally pose_encoder.pth, pose.pth, predictive_mask.pth"
    )

    def recognises(self, path: Path, content: Any) -> bool:
        """See `Format`. Recognises single files of a folder, too, so that `read` can name the folder."""
        if content is None:
            return any((path / name).is_file() for name in NEEDED) and not names_entry(path / NEEDED[0], LITEMONO)
        return isinstance(content, Mapping) and any(name in content for name in SINGLE)

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        if content is not None:
            raise UnreadableWeights(f"{path}: is one file of a Monodepth2 folder. Name the folder, {path.parent}")
        files = read_files(path, "Monodepth2", ("predictive_mask.pth",))
        dropped: dict[str, list[str]] = {}
        if (path / "adam.pth").exists():
            dropped["the state of its optimizer"] = ["adam.pth"]
        facts = {key: files["encoder.pth"].pop(key, None) for key in ("height", "width", "use_stereo")}
        encoder, enc_name = resnet(path / "encoder.pth", files["encoder.pth"], 3, dropped)
        decoder, scales = unet(path / "depth.pth", files["depth.pth"])
        notes = complete_batchnorm(encoder)
        tensors = {f"depth.encoder.{name}": t for name, t in encoder.items()}
        tensors |= {f"depth.decoders.disp.{name}": t for name, t in decoder.items()}
        depth = {"enc_name": enc_name, "pretrained": False, "dec_name": "monodepth", "out_scales": scales, **STATISTICS}
        net = {"depth": depth}
        if "predictive_mask.pth" in files:
            mask, _ = unet(path / "predictive_mask.pth", files["predictive_mask.pth"])
            channels = len(mask.get(f"decoder.{FIRST_OUTPUT}.bias", ()))
            tensors |= {f"depth.decoders.mask.{name}": t for name, t in mask.items()}
            depth |= {"mask_name": "explainability", "num_ch_mask": channels}
            notes.append("the predictive mask is kept (net.depth.mask_name: explainability); no loss uses it")
        if "pose.pth" in files:
            pose, options = pose_network(path, files, dropped)
            tensors |= {f"pose.{name}": t for name, t in pose.items()}
            net["pose"] = options
        temporal = [-1, 1] if "pose" in net else []
        stereo = [0] if facts["use_stereo"] or not temporal else []
        dataset = {**SETTINGS["dataset"], "size": size_of(facts, notes), "supp_idxs": temporal + stereo}
        settings = merged({**SETTINGS, "dataset": dataset}, corrections)
        net = merged(net, settings.pop("net", {}))
        name = "Monodepth2 folder (arXiv:1806.01260)"
        return ForeignWeights(path, name, tensors, net, settings=settings, dropped=dropped, notes=notes)


def read_files(path: Path, system: str, others: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Read the files of a folder, by name: those of a depth network, if there those of a pose network, and `others`.

    system: for messages. Raises UnreadableWeights when one is missing, or its pose network is one that this zoo lacks.
    """
    wanted = (*NEEDED, *PARTNERS, *others)
    there = [name for name in wanted if (path / name).is_file()]
    if missing := [name for name in NEEDED if name not in there]:
        lack = " and ".join(missing)
        raise UnreadableWeights(f"{path}: a {system} folder without {lack}; it has {', '.join(there)}")
    files = {name: unpickle(path / name) for name in there}
    for name, content in files.items():
        if not isinstance(content, dict):
            raise UnreadableWeights(f"{path / name}: expected a state dict, got {type(content).__name__}")
    _refuse_other_poses(path, files)
    for name, partner in PARTNERS.items():
        if name in files and partner not in files:
            raise UnreadableWeights(f"{path}: has {name} but no {partner}; both are needed")
    return files


def _refuse_other_poses(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UnreadableWeights for the pose networks of Monodepth2 that this zoo lacks."""
    head = files.get("pose.pth", {})
    fused, stem = head.get("net.1.weight"), files.get("pose_encoder.pth", {}).get("encoder.conv1.weight")
    fault = ""
    if any(name.startswith("pose_conv.") for name in head):
        fault = "pose_model_type posecnn (seven strided convolutions)"
    elif isinstance(fused, Tensor) and fused.ndim == 4 and fused.shape[1] == 512:
        fault = "pose_model_type shared (features of the depth encoder, two images side by side)"
    elif isinstance(stem, Tensor) and stem.ndim == 4 and stem.shape[1] != 6:
        fault = f"a pose encoder that takes {stem.shape[1] // 3} images at once"
    if fault:
        raise UnreadableWeights(
            f"{path}: has {fault}, which is not supported: only separate_resnet on pairs is. Remove pose.pth and"
            " pose_encoder.pth from the folder to import only the depth network"
        )


def resnet(
    path: Path, state: Mapping[str, Any], in_chans: int, dropped: dict[str, list[str]]
) -> tuple[dict[str, Tensor], str]:
    """Translate an encoder with `in_chans` input channels; return its tensors and the name of its ResNet."""
    tensors = tensors_of(state, path)
    _refuse_others(path, tensors, [name for name in tensors if name.startswith("encoder.")])
    encoder = without_classifier(tensors, "encoder.", dropped)
    name = architecture(encoder)
    if name is None:
        raise UnreadableWeights(f"{path}: is none of the encoders {', '.join(RESNETS)}")
    if (found := encoder["conv1.weight"].shape[1]) != in_chans:
        raise UnreadableWeights(f"{path}: encoder.conv1 takes {found} channels instead of {in_chans}")
    return encoder, name


def unet(path: Path, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[int]]:
    """Translate a decoder; return its tensors, and its scales in the order of the output convolutions."""
    tensors = tensors_of(state, path)
    known = [name for name in tensors if re.fullmatch(r"decoder\.\d+\.conv(\.conv)?\.(weight|bias)", name)]
    _refuse_others(path, tensors, known)
    outputs = sorted(
        (int(match[1]), tensor.shape[1])
        for name, tensor in tensors.items()
        if (match := re.fullmatch(r"decoder\.(\d+)\.conv\.weight", name)) and tensor.ndim == 4
    )
    odd = [f"decoder.{n} takes {width} channels" for n, width in outputs if width not in WIDTHS[:4]]
    if odd or not outputs:
        raise UnreadableWeights(f"{path}: no output convolutions of a Monodepth2 decoder: {listed(odd) or 'none'}")
    scales = [WIDTHS.index(width) for _, width in outputs]
    return {name.replace(".conv.", ".", 1): tensor for name, tensor in tensors.items()}, scales


def pose_network(
    path: Path, files: Mapping[str, Mapping[str, Any]], dropped: dict[str, list[str]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Translate the two files of a pose network; return its tensors and options."""
    encoder, enc_name = resnet(path / "pose_encoder.pth", files["pose_encoder.pth"], 6, dropped)
    complete_batchnorm(encoder)
    head = tensors_of(files["pose.pth"], path / "pose.pth")
    _refuse_others(path / "pose.pth", head, [name for name in head if name.rpartition(".")[0] in POSE_HEAD])
    pose = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    for name, tensor in head.items():
        layer, _, kind = name.rpartition(".")
        pose[f"{POSE_HEAD[layer]}.{kind}"] = tensor
    return pose, {"enc_name": enc_name, "pretrained": False, **STATISTICS}


def size_of(facts: Mapping[str, Any], notes: list[str]) -> list[int]:
    """Return width and height of the training images, which encoder.pth names."""
    size = [facts.get("width"), facts.get("height")]
    if all(isinstance(side, int) and side >= 64 and side % 32 == 0 for side in size):
        return size  # type: ignore[return-value]
    notes.append(f"encoder.pth has no valid size ({size[0]} x {size[1]}): {SIZE[0]} x {SIZE[1]} is assumed")
    return list(SIZE)


def _refuse_others(path: Path, tensors: Mapping[str, Tensor], known: list[str]) -> None:
    if left := sorted(set(tensors) - set(known)):
        raise UnreadableWeights(f"{path}: {len(left)} entries are not of Monodepth2: {listed(left)}")
