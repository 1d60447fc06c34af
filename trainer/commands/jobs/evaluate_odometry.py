"""One evaluation of predicted camera paths, from parsed arguments to printed numbers and saved file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trainer.build import build_dataset
from trainer.checkpoint import load_objective
from trainer.evaluation import evaluate_odometry, save_odometry
from trainer.evaluation.reference import check_dataset
from trainer.evaluation.session import Network, check_place, progress, start
from trainer.evaluation.subject import Source, file_stem, plain_data, run_folder
from trainer.metrics.odometry import UNITS
from trainer.runtime.rundir import installed_version
from trainer.types import UserError

NEXT_FRAME = (1,)  # the only support of an item


def run(args: argparse.Namespace, source: Source) -> int:
    """Check, load, predict, chain, score, print, save. Raises UserError for whatever the user can mend."""
    if source.trained is None or "pose" not in source.trained.net:
        raise UserError(f"{source.path}: has no pose network, its poses are given. Leave out --odometry")
    for option in ("limit", "sheet", "legacy", "pose"):
        if getattr(args, option):
            raise UserError(f"--{option} is about depth or single frames; leave it out with --odometry")
    type_name, kwargs = source.cfg.dataset_kwargs(args.mode)
    changes: dict[str, Any] = {**plain_data(type_name), "supp_idxs": list(NEXT_FRAME), "use_depth": False}
    dataset = build_dataset(source.cfg, args.mode, **changes)
    check_dataset(dataset, args.mode)
    check_place(args.save or run_folder(source.path) / "results" / "result.yaml", "--save")
    with start() as machine:
        objective = load_objective(source.path, args.hparams).to(machine.device)
        objective.supp_idxs = NEXT_FRAME
        about = {
            "dataset": {"type": type_name, **kwargs, **changes, "num_items": len(dataset)},
            **source.about,
            "trainer_version": installed_version(),
        }
        with progress("odometry", len(dataset), machine) as on_item:
            result = evaluate_odometry(
                Network(objective, machine.device).predict_pose,
                dataset,
                batch_size=args.batch_size,
                num_workers=args.num_workers,
                about=about,
                on_item=on_item,
                processes=machine.processes,
            )
        if machine.processes.is_first:
            save = args.save or _default_path(source.path, result)
            replaced = " (replaces an earlier one)" if save.exists() else ""
            save_odometry(result, save)
            _report(result, f"{save}{replaced}")
    return 0


def _report(result: dict[str, Any], save: str) -> None:
    for told in result["sequences"]:
        numbers = [f"{key} {told[key]:.4f} {unit}" for key, unit in UNITS.items() if told[key] is not None]
        print(
            f"{told['name']}: {told['frames']} frames, {told['path_m']:.0f} m; {', '.join(numbers) or 'too short'}"
        )
    print(f"saved: {save}")
    print(", ".join(f"{key} {value:.4f} {UNITS[key]}" for key, value in result["mean"].items()))


def _default_path(source: Path, result: dict[str, Any]) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_odometry.yaml`."""
    stem = file_stem(result["protocol"]["dataset"], source.stem, "odometry")
    return run_folder(source) / "results" / f"{stem}.yaml"
