"""Turn published weights into a checkpoint: Monodepth2, Lightning checkpoints, Lite-Mono, NimbleD, Depth Anything, ...

    monodepth convert mono+stereo_640x192 models/imported/monodepth2_MS.safetensors
    monodepth convert models/hrdepth_MS/042/models/best.ckpt models/imported/hrdepth_MS.safetensors

Weights that cannot be converted are an error that lists them; everything left out is reported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.cli import Parser, guarded
from trainer.runtime.errors import UserError, listed
from trainer.runtime.streams import doing

if TYPE_CHECKING:
    from trainer.checkpoint.foreign import Converted


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth convert",
        description="Turn published weights into a checkpoint to evaluate or to train from. SRC is a Monodepth2 folder,"
        " a Lightning .ckpt of the KITTI benchmark (arXiv:2208.01489) or of SlowTV (arXiv:2307.10713), a folder of"
        " Lite-Mono or NimbleD, Depth Anything (a folder of transformers, or a .pth of the authors), DINOv2 (a folder)"
        " or a ResNet with torchvision's names, which become encoders. Nothing in SRC is run. Networks, image size,"
        " support frames and depth range are those of SRC, all other settings defaults.",
        epilog="Example: monodepth convert mono+stereo_640x192 models/imported/monodepth2_MS.safetensors",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="file or folder to read")
    add("target", type=Path, metavar="DST", help="file to write, ending in .safetensors")
    add("--force", action="store_true", help="replace DST if it exists")
    text = "settings that win: sections of a configuration, or the hparams.yaml of the run if SRC holds no settings"
    add("-c", "--cfg-file", type=Path, metavar="YAML", help=text)
    text = "split file of KITTI that the weights were trained on: evaluations warn of its frames"
    add("--trained-on", metavar="FILE", help=text)
    return parser.parse_args(argv)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parse(argv)
    if args.target.suffix != ".safetensors":
        raise UserError(f"{args.target}: must end in .safetensors, the only format that is written")
    if os.path.isdir(args.target):
        raise UserError(f"{args.target}: is a folder. Name a file in it")
    if os.path.exists(args.target) and not args.force:
        raise UserError(f"{args.target}: exists already. Use --force to replace it, or another name")

    from trainer.checkpoint.foreign import convert

    doing("converting")
    converted = convert(args.source.expanduser(), args.cfg_file, args.trained_on)
    converted.save(args.target)
    print("\n".join(report(converted, args.target)))
    return 0


def report(converted: Converted, target: Path) -> list[str]:
    """Report what was recognised and converted, and how to go on, line by line."""
    from trainer.data.kitti_raw.lists import in_words

    foreign = converted.foreign
    trained = f", epoch {foreign.epoch}, step {foreign.step}" if foreign.step else ""
    lines = [f"recognised: {foreign.format}{trained}", "networks:"]
    for name, options in converted.config.net.items():
        sizes = [t.numel() for key, t in foreign.tensors.items() if key.startswith(f"{name}.")]
        text = ", ".join(f"{key} {value}" for key, value in options.items() if value not in (None, False))
        lines.append(f"  {name}: {text}; {len(sizes)} tensors, {sum(sizes):,} values")
    if foreign.parts:
        lines.append(f"holds only: {', '.join(foreign.parts)}")
    for reason, names in foreign.dropped.items():
        lines.append(f"dropped: {reason}: {len(names)} ({listed(names)})")
    lines += [f"note: {note}" for note in converted.notes]
    if converted.trained_on:
        lines += [f"trained on, as declared: {in_words(entry)}" for entry in converted.trained_on.lists]
    lines += [f"saved: {target}", "next:"]
    if not any(part.startswith("depth.") for part in foreign.parts):
        lines.append(f"  monodepth predict {target} PICTURE")
        lines.append(f"  monodepth evaluate --ckpt {target} -c eval/kitti_eigen")
    lines.append(f"  monodepth train -c <page> -o models/tuned --set trainer.load_ckpt={target}")
    if statistics := _other_statistics(converted):
        lines.append(f"    and, because these weights want other statistics of images: {statistics}")
    return lines


def _other_statistics(converted: Converted) -> str:
    """Return the settings to add to the command when the networks do not standardise images like new ones."""
    from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD

    new = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    return " ".join(
        f"net.{name}.{key}={list(options[key])}".replace(" ", "")
        for name, options in converted.foreign.net.items()
        for key, usual in new.items()
        if list(options.get(key, usual)) != usual
    )
