"""Frames per second of `monodepth predict`, over a folder and a film, beside a bare loop of the same network."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import models_zoo
from trainer.commands.jobs.measuring import document, peak_memory_mb, publish, spread, waiter
from trainer.data.clips.video import jpeg
from trainer.predict import (
    ColourRange,
    DepthPredictor,
    FilmWriter,
    Outputs,
    look_first,
    open_source,
    predict_all,
)
from trainer.predict.network import DepthNetwork
from trainer.predict.scale import RELATIVE
from trainer.tracking.viz import to_uint8

JOBS = {"folder": "color", "film": "video"}  # source -> kind of output


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    torch.set_num_threads(args.threads)
    predictor = load(args)
    with tempfile.TemporaryDirectory() as scratch:
        sources = make_sources(Path(scratch), tuple(args.pictures), args.frames)
        rates = measure(predictor, sources, args)
    summary = summarise(rates, predictor, args)
    if args.json:
        by_wall = {name: {"unit": "pictures/s", "rounds": len(of), "wall": spread(of)} for name, of in rates.items()}
        publish(args, document(args, by_wall, **summary))
    else:
        report(summary)
    return 0


def load(args: argparse.Namespace) -> DepthPredictor:
    """Load the network of --model, or make an untrained one."""
    if args.model is not None:
        return DepthPredictor.load(args.model, device=args.device, precision=args.precision, batch_size=args.batch_size)
    depth = models_zoo.create("depth", enc_name=args.encoder, pretrained=False, out_scales=[0])
    network = DepthNetwork(depth).eval().to(args.device)
    return DepthPredictor(network, (args.size[0], args.size[1]), RELATIVE, args.precision, args.batch_size)


def make_sources(folder: Path, size: tuple[int, int], frames: int) -> dict[str, Path]:
    """Write the same smooth moving pictures as a folder of JPEG files and as a film; returns both."""
    torch.manual_seed(0)
    width, height = size
    pattern = F.interpolate(torch.rand(1, 3, 12, 24), (height, width + 2 * frames), mode="bicubic").clamp(0, 1)[0]
    sources = {"folder": folder / "pictures", "film": folder / "film.mp4"}
    sources["folder"].mkdir()
    with FilmWriter(sources["film"], size, 25, {}) as film:
        for i in range(frames):
            rgb = to_uint8(pattern[..., 2 * i : 2 * i + width])
            (sources["folder"] / f"{i:05d}.jpg").write_bytes(jpeg(rgb))
            film.write(Image.fromarray(rgb), i / 25)
    return sources


def measure(predictor: DepthPredictor, sources: dict[str, Path], args: argparse.Namespace) -> dict[str, list[float]]:
    """Take turns for one round to warm up and `args.rounds` more; return frames per second of each round."""
    width, height = predictor.size
    images = torch.randint(0, 256, (args.batch_size, 3, height, width), dtype=torch.uint8)
    wait, rates = waiter(predictor.device.type), defaultdict(list)
    turns: dict[str, Callable[[], object]] = {"bare": lambda: bare(predictor, images, args.frames)}
    turns |= {name: lambda name=name: pipeline(predictor, sources[name], JOBS[name]) for name in JOBS}  # type: ignore[misc]
    turns["bare again"] = turns["bare"]
    for i_round in range(args.rounds + 1):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            wait()
            if i_round:
                rates[name].append(args.frames / (time.perf_counter() - start))
    return rates


def bare(predictor: DepthPredictor, images: Tensor, frames: int) -> None:
    """Predict as many frames from memory, and fetch the results."""
    for first in range(0, frames, len(images)):
        predictor.disparities(images[: frames - first]).cpu()


def pipeline(predictor: DepthPredictor, source: Path, kind: str) -> None:
    """Do what `monodepth predict` does, its start excepted."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        opened, colours = open_source([str(source)]), ColourRange()
        outputs = Outputs(Path(out), opened, [kind])
        predict_all(predictor, opened, outputs, colours, look_first(predictor, opened, colours))


def summarise(rates: dict[str, list[float]], predictor: DepthPredictor, args: argparse.Namespace) -> dict[str, object]:
    """Return medians, and each pipeline's share of the bare loop's rate as the median of each round's ratio."""
    both = [(a + b) / 2 for a, b in zip(rates["bare"], rates["bare again"], strict=True)]

    def share(of: Sequence[float], by: Sequence[float]) -> float:
        return statistics.median(x / y for x, y in zip(of, by, strict=True))

    return {
        "frames": args.frames,
        "rounds": args.rounds,
        "pictures": list(args.pictures),
        "network_size": list(predictor.size),
        "batch_size": args.batch_size,
        "precision": args.precision,
        "device": str(predictor.device),
        "threads": args.threads,
        "torch": torch.__version__,
        "frames_per_second": {"bare": statistics.median(both), **{n: statistics.median(rates[n]) for n in JOBS}},
        "share_of_bare": {name: share(rates[name], both) for name in JOBS},
        "bare_over_itself": share(rates["bare again"], rates["bare"]),
        "peak_memory_mb": peak_memory_mb(),
    }


def report(summary: dict[str, object]) -> None:
    """Print the summary as a table."""
    facts = {key: "x".join(map(str, value)) if isinstance(value, list) else value for key, value in summary.items()}
    print("{pictures} pictures, network {network_size}, batch {batch_size}, precision {precision},".format(**facts))
    print("{device}, {threads} thread(s), torch {torch}; {rounds} rounds of {frames} frames".format(**facts))
    rates, shares = summary["frames_per_second"], summary["share_of_bare"]
    assert isinstance(rates, dict) and isinstance(shares, dict)  # noqa: PT018
    print(f"\n{'frames per second':<24}{'':>10}{'of bare':>10}")
    for name, rate in rates.items():
        print(f"  {name:<22}{rate:>10.2f}{shares.get(name, 1.0):>10.3f}")
    print(f"A/A {summary['bare_over_itself']:.3f}, peak memory {summary['peak_memory_mb']:.0f} MB")
