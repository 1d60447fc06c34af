"""Measure how long things take on this machine.

    monodepth bench step                      one training step and its parts, batch 4 of 640x192 and 192x64
    monodepth bench step --precision bf16 --threads 2 --size 640 192
    monodepth bench loop                      the trainer's loop beside a bare PyTorch loop, on the demo
    monodepth bench export                    ONNX files of every decoder beside PyTorch, on five encoders

Times are medians of interleaved rounds. `A/A` compares two measurements of the same thing: its distance from 1 is the
error of any ratio of two numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from trainer.commands.cli import add_shared, fill_in, guarded, whole

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
    loop = jobs.add_parser("loop", help="the trainer's loop, with tracking and safety, beside a bare PyTorch loop")
    add = loop.add_argument
    add_shared(loop, "--cfg-file", default=[DEMO], help="default: the demo")
    add_shared(loop, "--cfg-default")
    add_shared(loop, "--set")
    add_shared(loop, "--seed")
    add("--steps", type=whole(1, 1_000_000), metavar="N", help="per round and side (default trainer.log_every_n_steps)")
    add("--precision", choices=("32", "bf16"), help="of the networks (default as in the YAML)")
    add("--loader", action="store_true", help="also measure with the real loader, not from memory only")
    exports = jobs.add_parser("export", help="ONNX files of every decoder beside PyTorch: exactness, size, speed")
    add = exports.add_argument
    add("--encoders", nargs="+", metavar="NAME", help="default: one of each of five families")
    add("--decoders", nargs="+", metavar="NAME", help="default: all")
    add("--size", type=whole(64, 8192), nargs=2, default=(192, 64), metavar=("W", "H"), help="default 192 64")
    add("--precision", choices=("32", "16"), default="32", help="of the networks (default 32)")
    for job in jobs.choices.values():
        for name, default, meaning in (("--rounds", 5, "rounds after one to warm up"), ("--threads", 1, "CPU threads")):
            job.add_argument(
                name, type=whole(1, 1024), default=default, metavar="N", help=f"{meaning} (default {default})"
            )
    args = parser.parse_args(argv)
    return fill_in(args) if args.what == "loop" else args


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen benchmark; return the exit code."""
    args = parse(argv)
    return int(import_module(f"trainer.commands.jobs.bench_{args.what}").run(args))
