"""`monodepth depth-movie`: frames of a film, a network trained on them, and a film of what it sees, one after another.

Each stage is the work of another command, which is printed, and knows itself how far it has got.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.commands import predict, train
from trainer.commands.jobs import predict as predicting
from trainer.commands.jobs import train as training
from trainer.commands.jobs.trials import device_type
from trainer.data.clips.films import surveyed
from trainer.data.clips.motion import WIDTH
from trainer.data.clips.sources import Source
from trainer.data.clips.survey import NO_PARALLAX, Survey
from trainer.runtime import files
from trainer.runtime.errors import UserError, printable
from trainer.runtime.optional import require
from trainer.runtime.rundir import RunDir

NAME, VERSION = "network", "42"
FEWEST_FRAMES = 60  # of a training that ends with more than noise
STRIDE, LEAST_SIDE, LARGEST_SIDE = 32, 64, 1024  # of network inputs

Choices = Mapping[str, Mapping[str, tuple[str, str]]]  # section -> key -> (YAML value, why)


def run(args: argparse.Namespace) -> int:
    """Do what is left of the three stages; return the exit code of the first that does not end well.

    1 with a film: some of its frames could not be read.
    """
    film: Path = args.film
    require("av", "video", "Decoding a film")
    require("cv2", "hints", "Looking through a film")
    folder = args.folder or Path("models", re.sub(r"\W+", "_", film.stem).strip("_") or "film")
    network = RunDir(folder, NAME, VERSION)
    made = folder / f"{film.stem}_side-by-side.mp4"
    page = folder / "film.yaml"

    _check_out(args.out, film, made)

    frames = folder / "frames"
    _announce("1 of 3: frames", "prepare", "video", film, "--out", frames)
    survey = surveyed(Source(film, film.stem, film), frames)
    print("\n".join(f"  {line}" for line in (*survey.report(), *(f"warning: {text}" for text in survey.warnings()))))
    check(film, survey)

    overrides = [f"trainer.max_minutes={args.minutes:g}", *([f"dataset.fov={args.fov:g}"] if args.fov else [])]
    options = ["-c", "real/folder", page, "-o", folder, "-n", NAME, "-v", VERSION, "--set", *overrides]
    command = _announce("2 of 3: network", "train", *options)
    settle(page, film, choices(survey, frames))
    if code := training.run(train.parse(command)):
        return code

    options = [network.path, film, "--save", "side-by-side,video", "--out", folder, "--force"]
    command = _announce("3 of 3: film", "predict", *options)
    is_made = os.path.isfile(made) and os.path.isfile(network.best_path)
    if is_made and os.path.getmtime(made) > os.path.getmtime(network.best_path):
        print(f"  {made} shows this network already")
    elif (code := predicting.run(predict.parse(command))) > 1:  # 1: all but some broken frames
        return code
    if args.out and args.out.absolute() != made.absolute():
        with files.replacing(args.out) as staged:
            shutil.copyfile(made, staged)
    print(f"\n{args.out or made}: the film, and beside it disparity: red is near")
    print(f"depth of other pictures: monodepth predict {shlex.quote(str(network.path))} PICTURE")
    print("better with more time: the same command with more --minutes goes on; so does the `train` above")
    return code


def _check_out(out: Path | None, film: Path, made: Path) -> None:
    """Raise UserError unless the film `out` can be written without loss. `made` is that of an earlier start."""
    if out is None:
        return
    files.make_folder(out.absolute().parent)
    if os.path.exists(out) and (out.resolve() == film.resolve() or not os.path.exists(made)):
        raise UserError(f"{out} exists and is not a film of this command. Remove it, or name another with -o")


def check(film: Path, survey: Survey) -> None:
    """Raise UserError for a film from which no depth can be learnt."""
    width, height = survey.size
    if survey.kept and not survey.has_parallax:
        raise UserError(f"{film}: {NO_PARALLAX}. Film while you walk or drive")
    if survey.kept < FEWEST_FRAMES:
        stands = survey.standing > survey.kept
        reason = "in the others the camera stands" if stands else "the film or its scenes are too short"
        raise UserError(
            f"{film}: {survey.kept} of {survey.read} frames are left to learn from, and at least {FEWEST_FRAMES} are"
            f" needed: {reason}. Film for ten seconds or longer, and keep moving"
        )
    if height > width:
        raise UserError(
            f"{film}: {width}x{height} is higher than wide, and networks take landscape pictures. Cut it:"
            f" ffmpeg -i {shlex.quote(str(film))} -vf crop=iw:iw*3/4 landscape.mp4"
        )


def choices(survey: Survey, frames: Path) -> Choices:
    """Choose the settings of a training on the frames of a film, each with its reason."""
    device = device_type()
    is_fast = device != "cpu"
    size = best_size(survey.size, (512 * 288) if is_fast else (192 * 96))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "dataset": {
            "path": (json.dumps(str(frames)), "frames in which the camera moves"),
            "frame_gap": (
                str(survey.frame_gap),
                f"from target to support; one frame shifts by {survey.shift / WIDTH:.2%}, 0.8% do well",
            ),
            "size": (f"[{size[0]}, {size[1]}]", f"nearly the shape of {survey.size[0]}x{survey.size[1]}, for {device}"),
        },
        "loader": {
            "batch_size": ("12" if is_fast else "4", "12 on a GPU, 4 on a CPU"),
            "num_workers": (str(max(1, min(8, cores - 1))), f"of {cores} cores"),
        },
        "trainer": {
            "max_epochs": ("1000", "the minutes end the training, not the epochs"),
            "ema": ("true", "stands in for the decay of a schedule, which would need to know the number of epochs"),
            "limit_val_batches": ("25", "a tenth of the frames is held out; so many batches of them choose `best`"),
            "save_every_minutes": ("1", "lost at most when the process is killed"),
        },
    }


def best_size(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Return the landscape (width, height), multiples of 32, that is nearest to a shape and to a number of pixels."""
    sides = range(LEAST_SIDE, LARGEST_SIDE + 1, STRIDE)
    wanted = math.log(size[0] / size[1])

    def misfit(found: tuple[int, int]) -> float:
        w, h = found
        return 4 * abs(math.log(w / h) - wanted) + abs(math.log(w * h / pixels))

    return min(((w, h) for w in sides for h in sides if h <= w), key=misfit)


def settle(page: Path, film: Path, chosen: Choices) -> None:
    """Write the page of the training unless there is one, and print what it chooses."""
    if os.path.isfile(page):
        print(f"  settings: those of {page}")
        return
    lines = [
        f"# What `monodepth depth-movie` chose for {printable(film.name)} on top of real/folder. Edit it as you like.",
        "scheduler: ~",
    ]
    for section, keys in chosen.items():
        lines.append(f"{section}:")
        for key, (value, why) in keys.items():
            lines.append(f"  {key}: {value}  # {why}")
            print(f"  {section}.{key}: {value} ({why})")
    files.make_folder(page.parent)
    files.write_text(page, "\n".join(lines) + "\n")


def _announce(title: str, *words: Any) -> Sequence[str]:
    """Print the title of a stage and its command; return the options of the command."""
    texts = [str(word) for word in words]
    print(f"\n{title}\n$ monodepth {shlex.join(texts)}", flush=True)
    return texts[1:]
