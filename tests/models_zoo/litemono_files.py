"""Key tables of Lite-Mono, RA-Depth's decoder and NimbleD as published, and files with them, of random numbers.

Written from the published tables, independent of `models_zoo`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.models_zoo.foreign import _monodepth2_decoder, _torchvision_layout, _under
from tests.models_zoo.layouts import Shapes, State, conv, fill

VARIANTS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {  # channels, blocks of the stages
    "litemono": ((48, 80, 128), (4, 4, 10)),
    "litemono_small": ((48, 80, 128), (4, 4, 7)),
    "litemono_tiny": ((32, 64, 128), (4, 4, 7)),
    "litemono_8m": ((64, 128, 224), (4, 4, 10)),
}


def _pair(prefix: str, *weight: int) -> Shapes:
    return {f"{prefix}.weight": weight, f"{prefix}.bias": weight[:1]}


def _batchnorm(prefix: str, c: int) -> Shapes:
    return {
        **_pair(prefix, c), f"{prefix}.running_mean": (c,), f"{prefix}.running_var": (c,),
        f"{prefix}.num_batches_tracked": (),
    }  # fmt: skip


def encoder_layout(variant: str) -> Shapes:
    """Names and shapes of `encoder.pth`."""
    dims, blocks = VARIANTS[variant]
    shapes: Shapes = {}
    for j in range(3):
        p = f"downsample_layers.0.{j}"
        shapes |= conv(f"{p}.conv", dims[0] if j else 3, dims[0], bias=False)
        shapes |= _batchnorm(f"{p}.bn_gelu.bn", dims[0])
    for i in (0, 1):
        shapes |= conv(f"downsample_layers.{i + 1}.0.conv", 2 * dims[i] + 3, dims[i + 1], bias=False)
    shapes |= conv("stem2.0.conv", dims[0] + 3, dims[0], bias=False)
    for i, (c, count) in enumerate(zip(dims, blocks, strict=True)):
        for j in range(count):
            p = f"stages.{i}.{j}"
            shapes |= {f"{p}.gamma": (c,), **_pair(f"{p}.norm", c)}
            shapes |= _pair(f"{p}.pwconv1", 6 * c, c) | _pair(f"{p}.pwconv2", c, 6 * c)
            if j < count - 1:
                shapes |= {f"{p}.ddwconv.conv.weight": (c, 1, 3, 3), **_batchnorm(f"{p}.bn1", c)}
                continue
            shapes |= {f"{p}.gamma_xca": (c,), **_pair(f"{p}.norm_xca", c), f"{p}.xca.temperature": (8, 1, 1)}
            shapes |= _pair(f"{p}.xca.qkv", 3 * c, c) | _pair(f"{p}.xca.proj", c, c)
            if i == 0:
                shapes |= conv(f"{p}.pos_embd.token_projection", 64, c, 1)
    return shapes


def decoder_layout(variant: str) -> Shapes:
    """Names and shapes of `depth.pth`."""
    dims, _ = VARIANTS[variant]
    dec = [dim // 2 for dim in dims]
    pairs = [(dims[2], dec[2]), (dec[2] + dims[1], dec[2]), (dec[2], dec[1]), (dec[1] + dims[0], dec[1])]
    pairs += [(dec[1], dec[0]), (dec[0], dec[0])]
    shapes: Shapes = {}
    for n, (n_in, n_out) in enumerate(pairs):
        shapes |= conv(f"decoder.{n}.conv.conv", n_in, n_out)
    for i, channels in enumerate(dec):
        shapes |= conv(f"decoder.{6 + i}.conv", channels, 1)
    return shapes


def msf_layout(E: tuple[int, ...]) -> Shapes:
    """Names and shapes of RA-Depth's decoder on features of E channels."""
    shapes: Shapes = {}
    plan = [(k, k, 3) for k in (1, 2, 3, 4)] + [(m, k, 1) for m, k in ((2, 1), (3, 2), (3, 1), (4, 3), (4, 2), (4, 1))]
    plan += [(k, k, 3) for k in (1, 2, 3)] + [(m, k, 1) for m, k in ((2, 1), (3, 2), (3, 1))]
    plan += [(1, 1, 3), (2, 2, 3), (2, 1, 1), (0, 0, 3), (1, 1, 3), (1, 0, 1)]
    for n, (m, k, size) in enumerate(plan):
        shapes |= conv(f"decoder.{n}.conv.conv", E[m], E[k], size)
    shapes |= conv("decoder.22.conv.conv", E[0], 32) | conv("decoder.23.conv.conv", 32, 16)
    return shapes | conv("decoder.24.conv", 16, 1)


def pose_files(g: torch.Generator) -> dict[str, State]:
    """Monodepth2's pose network with a resnet18: the encoder, and the four convolutions after it."""
    stem = {"conv1.weight": (64, 6, 7, 7)}
    head = conv("net.0", 512, 256, 1) | conv("net.1", 256, 256) | conv("net.2", 256, 256) | conv("net.3", 256, 12, 1)
    return {
        "pose_encoder": _under("encoder", fill({**_torchvision_layout("resnet18"), **stem}, g)),
        "pose": fill(head, g),
    }


def litemono_folder(
    path: Path, variant: str = "litemono_tiny", *, pose: bool = False, width: int = 640, counters: bool = True
) -> dict[str, Any]:
    """Write the files of a Lite-Mono model into the new folder `path`; return their content.

    counters: with what thop leaves behind.
    """
    g = torch.Generator().manual_seed(0)
    files: dict[str, Any] = {
        "encoder": {**fill(encoder_layout(variant), g), "height": 192, "width": width, "use_stereo": False},
        "depth": fill(decoder_layout(variant), g),
        **(pose_files(g) if pose else {}),
    }
    path.mkdir(parents=True)
    for name, content in files.items():
        thop = {f"{layer}total_{what}": torch.zeros(1) for layer in ("", "a.b.") for what in ("ops", "params")}
        torch.save({**content, **(thop if counters else {})}, path / f"{name}.pth")
    return files


def nimbled_folder(path: Path, variant: str | None = None, *, camera: bool = False) -> dict[str, Any]:
    """Write the files of a NimbleD model, a resnet18 unless a variant of Lite-Mono is named; return their content."""
    g = torch.Generator().manual_seed(0)
    if variant:
        files = {"depth_encoder": fill(encoder_layout(variant), g), "depth_decoder": fill(decoder_layout(variant), g)}
    else:
        resnet = _under("encoder", fill(_torchvision_layout("resnet18"), g))
        files = {"depth_encoder": resnet, "depth_decoder": _monodepth2_decoder((64, 64, 128, 256, 512), 1, g)}
    if camera:
        head = conv("squeeze.0", 512, 256, 1)
        for name, outputs in (("pose", 12), ("focal", 2), ("center", 2)):
            head |= conv(f"{name}_decoder.0", 256, 256) | conv(f"{name}_decoder.2", 256, 256)
            head |= conv(f"{name}_decoder.4", 256, outputs, 1)
        files |= {"camera_encoder": pose_files(g)["pose_encoder"], "camera_decoder": fill(head, g)}
    path.mkdir(parents=True)
    for name, content in files.items():
        torch.save(content, path / f"{name}.pth")
    return files
