"""One prediction from parsed arguments to the files."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from trainer.config.plugins import load_plugins
from trainer.data.clips.video import VIDEOS
from trainer.predict import (
    SUFFIXES,
    ColourRange,
    DepthPredictor,
    Outcome,
    Outputs,
    Source,
    given_camera,
    kinds_of,
    look_first,
    open_source,
    predict_all,
    shows_colours,
)
from trainer.runtime.errors import UserError, first_lines
from trainer.runtime.signals import StopSignals
from trainer.tracking.progress import counting

STOPPING = "finishing the files under way ... (Ctrl-C again to leave at once)"


def run(args: argparse.Namespace) -> int:
    """Check everything, then predict. Returns 1 when frames could not be read, 130 after Ctrl-C."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # a user's own pictures
    load_plugins(args.plugins)
    camera = given_camera(args.fov, args.K)
    _check_order(args)
    rest = {"every": args.every, "limit": args.limit}
    source = open_source(args.source, apart=args.out, fps=args.fps, **rest)
    kinds = kinds_of(args.save, "video" if source.is_film else "color")
    _refuse_idle_options(args, kinds)
    predictor = DepthPredictor.load(
        args.model,
        hparams=args.hparams,
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        flip=args.flip,
        size=args.size,
        scale=args.scale,
        batch_size=args.batch_size,
    )
    outputs = Outputs(args.out, source, kinds, legend=not args.no_legend, force=args.force, skip=args.skip_existing)
    predictor.camera = camera or predictor.camera
    print(f"depth: {predictor.scale}")
    if "ply" in kinds:
        print(f"camera: {predictor.camera.origin}{'. Better: --fov or --K' if predictor.camera.is_guessed else ''}")
    colours = ColourRange(args.min, args.max, follows=source.is_stream)
    with StopSignals(STOPPING) as stop:
        outcome = _predict(predictor, source, outputs, colours, stop)
    _report(outcome, outputs, args)
    if stop.received is not None:
        return 128 + stop.received
    return int(bool(outcome.problems))


def _check_order(args: argparse.Namespace) -> None:
    """Raise UserError for a picture or film in the place of the checkpoint."""
    if Path(args.model).suffix.lower() in (*SUFFIXES, *VIDEOS) and os.path.isfile(args.model):
        raise UserError(
            f"{args.model}: is no checkpoint. MODEL comes first: monodepth predict {args.source[0]} {args.model}"
        )


def _refuse_idle_options(args: argparse.Namespace, kinds: Sequence[str]) -> None:
    """Raise UserError for options that nothing among the outputs would use."""
    if "ply" not in kinds and (args.fov or args.K):
        raise UserError("--fov and --K are for points, which are not written. Add ply to --save, or leave them out")
    if not shows_colours(kinds) and (args.min or args.max or args.no_legend):
        raise UserError("--min, --max and --no-legend are for colours, which are not written. Leave them out")


def _predict(
    predictor: DepthPredictor, source: Source, outputs: Outputs, colours: ColourRange, stop: StopSignals
) -> Outcome:
    known = look_first(predictor, source, colours) if outputs.shows_colours else {}
    if known:
        print(f"colours: one range, of {len(known)} frames spread over all")
    with counting("predict", source.total, unit="frame") as count:
        return predict_all(
            predictor, source, outputs, colours, known, on_frame=count, is_stopped=lambda: stop.received is not None
        )


def _report(outcome: Outcome, outputs: Outputs, args: argparse.Namespace) -> None:
    """Print what was done, and list what could not be read."""
    if not outcome.frames and outcome.problems:
        print("saved: nothing")
    else:
        _report_saved(outcome, outputs, args)
    if outcome.problems:
        lines = first_lines(outcome.problems)
        print("\n".join([f"frames that could not be read: {len(outcome.problems)}", *lines]), file=sys.stderr)


def _report_saved(outcome: Outcome, outputs: Outputs, args: argparse.Namespace) -> None:
    where = ", ".join(map(str, outputs.films)) or f"{args.out}/"
    rate = f" ({outcome.frames / outcome.seconds:.3g} frames/s)" if outcome.seconds else ""
    print(f"saved: {outcome.frames} frame{'s' * (outcome.frames != 1)} in {outcome.seconds:.1f} s{rate}, {where}")
