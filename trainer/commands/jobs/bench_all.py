"""All benchmarks one after the other, as a page of Markdown: a table for each, with machine, versions and commands."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from trainer.commands.jobs.measuring import CLOCKS, Result, Times, machine, ratio, result, rows
from trainer.runtime import files
from trainer.runtime.environment import emulates_bf16, versions
from trainer.runtime.errors import UserError
from trainer.runtime.streams import say

TINY = ("--encoder", "test_resnet", "--size", "64x64")
SMALL_RUN = (
    "--set",
    *("dataset.size=[64,64]", "dataset.train.num_items=2", "dataset.val.num_items=1", "loader.batch_size=1"),
    *("loader.num_workers=0", "net.depth={enc_name: test_resnet, out_scales: [0]}", "net.pose.enc_name=test_resnet"),
)
_UNFINISHED = "**Not finished: the benchmarks that follow are missing. Run `make bench` again.**"
PUBLISHED = "as published, 32 bit"
SIDES = {  # of a step; its options
    PUBLISHED: ("--naive",),
    "32 bit, channels last": ("--channels-last",),
    "32 bit, ordinary memory layout": ("--no-channels-last",),
    "bf16 networks": ("--precision", "bf16"),
}


class Part(NamedTuple):
    """A benchmark on the page."""

    title: str
    text: str
    words: tuple[str, ...]
    quick: tuple[str, ...]  # in place of what follows the name


PARTS = (
    Part(
        "Parts of a step",
        "Monodepth2 with supports -1 and 1, batch 4. Losses and optimizer run in 32 bit. A/A: a step over itself.",
        ("step", "--size", "640x192"),
        (*TINY, "--batch-size", "1"),
    ),
    Part(
        "Reading data",
        "Items of three pictures of 1242x375, generated with the grain of photographs, resized to 640x192 on one core."
        " Augmented: mirrored half of the time, jittered half of the time. As published: the same in the way of"
        " Monodepth2, every frame at four scales, by Pillow and torchvision.",
        ("data",),
        ("--items", "2", "--pictures", "128x64", "--size", "64x64"),
    ),
    Part(
        "Checkpoints",
        "`last` (weights, Adam's moments, checksums; synced to the disk, read back and verified before it replaces the"
        " older one) beside `torch.save` of the same state, which does none of this.",
        ("save",),
        ("--encoder", "test_resnet"),
    ),
    Part(
        "Starting",
        "From the command to the end of the first step of the demo, in a new process.",
        ("start",),
        SMALL_RUN,
    ),
    Part(
        "The loop",
        "The trainer's loop with tracking and safety beside a bare PyTorch loop of the same step, on the demo.",
        ("loop", "--steps", "25", "--set", "trainer.log_every_n_steps=25"),
        (*SMALL_RUN, "trainer.log_every_n_steps=1"),
    ),
    Part(
        "Evaluation",
        "Metric set `eigen` against sparse truths of 1242x375, beside a bare loop that feeds the same network.",
        ("eval",),
        (*TINY, "--items", "2", "--truth", "128x64"),
    ),
    Part(
        "Prediction",
        "`monodepth predict` of 640x360 pictures to coloured PNG, and of a film to a film, beside a bare loop.",
        ("predict", "--frames", "16"),
        (*TINY, "--pictures", "64x64", "--frames", "2", "--batch-size", "2"),
    ),
    Part(
        "Many processes",
        "A step on many processes: arithmetic from assumed speeds (docs/concepts/scale.md), and counts from the real"
        " trainer as one process of a group that sends nothing.",
        ("scale", "--processes", "8", "512"),
        ("--processes", "2", "--set", "net.depth.enc_name=test_resnet", "net.pose.enc_name=test_resnet"),
    ),
)


def run(args: argparse.Namespace) -> int:
    """Run all benchmarks and write the page, anew after each of them.

    Raises UserError when one fails: the page then has those before it, and says that others are missing.
    """
    if args.out is not None:
        files.make_folder(args.out.parent)
    page = [_head(args)]
    for section in _sections(args):
        page += section
        if args.out is not None:
            files.write_text(args.out, "\n\n".join([*page, _UNFINISHED]) + "\n")
    text = "\n\n".join(page) + "\n"
    if args.out is None:
        print(text, end="")
        return 0
    files.write_text(args.out, text)
    print(f"wrote {args.out}")
    return 0


def _sections(args: argparse.Namespace) -> Iterator[list[str]]:
    """Measure one benchmark after the other."""
    yield _steps(args)
    for part in PARTS:
        words = [part.words[0], *part.quick] if args.quick else [*part.words]
        described = _measured([*words, *_rounds(args)])
        yield [f"## {part.title}", part.text, _command(words), *_tables(described)]


def _head(args: argparse.Namespace) -> str:
    here, known = machine(), ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. The numbers are those of one machine: on another one not only the times but the"
        " ratios differ. Each is the median of its rounds, in which all sides take turns; in brackets the lowest and"
        " the highest. Sides that lose are listed, too.",
        "",
        f"- machine: {here['cpu']}, {here['cores']} cores, {here['memory_gb']} GB, {here.get('gpu', 'no GPU')};"
        f" {args.threads} thread(s), {args.rounds} round(s) after one to warm up",
        f"- versions: {known}",
    ]
    if here["load"] > here["cores"] / 2:
        lines.append(
            f"- **other processes kept the machine busy (load {here['load']}): trust ratios of CPU time only**"
        )
    if args.quick:
        lines.append(
            "- **made with `--quick`, on tiny networks and pictures, to show the form: run `make bench` again**"
        )
    return "\n".join(lines)


def _steps(args: argparse.Namespace) -> list[str]:
    """Let the sides of a step take turns, each in a process of its own; return their part of the page."""
    size = [*TINY, "--batch-size", "1"] if args.quick else ["--size", "640x192"]
    sides = {side: words for side, words in SIDES.items() if "bf16" not in words or not emulates_bf16("cpu")}
    times: dict[str, Times] = {side: {clock: [] for clock in CLOCKS} for side in sides}
    memory = {}
    with ExitStack() as stack:
        servers = {
            side: stack.enter_context(closing(Server(["step", *size, *words, "--threads", str(args.threads)])))
            for side, words in sides.items()
        }
        for i_round in range(args.rounds + 1):
            for side, server in servers.items():
                answer = server.ask("run 1")
                memory[side] = answer["peak_rss_mb"]
                for clock in CLOCKS if i_round else ():
                    times[side][clock] += answer[clock]
    results = {side: result(of) for side, of in times.items()}
    results |= {f"{side} / published": ratio(times[side], times[PUBLISHED]) for side in sides if side != PUBLISHED}
    least = memory[PUBLISHED]
    table = [["peak memory with imports", "MB", "/ published"]]
    table += [[side, f"{mb:,.0f}", f"{mb / least:.2f}"] for side, mb in memory.items()]
    text = (
        "Monodepth2 with supports -1 and 1, batch 4, beside the same step as published, in plain PyTorch"
        " (`trainer/commands/jobs/naive_step.py`): the same gradients in another way, but for the batch"
        " that BatchNorm of the pose network sees. A CPU with AVX-512 trains channels last by"
        " default, one without it in the ordinary layout."
    )
    if len(sides) < len(SIDES):
        text += " 16 bit is not measured: this processor has no instructions for bf16."
    words = ["step", *size, "--serve", "[--naive | --[no-]channels-last | --precision bf16]"]
    return ["## A training step", text, f"`monodepth bench {' '.join(words)}`", _table(results), _markdown(table)]


class Server:
    """`monodepth bench ... --serve` in a process of its own."""

    def __init__(self, words: Sequence[str]):
        self._words = (*words, "--serve")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(_monodepth_bench(self._words), env=_environment(), **pipes)
        self.ready = self._answer()

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer."""
        self._process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate("quit\n")

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise UserError(f"{_command(self._words)} ended with {self._process.wait()}: see above")
        return dict(json.loads(line))


def _measured(words: Sequence[str]) -> dict[str, Any]:
    say(f"monodepth bench {shlex.join(words)}")
    command = [*_monodepth_bench(words), "--json"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{_command(words)} ended with {done.returncode}: {last}")
    return dict(json.loads(done.stdout))


def _monodepth_bench(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "trainer.commands", "bench", *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _rounds(args: argparse.Namespace) -> list[str]:
    return ["--rounds", str(args.rounds), "--threads", str(args.threads)]


def _command(words: Sequence[str]) -> str:
    return f"`monodepth bench {shlex.join(words)}`"


def _tables(described: Mapping[str, Any]) -> list[str]:
    """Lay out the results of a benchmark: one table, or several with a line before each."""
    if "results" in described:
        return [_table(described["results"])]
    return [text for title, table in described["tables"].items() for text in (f"{title}:", _markdown(table))]


def _table(results: Mapping[str, Result]) -> str:
    return _markdown(rows(results))


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *body])
