"""How many items (target and two supports) one core reads per second, from JPEG and PNG files, plain and augmented."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from trainer.commands.jobs.measuring import Times, document, publish, rate, ratio, take_turns
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.runtime.errors import UserError
from trainer.tracking.viz import to_uint8

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {"JPEG": ("jpg", {"quality": 92}), "PNG": ("png", {})}
GRAIN = 0.02  # standard deviation of the noise of generated pictures, of 1: files as large as those of photographs
SIDES = {"plain": False, "augmented": True}  # mirrored and jittered, each half of the time


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises UserError when --path has no items."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if args.path is None:
            folders = {name: generate(Path(scratch), name, tuple(args.pictures), args.items + 2) for name in FORMATS}
        else:
            folders = {"--path": args.path}
        times = measure(folders, args, Path(scratch))
        kilobytes = {name: _mean_kb(path) for name, path in folders.items()}
    results = {name: rate(of, args.items, "triplets/s") for name, of in times.items()}
    plain, augmented = SIDES
    ratios = {f"{k}, {augmented} / {plain}": ratio(times[f"{k}, {augmented}"], times[f"{k}, {plain}"]) for k in folders}
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
    return take_turns(turns, args.rounds)


def _read(data: DepthDataset, number: int) -> None:
    """Read items that lie apart, as a random order does: each once before any comes twice."""
    order = np.random.default_rng(0).permutation(len(data))
    for i in range(number):
        data[i // len(data), int(order[i % len(data)])]


def _mean_kb(path: Path) -> float:
    sizes = (
        [file.stat().st_size for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path.stat().st_size]
    )
    return sum(sizes) / len(sizes) / 1e3
