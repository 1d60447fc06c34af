"""Turn published weights into a checkpoint: Monodepth2 folders, Lightning checkpoints, torchvision's ResNets.

    convert mono+stereo_640x192 models/imported/monodepth2_MS.safetensors
    convert models/hrdepth_MS/042/models/best.ckpt models/imported/hrdepth_MS.safetensors

What cannot be translated is an error that lists it; what is left out on purpose is told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.cli import guarded, program

if TYPE_CHECKING:
    from trainer.checkpoint.foreign import Converted

SUFFIX = ".safetensors"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description="Turn published weights into a checkpoint for `evaluate` and `train`. SRC is a Monodepth2 folder,"
        " a Lightning .ckpt of the KITTI benchmark (arXiv:2208.01489) or of SlowTV (arXiv:2307.10713), or a ResNet with"
        " torchvision's names, which becomes an encoder. Nothing in SRC is run.",
        epilog="Example: convert mono+stereo_640x192 models/imported/monodepth2_MS.safetensors",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="file or folder to read")
    add("target", type=Path, metavar="DST", help="file to write, ending in .safetensors")
    add("--force", action="store_true", help="replace DST if it is there")
    add(
        "-c",
        "--cfg-file",
        type=Path,
        metavar="YAML",
        help="settings that win over those of SRC: sections as in a configuration, or the hparams.yaml of the run",
    )
    return parser.parse_args(argv)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read, check, write, tell; return the exit code."""
    args = parse(argv)
    from trainer.runtime.errors import UserError

    if args.target.suffix != SUFFIX:
        raise UserError(f"{args.target}: must end in {SUFFIX}, the only kind of file that is written")
    if args.target.is_dir():
        raise UserError(f"{args.target}: is a folder. Name a file in it")
    if args.target.exists() and not args.force:
        raise UserError(f"{args.target}: is there already. Use --force to replace it, or another name")

    from trainer.checkpoint.foreign import convert

    converted = convert(args.source.expanduser(), args.cfg_file)
    converted.save(args.target)
    print("\n".join(report(converted, args.target)))
    return 0


def report(converted: Converted, target: Path) -> list[str]:
    """Tell what was recognised, what became of it, and how to go on, line by line."""
    foreign = converted.foreign
    trained = f", epoch {foreign.epoch}, step {foreign.step}" if foreign.step else ""
    lines = [f"recognised: {foreign.format}{trained}", "networks:"]
    for name, options in converted.config.net.items():
        sizes = [t.numel() for key, t in foreign.tensors.items() if key.startswith(f"{name}.")]
        told = ", ".join(f"{key} {value}" for key, value in options.items() if value not in (None, False))
        lines.append(f"  {name}: {told}; {len(sizes)} tensors, {sum(sizes):,} values")
    if converted.foreign.parts:
        lines.append(f"holds only: {', '.join(converted.foreign.parts)}")
    lines += [
        f"dropped: {reason}: {len(names)} ({_some(names)})" for reason, names in foreign.dropped.items()
    ]
    lines += [f"note: {note}" for note in converted.notes]
    lines += [f"saved: {target}", "next:"]
    if not any(part.startswith("depth.") for part in converted.foreign.parts):
        lines.append(f"  evaluate --ckpt {target} -c cfg/eval/kitti_eigen.yaml")
    lines.append(
        "  train -c <MODEL>.yaml -d <default>.yaml -o models/tuned -n tuned -v 42 -s 42"
        f" --set trainer.load_ckpt={target}"
    )
    if statistics := _other_statistics(converted):
        lines.append(f"    and, because these weights want other statistics of images: {statistics}")
    return lines


def _other_statistics(converted: Converted) -> str:
    """What to add to the command when the networks do not standardise images as new ones do."""
    from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD

    new = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    told = [
        f"net.{name}.{key}={list(options[key])}".replace(" ", "")
        for name, options in converted.foreign.net.items()
        for key, usual in new.items()
        if list(options.get(key, usual)) != usual
    ]
    return " ".join(told)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


if __name__ == "__main__":
    sys.exit(main())
