"""One export from parsed arguments to a file that has been compared with its network."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainer.checkpoint import Saved, find_checkpoint, safefile
from trainer.checkpoint.publish import published
from trainer.commands.export import SUFFIXES
from trainer.config.plugins import load_plugins
from trainer.evaluation.places import check_place, run_folder
from trainer.evaluation.subject import sha256
from trainer.predict import DepthPredictor
from trainer.predict.formats import check, depth_anything_folder, facts, onnx_file, program, transformers_folder
from trainer.predict.formats.program import Interface, Run
from trainer.predict.predictor import as_rgb
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, replacing, replacing_folder
from trainer.runtime.rundir import read_hparams


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, write, compare. Raises UserError for the mistakes of a user."""
    check_arguments(args)
    load_plugins(args.plugins)
    pictures = check.pictures_of(args.verify) if args.verify else []
    path = find_checkpoint(args.model)
    saved = Saved(path, *safefile.read(path))
    saved.require_depth()
    settings = read_hparams(args.hparams) if args.hparams else saved.hparams
    predictor = DepthPredictor.load(
        path, hparams=args.hparams, size=args.size, scale=args.scale, device="cpu", batch_size=1
    )
    about = facts.describe(predictor, saved, settings, sha256(path), run_folder(path) / "results")
    if args.format == "transformers":
        saved.metadata["hparams"] = json.dumps(settings)
        public, _ = published(saved)
        report = write_folder(args.out, predictor, public, public.hparams["config"]["net"]["depth"], about, pictures)
    else:
        report = write_graph(args, predictor, about, pictures)
    print(f"saved: {args.out}, {report}")
    print(f"depth is {predictor.scale}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for options and places that do not fit, and for missing packages."""
    suffix = SUFFIXES[args.format]
    if args.out.suffix != suffix and (suffix or args.out.suffix in SUFFIXES.values()):
        ends = f"must end in {suffix}" if suffix else "is a folder, so its name must not end like a file"
        raise UserError(f"--out {args.out}: with --format {args.format} it {ends}")
    if suffix:
        check_place(args.out, "--out")
    else:
        check_place(args.out / "config.json", "--out")
    if os.path.exists(args.out) and not args.force:
        raise UserError(f"--out {args.out}: exists. Use --force to replace it, or another name")
    if args.format != "transformers":
        if args.format == "onnx":
            onnx_file.packages()
        return
    transformers_folder.packages()
    defaults = {"dynamic": [], "input": "uint8", "layout": "NCHW", "precision": "32", "time": False}
    if given := [f"--{name}" for name, default in defaults.items() if getattr(args, name) != default]:
        raise UserError(
            f"{', '.join(given)}: not with --format transformers, whose pipeline decides that. Leave it out"
        )


def write_graph(
    args: argparse.Namespace, predictor: DepthPredictor, about: dict[str, str], pictures: list[Path]
) -> str:
    """Write an ONNX file or an archive, and compare it. Returns what there is to say about it."""
    interface = Interface(predictor.size, args.input, args.layout, frozenset(args.dynamic), args.precision)
    form: Any = {"onnx": onnx_file, "torch": program}[args.format]
    frames = check.batches(predictor, interface, pictures)
    make_folder(args.out.parent)
    with replacing(args.out) as staged:
        form.write(predictor.network, interface, {**about, **facts.of_interface(interface)}, staged)
        graph: Run = form.load(staged)
        difference = check.largest_difference(graph, predictor.network, interface, frames)
        check.refuse(difference, args.precision, args.out)
    report = f"{args.out.stat().st_size / 1e6:.1f} MB, {proof(difference, args.precision, len(pictures))}"
    if args.time:
        mine, theirs = time_on_one_thread(form, args.out, predictor, interface, frames[0][:1])
        report += f"\none image on one thread: {mine:.1f} ms, PyTorch {theirs:.1f} ms, ratio {mine / theirs:.2f}"
    return report


def write_folder(
    out: Path,
    predictor: DepthPredictor,
    saved: Saved,
    options: dict[str, Any],
    about: dict[str, str],
    pictures: list[Path],
) -> str:
    """Write a folder for transformers, and compare it. Returns what there is to say about it."""
    width, height = predictor.size
    images = [as_rgb(picture) for picture in pictures] or [
        Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in check.generated_frames((width + 37, height + 21))
    ]
    obstacle = depth_anything_folder.obstacle(predictor)
    with replacing_folder(out) as staged:
        if obstacle is None:
            depth_anything_folder.write(predictor, about, staged)
            difference = depth_anything_folder.largest_difference(staged, predictor, images)
            height, width = depth_anything_folder.input_size(predictor)
            kind = f"\na Depth Anything model, which needs no code of this project; images of {width} x {height} pixels"
            kind += f", {depth_anything_folder.meaning(predictor)}"
        else:
            transformers_folder.write(predictor, saved, options, about, staged)
            difference = transformers_folder.largest_difference(staged, predictor, images)
            kind = f"\nno Depth Anything model, because {obstacle}: it needs the code in the folder"
        check.refuse(difference, "32", out)
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return f"{size / 1e6:.1f} MB, {proof(difference, '32', len(pictures))}" + (
        kind if options.get("dec_name") == "dpt" else ""
    )


def proof(difference: float, precision: str, pictures: int) -> str:
    """Say what was compared."""
    frames = f"{pictures} pictures" if pictures else "rendered pictures"
    limit = check.LIMITS[precision]
    return f"differs from PyTorch by at most {difference:.1e} (relative, limit {limit:g}) on {frames}"


def time_on_one_thread(
    form: Any, path: Path, predictor: DepthPredictor, interface: Interface, frames: torch.Tensor
) -> tuple[float, float]:
    """Time a file and its network on one image. Returns milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        graph: Run = form.load(path, threads=1)
        images = interface.images(frames)
        with torch.inference_mode():
            return check.time_ratio(lambda: graph(images), lambda: predictor.network(frames))
    finally:
        torch.set_num_threads(threads)
