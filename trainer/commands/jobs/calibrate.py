"""One calibration from parsed arguments to a checkpoint that knows metres."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import Saved, find_checkpoint, safefile
from trainer.checkpoint.hub import place_of
from trainer.config.plugins import load_plugins, with_plugins
from trainer.evaluation import Execution, evenly_spaced
from trainer.evaluation.calibration import measure_metres
from trainer.evaluation.changes import Changes
from trainer.evaluation.places import check_place
from trainer.evaluation.reference import about_data, open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Network, progress, start
from trainer.evaluation.subject import Subject, read_checkpoint
from trainer.metrics.calibration import Calibration, PowerLaw
from trainer.runtime.errors import UserError
from trainer.types import METRES_PER_UNIT

SUFFIX = ".safetensors"


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, fit, print, write. Raises UserError for the mistakes of a user."""
    load_plugins(args.plugins)
    if args.remove:
        path = find_checkpoint(args.ckpt)
        return _remove(path, _place(args, path))
    changes = Changes(args.cfg_file, args.set)
    subject = read_checkpoint(args.ckpt, args.hparams, changes, args.mode)
    out = _place(args, subject.path)
    protocol = {"alignment": ["none"], "metrics": ["eigen"], "flip": False}
    settings = subject.cfg.evaluation.model_copy(update=protocol)
    request = EvaluationRequest(subject, changes, settings, mode=args.mode, limit=args.limit)
    items, about = open_truths(request)
    with start() as machine:
        network = Network.load(subject.path, subject.hparams, machine.device)
        with progress("calibrate", len(evenly_spaced(args.limit, len(items))), machine) as on_item:
            measured = measure_metres(
                network.predict_depth,
                items,
                request.protocols[0],
                _before(subject),
                Execution(args.batch_size, args.num_workers, machine.processes, on_item),
                limit=args.limit,
            )
        if machine.processes.is_first:
            print(f"cross-validated on {measured.parts}, {request.protocols[0].where()}:")
            print("\n".join(measured.table()), flush=True)
        is_metric = subject.alignment != "median"
        found = measured.calibration(args.scale_only, is_metric, about_data(about["dataset"]))
        if machine.processes.is_first:
            _write(subject.path, out, found, args.plugins)
    return 0


def _before(subject: Subject) -> PowerLaw:
    """Return how depth becomes metres without a new calibration; depth in an unknown unit is taken for metres."""
    return subject.metres or PowerLaw.scale(METRES_PER_UNIT if subject.alignment == "stereo" else 1.0)


def _place(args: argparse.Namespace, path: Path) -> Path:
    """Return the file to write. Raises UserError for one that cannot be, or must not."""
    if args.remove:
        given = [f"--{name}" for name in ("limit", "scale_only", "cfg_file", "set", "hparams") if getattr(args, name)]
        if given:
            raise UserError(f"{', '.join(given).replace('_', '-')}: has no meaning with --remove. Leave it out")
    if args.out is None and place_of(path):
        raise UserError(f"{args.ckpt}: is a model on the Hub, beside which nothing is written. Name a file with --out")
    ending = "-uncalibrated" if args.remove else "-calibrated"
    out: Path = args.out or path.with_name(path.stem.removesuffix("-calibrated") + ending + SUFFIX)
    if out.suffix != SUFFIX:
        raise UserError(f"--out {out}: must end in {SUFFIX}, as checkpoints do")
    if os.path.exists(out):
        if os.path.exists(path) and os.path.samefile(out, path):
            raise UserError(f"--out {out}: is the checkpoint itself, which is kept. Choose another name")
        if not args.force:
            raise UserError(f"{out}: exists. Use --force to replace it, or another name with --out")
    check_place(out, "--out")
    return out


def _read(path: Path) -> Saved:
    saved = Saved(path, *safefile.read(path))
    saved.require_depth()
    return saved


def _write(path: Path, out: Path, calibration: Calibration, plugins: Sequence[str]) -> None:
    saved = _read(path).recalibrated(calibration)
    safefile.write(out, saved.tensors, saved.metadata)
    print(f"metres = {PowerLaw(calibration.a, calibration.b)}")
    print(f"saved: {out}")
    print(
        f"{path} stays as it is, and so does its run folder: both are in their old unit. This file alone knows metres"
    )
    print("next ", with_plugins(f"monodepth predict {shlex.quote(str(out))} <pictures>", plugins))


def _remove(path: Path, out: Path) -> int:
    saved = _read(path)
    if saved.calibration is None:
        raise UserError(f"{path}: has no calibration to remove")
    plain = saved.recalibrated(None)
    safefile.write(out, plain.tensors, plain.metadata)
    print(f"removed: {saved.calibration.words}")
    print(f"saved: {out}")
    return 0
