"""How many items (target and two supports) one core reads per second, from JPEG and PNG files, plain and augmented.

Beside them stand augmented items as Monodepth2 (arXiv:1806.01260) makes them: every frame at four scales, with and
without jitter, by Pillow and torchvision. The process keeps the memory that it frees, as the workers of a loader do.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as tvf

from trainer.commands.jobs.measuring import Times, document, publish, rate, ratio, take_turns
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.runtime.environment import keep_freed_memory
from trainer.runtime.errors import UserError
from trainer.tracking.viz import to_uint8

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {"JPEG": ("jpg", {"quality": 92}), "PNG": ("png", {})}
GRAIN = 0.02  # standard deviation of the noise of generated pictures, of 1: files as large as those of photographs
SIDES = {"plain": False, "augmented": True}  # mirrored and jittered, each half of the time
PUBLISHED = "as published"


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises UserError when --path has no items."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        if args.path is None:
            folders = {name: generate(Path(scratch), name, tuple(args.pictures), args.items + 2) for name in FORMATS}
        else:
            folders = {"--path": args.path}
        times = measure(folders, args, Path(scratch))
        kilobytes = {name: _mean_kb(path) for name, path in folders.items()}
    results = {name: rate(of, args.items, "triplets/s") for name, of in times.items()}
    plain, augmented = SIDES
    pairs = [(augmented, plain)] + [(PUBLISHED, augmented)] * (args.path is None)
    ratios = {f"{k}, {a} / {b}": ratio(times[f"{k}, {a}"], times[f"{k}, {b}"]) for k in folders for a, b in pairs}
    publish(args, document(args, results | ratios, file_kb=kilobytes))
    return 0


def generate(scratch: Path, name: str, size: tuple[int, int], number: int) -> Path:
    """Write smooth moving pictures with some grain as files of a format; return their folder."""
    torch.manual_seed(0)
    (width, height), (ending, options) = size, FORMATS[name]
    coarse = torch.rand(1, 3, 24, 80)
    pattern = F.interpolate(coarse, (height, width + 2 * number), mode="bicubic").clamp(0, 1)[0]
    folder = scratch / ending
    folder.mkdir()
    for i in range(number):
        picture = pattern[..., 2 * i : 2 * i + width] + GRAIN * torch.randn(3, height, width)
        Image.fromarray(to_uint8(picture.clamp(0, 1))).save(folder / f"{i:05d}.{ending}", **options)
    return folder


def measure(folders: dict[str, Path], args: argparse.Namespace, scratch: Path) -> dict[str, Times]:
    """Read the same items of every folder in turn, plain and augmented, and of shards, plain."""
    common: dict[str, Any] = {"size": tuple(args.size), "supp_idxs": (-1, 1)}
    sets: dict[str, DepthDataset] = {
        f"{name}, {side}": DATASETS.create("folder", path=str(path), use_aug=use_aug, val_every=0, fov=80.0, **common)
        for name, path in folders.items()
        for side, use_aug in SIDES.items()
    }
    for i, place in enumerate(args.shards):
        ways: dict[str, dict[str, Any]] = {"": {"cache_gb": 0}}
        if "://" in place:
            ways = {", item by item": {"cache_gb": 0}, ", from the cache": {"cache_root": str(scratch / f"cache_{i}")}}
        for way, options in ways.items():
            sets[f"shards of {place}{way}"] = DATASETS.create("shards", path=place, **options, **common)
    for name, data in sets.items():
        if len(data) < 1:
            raise UserError(f"{name}: no picture has a neighbour on both sides. Name a folder of at least three")
    turns = {name: partial(_read, data, args.items) for name, data in sets.items()}
    for name, path in folders.items() if args.path is None else ():
        pictures = sorted(path.iterdir())
        turns[f"{name}, {PUBLISHED}"] = partial(_read_published, pictures, args.items, tuple(args.size))
    return take_turns(turns, args.rounds)


def _read(data: DepthDataset, number: int) -> None:
    """Read items that lie apart, as a random order does: each once before any comes twice."""
    order = np.random.default_rng(0).permutation(len(data))
    for i in range(number):
        data[i // len(data), int(order[i % len(data)])]


def _read_published(pictures: list[Path], number: int, size: tuple[int, int]) -> None:
    for i in range(number):
        published_item(pictures[i : i + 3], size, i)


def published_item(paths: list[Path], size: tuple[int, int], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Read frames as published; size: (width, height). Returns (3 h w) per frame and scale: plain, and for networks."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    mirrored, jittered = rng.random() < 0.5, rng.random() < 0.5
    order, *factors = ColorJitter.get_params((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.1, 0.1))
    changes = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)
    plain, for_networks = [], []
    for path in paths:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image = file.convert("RGB")
        image = ImageOps.mirror(image) if mirrored else image
        for scale in range(4):
            image = image.resize((size[0] >> scale, size[1] >> scale), Image.Resampling.LANCZOS)
            changed = image
            for i in order if jittered else ():
                changed = changes[i](changed, factors[i])
            plain.append(tvf.to_tensor(image))
            for_networks.append(tvf.to_tensor(changed))
    return plain, for_networks


def _mean_kb(path: Path) -> float:
    sizes = (
        [file.stat().st_size for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path.stat().st_size]
    )
    return sum(sizes) / len(sizes) / 1e3
