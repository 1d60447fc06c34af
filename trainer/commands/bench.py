"""Measure how long things take on this machine.

    monodepth bench step                      one training step and its parts, batch 4 of 640x192 and 192x64
    monodepth bench step --precision bf16 --threads 2 --size 640 192
    monodepth bench predict                   `monodepth predict` beside a bare loop of its network
    monodepth bench loop                      the trainer's loop beside a bare PyTorch loop, on the demo
    monodepth bench data                      items that one core reads per second, from JPEG and PNG files
    monodepth bench save                      checkpoints written and read, beside torch.save
    monodepth bench start                     from the command to the first step, by parts
    monodepth bench eval                      an evaluation beside a bare loop of its network
    monodepth bench all --out FILE            all of these, as a page
    monodepth bench export                    ONNX files of every decoder beside PyTorch, on five encoders

Times are medians of interleaved rounds. `A/A` compares two measurements of the same thing: its distance from 1 is the
error of any ratio of two numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import add_number, add_shared, command, fill_in, whole

DEMO = Path("synthetic/monodepth2_MS")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="monodepth bench", description="Measure how long things take on this machine."
    )
    jobs = parser.add_subparsers(dest="what", required=True)
    images = "one training step (Monodepth2, supports -1 and 1) and its parts, on random images"
    step = jobs.add_parser("step", help=images)
    add = step.add_argument
    add("--size", type=whole(1, 8192), nargs=2, metavar=("W", "H"), help="one size instead of 640x192 and 192x64")
    add_shared(step, "--batch-size", default=4)
    add("--encoder", default="resnet18", metavar="NAME", help="of both networks (default resnet18)")
    add("--precision", choices=("32", "bf16"), default="32", help="of the networks (default 32)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    add("--no-channels-last", action="store_true", help="networks in the ordinary memory layout")
    add(
        "--naive", action="store_true", help="the same step as published, in plain PyTorch: a stand-in for earlier code"
    )
    served = "wait for lines `run N` on stdin and answer each in JSON, for a program that compares two versions"
    add("--serve", action="store_true", help=served)
    loop = jobs.add_parser("loop", help="the trainer's loop, with tracking and safety, beside a bare PyTorch loop")
    add = loop.add_argument
    add_shared(loop, "--cfg-file", default=[DEMO], help="default: the demo")
    add_shared(loop, "--cfg-default")
    add_shared(loop, "--set")
    add_shared(loop, "--seed")
    add("--steps", type=whole(1, 1_000_000), metavar="N", help="per round and side (default trainer.log_every_n_steps)")
    add("--precision", choices=("32", "bf16"), help="of the networks (default as in the YAML)")
    add("--loader", action="store_true", help="also measure with the real loader, not from memory only")
    data = jobs.add_parser("data", help="items that one core reads per second, from JPEG and PNG, plain and augmented")
    add = data.add_argument
    add("--path", type=Path, metavar="PATH", help="a folder of your pictures, or a film, instead of generated pictures")
    add(
        "--size",
        type=whole(1, 8192),
        nargs=2,
        default=(640, 192),
        metavar=("W", "H"),
        help="of items (default 640 192)",
    )
    add("--pictures", type=whole(64, 8192), nargs=2, default=(1242, 375), metavar=("W", "H"), help="default 1242 375")
    add_number(data, "--items", 24, "items per round and side")
    save = jobs.add_parser("save", help="checkpoints written and read, beside torch.save and torch.load")
    save.add_argument(
        "--folder", type=Path, metavar="DIR", help="on the disk to write to (default: for temporary files)"
    )
    start = jobs.add_parser("start", help="from the command to the first optimizer step, by parts, in new processes")
    for name, changes in {"--cfg-file": {"default": [DEMO]}, "--cfg-default": {}, "--set": {}, "--seed": {}}.items():
        add_shared(start, name, **changes)
    scoring = jobs.add_parser("eval", help="an evaluation beside a bare loop of its network")
    add = scoring.add_argument
    add("--size", type=whole(64, 8192), nargs=2, default=(640, 192), metavar=("W", "H"), help="default 640 192")
    add("--truth", type=whole(64, 8192), nargs=2, default=(1242, 375), metavar=("W", "H"), help="default 1242 375")
    add("--metrics", nargs="+", default=["eigen"], metavar="NAME", help="metric sets (default eigen)")
    add_number(scoring, "--items", 16, "pictures per round and side")
    add_shared(scoring, "--batch-size", default=8)
    for job in (save, scoring):
        job.add_argument("--encoder", default="resnet18", metavar="NAME", help="of both networks (default resnet18)")
        job.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
        job.set_defaults(no_channels_last=False, naive=False)
    predict = jobs.add_parser(
        "predict", help="`monodepth predict`, on a folder and a film, beside a bare loop of its network"
    )
    add = predict.add_argument
    add("--model", metavar="MODEL", help="as of `predict` (default: an untrained network)")
    add("--encoder", default="resnet18", metavar="NAME", help="of the untrained network (default resnet18)")
    add("--size", type=whole(1, 8192), nargs=2, default=(640, 192), metavar=("W", "H"), help="its (default 640 192)")
    add("--pictures", type=whole(1, 8192), nargs=2, default=(640, 360), metavar=("W", "H"), help="default 640 360")
    add("--frames", type=whole(1, 1_000_000), default=48, metavar="N", help="per round and side (default 48)")
    add_shared(predict, "--batch-size", default=8)
    add("--precision", choices=("32", "bf16", "16"), default="32", help="of the network (default 32)")
    add("--device", default="cpu", help="as torch names it (default cpu)")
    everything = jobs.add_parser("all", help="all of these but export, as a page of Markdown with a table for each")
    add = everything.add_argument
    add("--out", type=Path, metavar="FILE", help="write the page to this file (default: print it)")
    add(
        "--quick", action="store_true", help="tiny networks and pictures: shows that it works, says nothing about speed"
    )
    exports = jobs.add_parser("export", help="ONNX files of every decoder beside PyTorch: exactness, size, speed")
    add = exports.add_argument
    add("--encoders", nargs="+", metavar="NAME", help="default: one of each of five families")
    add("--decoders", nargs="+", metavar="NAME", help="default: all")
    add("--size", type=whole(64, 8192), nargs=2, default=(192, 64), metavar=("W", "H"), help="default 192 64")
    add("--precision", choices=("32", "16"), default="32", help="of the networks (default 32)")
    for name, job in jobs.choices.items():
        if name not in ("export", "all"):
            job.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    for job in jobs.choices.values():
        for name, default, meaning in (("--rounds", 5, "rounds after one to warm up"), ("--threads", 1, "CPU threads")):
            add_number(job, name, default, meaning, whole(1, 1024))
    args = parser.parse_args(argv)
    return fill_in(args) if args.what in ("loop", "start") else args


main = command(parse, "bench_{what}", "measuring")
