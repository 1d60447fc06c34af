"""The proof of an exported file: what it predicts, beside what the network predicts, on the same frames."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer.data import DATASETS
from trainer.predict.formats.program import STEP, Interface, Run
from trainer.predict.network import DepthNetwork
from trainer.predict.predictor import DepthPredictor, as_rgb
from trainer.runtime.errors import UserError

# Largest relative difference of disparity or depth, by precision. float16 has 11 bits, float32 24.
LIMITS = {"32": 1e-4, "16": 5e-2}
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST = 16  # pictures of a folder that are compared


class Differs(UserError):
    """An exported file that predicts something else than its network."""


def generated_frames(size: tuple[int, int], count: int = 2) -> Tensor:
    """Render frames (count 3 h w) uint8 of streets, no noise: filters of the network answer to edges and surfaces."""
    options = {"num_items": count, "items_per_scene": 1, "supp_idxs": [1], "use_depth": False}
    frames = DATASETS.create("synthetic", size=size, **options)
    return torch.stack([torch.from_numpy(frames.load(i).target).permute(2, 0, 1) for i in range(count)])


def pictures_of(folder: Path) -> list[Path]:
    """The first pictures in a folder, by name. Raises UserError when there are none."""
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and os.path.isfile(p))
    except OSError as error:
        raise UserError(f"--verify {folder}: cannot be read as a folder: {error.strerror}") from error
    if not found:
        raise UserError(f"--verify {folder}: holds no picture ({', '.join(PICTURES)})")
    return found[:MOST]


def batches(predictor: DepthPredictor, interface: Interface, pictures: Sequence[Path] = ()) -> list[Tensor]:
    """Frames (b 3 h w) uint8 to compare: those of the pictures or generated ones; all sizes that are left open twice.

    Where the batch is left open they come as one batch and one by one.
    """
    if pictures:
        frames = torch.stack([predictor.prepare(as_rgb(picture)) for picture in pictures])
    else:
        frames = generated_frames(interface.size)
    shapes = [frames]
    if "size" in interface.dynamic:
        width, height = interface.size
        shapes.append(generated_frames((width + 2 * STEP, height + STEP)))  # wider than high, as streets are
    return [
        batch for shape in shapes for batch in ([shape, shape[:1]] if "batch" in interface.dynamic else shape.split(1))
    ]


def largest_difference(run: Run, network: DepthNetwork, interface: Interface, frames: Sequence[Tensor]) -> float:
    """Compare the outputs of `run` and of `network` for each batch of frames (b 3 h w) uint8.

    Returns the largest of |a - b| / b over all pixels of disparity and depth; infinite for one that is not a number or
    for other shapes.
    """
    worst = 0.0
    for batch in frames:
        with torch.no_grad():
            expected, found = network(batch), run(interface.images(batch))
        for mine, true in zip(found, expected, strict=True):
            if mine.shape != true.shape or not mine.isfinite().all():
                return float("inf")
            worst = max(worst, float((mine / true - 1).abs().max()))
    return worst


def refuse(difference: float, precision: str, path: Path) -> None:
    """Raise Differs when the difference is above the limit of the precision."""
    if difference > LIMITS[precision]:
        raise Differs(
            f"{path}: not written: its predictions differ from those of PyTorch by up to {difference:.2g} (relative;"
            f" the limit is {LIMITS[precision]:g}). Export at another --size or --precision, or to another --format"
        )


def time_ratio(run: Callable[[], object], reference: Callable[[], object], rounds: int = 9) -> tuple[float, float]:
    """Time two functions in turn. Returns the median milliseconds of each; the first round warms up."""
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for function, taken in zip((run, reference), times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(1e3 * (time.perf_counter() - start))
    first, second = (statistics.median(taken[1:]) for taken in times)
    return first, second
