"""Measure how long things take on this machine.

    monodepth bench step                      one training step and its parts, batch 4 of 640x192 and 192x64
    monodepth bench step --precision bf16 --threads 2 --size 640x192
    monodepth bench predict                   `monodepth predict` beside a bare loop of its network
    monodepth bench loop                      the trainer's loop beside a bare PyTorch loop, on the demo
    monodepth bench data                      items that one core reads per second, from JPEG and PNG files
    monodepth bench save                      checkpoints written and read, beside torch.save
    monodepth bench start                     from the command to the first step, by parts
    monodepth bench eval                      an evaluation beside a bare loop of its network
    monodepth bench scale                     a step on 1 to 4,096 processes: on paper, and one simulated process
    monodepth bench all --out FILE            all of these, as a page
    monodepth bench export                    ONNX files of every decoder beside PyTorch, on five encoders

Times are medians of interleaved rounds. `A/A` compares two measurements of the same thing: its distance from 1 is the
error of any ratio of two numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_number, add_shared, add_size, command, fill_in, size, whole

DEMO = Path("synthetic/monodepth2_MS")
OF_NETWORKS = size(64, 8192, step=32)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="monodepth bench", description="Measure how long things take on this machine.")
    jobs = parser.add_subparsers(dest="what", required=True)
    for name, (add_options, meaning) in JOBS.items():
        job = jobs.add_parser(name, help=meaning)
        add_options(job)
        if name not in ("all", "export"):
            job.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        for option, default, what in (("--rounds", 5, "rounds after one to warm up"), ("--threads", 1, "CPU threads")):
            add_number(job, option, default, what, whole(1, 1024))
    args = parser.parse_args(joined(sys.argv[1:] if argv is None else argv))
    return fill_in(args) if args.what in ("loop", "start", "scale") else args


def joined(words: Sequence[str]) -> list[str]:
    """Return a command line in which `--size 640 192` has become `--size 640x192`."""
    line = list(words)
    for at in reversed(range(len(line) - 2)):
        sides = line[at + 1 : at + 3]
        if line[at] in ("--size", "--pictures", "--truth") and all(side.isdecimal() for side in sides):
            line[at + 1 : at + 3] = ["x".join(sides)]
    return line


def _encoder(job: argparse.ArgumentParser, of: str) -> None:
    job.add_argument("--encoder", default="resnet18", metavar="NAME", help=f"of {of} (default resnet18)")


def _device(job: argparse.ArgumentParser) -> None:
    job.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")


def _step(job: argparse.ArgumentParser) -> None:
    add = job.add_argument
    add_size(job, "--size", "one size instead of 640x192 and 192x64", sides=OF_NETWORKS)
    add_shared(job, "--batch-size", default=4)
    _encoder(job, "both networks")
    add("--precision", choices=("32", "bf16"), default="32", help="of the networks (default 32)")
    _device(job)
    layout = "memory layout of the networks (default as training chooses it)"
    add("--channels-last", action=argparse.BooleanOptionalAction, default="auto", help=layout)
    published = "the same step as published, in plain PyTorch: a stand-in for earlier code"
    add("--naive", action="store_true", help=published)
    served = "wait for lines `run N` on stdin and answer each in JSON, for a program that compares two versions"
    add("--serve", action="store_true", help=served)


def _run(job: argparse.ArgumentParser) -> None:
    """Add the options of a training run."""
    add_shared(job, "--cfg-file", default=[DEMO], help="default: the demo")
    for name in ("--cfg-default", "--set", "--seed"):
        add_shared(job, name)


def _loop(job: argparse.ArgumentParser) -> None:
    _run(job)
    add = job.add_argument
    add("--steps", type=whole(1, 1_000_000), metavar="N", help="per round and side (default trainer.log_every_n_steps)")
    add("--precision", choices=("32", "bf16"), help="of the networks (default as in the YAML)")
    add("--loader", action="store_true", help="also measure with the real loader, not from memory only")


def _data(job: argparse.ArgumentParser) -> None:
    own = "a folder of your pictures, or a film, instead of generated pictures"
    job.add_argument("--path", type=Path, metavar="PATH", help=own)
    shards = "shards of --path, folders or URLs, in random order: `prepare shards -c real/depth_movie ...`"
    job.add_argument("--shards", nargs="+", default=[], metavar="PLACE", help=shards)
    add_size(job, "--size", "of items", (640, 192), size(1, 8192))
    add_size(job, "--pictures", "of generated pictures", (1242, 375), size(64, 8192))
    add_number(job, "--items", 24, "items per round and side")


def _save(job: argparse.ArgumentParser) -> None:
    where = "a folder on the disk to write to (default: that for temporary files)"
    job.add_argument("--folder", type=Path, metavar="DIR", help=where)
    _encoder(job, "both networks")
    _device(job)
    job.set_defaults(channels_last="auto", naive=False)


def _eval(job: argparse.ArgumentParser) -> None:
    add_size(job, "--size", "of the images", (640, 192), OF_NETWORKS)
    add_size(job, "--truth", "of true depth", (1242, 375), size(64, 8192))
    job.add_argument("--metrics", nargs="+", default=["eigen"], metavar="NAME", help="metric sets (default eigen)")
    add_number(job, "--items", 16, "pictures per round and side")
    add_shared(job, "--batch-size", default=8)
    _encoder(job, "the network")
    _device(job)
    job.set_defaults(channels_last="auto", naive=False)


def _predict(job: argparse.ArgumentParser) -> None:
    add = job.add_argument
    add("--model", metavar="MODEL", help="as of `predict` (default: an untrained network)")
    _encoder(job, "the untrained network")
    add_size(job, "--size", "of the network's input", (640, 192), size(1, 8192))
    add_size(job, "--pictures", "of pictures and film", (640, 360), size(1, 8192))
    add("--frames", type=whole(1, 1_000_000), default=48, metavar="N", help="per round and side (default 48)")
    add_shared(job, "--batch-size", default=8)
    add("--precision", choices=("32", "bf16", "16"), default="32", help="of the network (default 32)")
    add("--device", default="cpu", help="as torch names it (default cpu)")


def _scale(job: argparse.ArgumentParser) -> None:
    _run(job)
    counts = (1, 8, 64, 512, 4096)
    what = f"numbers of processes (default {' '.join(map(str, counts))})"
    job.add_argument("--processes", type=whole(1, 100_000), nargs="+", default=counts, metavar="N", help=what)
    add_number(job, "--items", 12, "of a process and step")
    for option, default, what in (
        ("--step-ms", 100, "milliseconds of a step of one process alone, as `bench step` measures it"),
        ("--gbps", 100, "bandwidth of a process to the others, 1e9 bit/s"),
        ("--latency-us", 20, "microseconds of a message between processes"),
        ("--item-kb", 465, "kilobytes of the files of an item: three JPEG of KITTI"),
    ):
        add_number(job, option, default, what)


def _all(job: argparse.ArgumentParser) -> None:
    job.add_argument("--out", type=Path, metavar="FILE", help="write the page to this file (default: print it)")
    tiny = "tiny networks and pictures: shows that it works, says nothing about speed"
    job.add_argument("--quick", action="store_true", help=tiny)


def _export(job: argparse.ArgumentParser) -> None:
    add = job.add_argument
    add("--encoders", nargs="+", metavar="NAME", help="default: one of each of five families")
    add("--decoders", nargs="+", metavar="NAME", help="default: all")
    add_size(job, "--size", "of the input", (192, 64), size(64, 8192))
    add("--precision", choices=("32", "16"), default="32", help="of the networks (default 32)")


JOBS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "step": (_step, "one training step (Monodepth2, supports -1 and 1) and its parts, on random images"),
    "loop": (_loop, "the trainer's loop, with tracking and safety, beside a bare PyTorch loop"),
    "data": (_data, "items that one core reads per second, from JPEG and PNG, plain and augmented"),
    "save": (_save, "checkpoints written and read, beside torch.save and torch.load"),
    "start": (_run, "from the command to the first optimizer step, by parts, in new processes"),
    "eval": (_eval, "an evaluation beside a bare loop of its network"),
    "predict": (_predict, "`monodepth predict`, on a folder and a film, beside a bare loop of its network"),
    "scale": (_scale, "a step on 1 to 4,096 processes: on paper, and the real trainer as one simulated process"),
    "all": (_all, "all of these, as a page of Markdown with a table for each"),
    "export": (_export, "ONNX files of every decoder beside PyTorch: exactness, size, speed"),
}

main = command(parse, "bench_{what}", "measuring", is_timed=True)
