"""One evaluation from parsed arguments to printed table and saved files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from launch import _evaluate_odometry as odometry
from launch import _evaluation_report as on_screen
from launch._evaluation_settings import (
    Source,
    changed_config,
    plain_data,
    protocols_of,
    read_source,
    split_name,
)
from launch._predicting import Machine, Network, progress, start
from trainer.build import build_dataset
from trainer.checkpoint import load_objective
from trainer.data.base import DepthDataset
from trainer.evaluation import (
    EvaluationResult,
    StoredDepth,
    evaluate_pose,
    evaluate_side_by_side,
    evenly_spaced,
    flip_blended,
    save_legacy,
    save_result,
)
from trainer.evaluation.predictions import Source as Predicted
from trainer.metrics.protocol import DepthProtocol
from trainer.plugins import load_plugins
from trainer.rundir import installed_version
from trainer.types import UserError

__all__ = ["Network", "changed_config", "default_result_path", "run"]


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, score, print, save. Raises UserError for whatever the user can mend."""
    load_plugins(args.plugins)
    source = read_source(args)
    if args.odometry:
        return odometry.run(args, source)
    type_name, kwargs = source.cfg.dataset_kwargs(args.mode)
    protocols = protocols_of(args, source, type_name)
    plain = plain_data(type_name, protocols[0].needs)
    changes: dict[str, Any] = {**plain, "supp_idxs": None, "use_depth": True}
    dataset = build_dataset(source.cfg, args.mode, **changes)
    sequence = _sequence(source, plain, args)
    with start() as machine:
        check(args, dataset if sequence is None else sequence, machine)
        about = {
            "dataset": {"type": type_name, **kwargs, **changes, "num_items": len(dataset)},
            **source.about,
            "trainer_version": installed_version(),
        }
        subject, network = _load(source, protocols[0], dataset, machine, args)
        results = _score(subject, network, dataset, sequence, protocols, about, machine, args)
        if machine.processes.is_first:
            _show_and_save(results, source, subject, dataset, args)
    return 0


def _load(
    source: Source, protocol: DepthProtocol, dataset: DepthDataset, machine: Machine, args: argparse.Namespace
) -> tuple[Predicted, Network | None]:
    """What gives depth, and the network behind it if any."""
    if source.trained is None:
        stored = StoredDepth.read(source.path, args.pred_kind)
        stored.check_length(len(dataset), source.path)
        empty = float((stored.values <= 0).mean())
        if empty and machine.processes.is_first:
            print(
                f"{source.path}: {100 * empty:.2f} % of the pixels hold no depth and count as the least",
                file=sys.stderr,
            )
        return stored, None
    network = Network(load_objective(source.path, args.hparams).to(machine.device), machine.device)
    predict = network.predict_depth
    return (flip_blended(predict) if protocol.flip else predict), network


def _score(
    subject: Predicted,
    network: Network | None,
    dataset: DepthDataset,
    sequence: DepthDataset | None,
    protocols: Sequence[DepthProtocol],
    about: dict[str, Any],
    machine: Machine,
    args: argparse.Namespace,
) -> list[EvaluationResult]:
    speed = {"batch_size": args.batch_size, "num_workers": args.num_workers, "limit": args.limit}
    num_items = len(evenly_spaced(args.limit, len(dataset)))
    with progress("depth", num_items, machine) as on_item:
        results = evaluate_side_by_side(
            subject, dataset, protocols, about=about, on_item=on_item, processes=machine.processes, **speed
        )
    if sequence is not None and network is not None:
        with progress("pose", num_items, machine) as on_item:
            pose = evaluate_pose(
                network.predict_pose, sequence, on_item=on_item, processes=machine.processes, **speed
            )
        for result in results:
            result.pose = pose
    return results


def _show_and_save(
    results: Sequence[EvaluationResult],
    source: Source,
    subject: Predicted,
    dataset: DepthDataset,
    args: argparse.Namespace,
) -> None:
    on_screen.report(results, Console())
    several = len(results) > 1
    for result in results:
        save = default_result_path(source.path, result, args.mode)
        if args.save:
            save = _of_alignment(args.save, result) if several else args.save
        save_result(result, save)
        print(f"saved: {save}")
        if args.legacy:
            legacy = _of_alignment(args.legacy, result) if several else args.legacy
            save_legacy(result, legacy)
            print(f"legacy spelling: {legacy}")
    if args.sheet:
        on_screen.draw_sheet(subject, dataset, results[0], args)
        print(f"sheet: {args.sheet}")
    print(f"ratio to best constant depth: {results[0].ratio_to_constant:.2f}")


def _sequence(source: Source, plain: dict[str, Any], args: argparse.Namespace) -> DepthDataset | None:
    """The items with their supports, where poses are wanted."""
    if not args.pose or source.trained is None:
        return None
    if "pose" not in source.trained.net:
        raise UserError(f"{source.path}: has no pose network, its poses are given. Leave out --pose")
    moving: dict[str, Any] = {**plain, "supp_idxs": list(source.trained.supp_idxs), "use_depth": False}
    return build_dataset(source.cfg, args.mode, **moving)


def check(args: argparse.Namespace, dataset: DepthDataset, machine: Machine) -> None:
    """Refuse before the work what would fail in it; say what is worth knowing about the data."""
    problems = dataset.check()
    if problems:
        raise UserError("\n".join(f"dataset ({args.mode}): {line}" for line in problems))
    if args.sheet and args.sheet.suffix != ".png":
        raise UserError(f"--sheet {args.sheet}: must end in .png, the only kind of picture written")
    for count in (args.limit, args.num_sheet, args.batch_size):
        evenly_spaced(count, len(dataset))
    for note in dataset.notes() if machine.processes.is_first else ():
        print(f"dataset ({args.mode}): {note}", file=sys.stderr)


def default_result_path(source: Path, result: EvaluationResult, mode: str) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_<alignment>.yaml`; a part of the items gets a name of its own.

    Results of a file of predictions lie in `results` beside it.
    """
    told = result.protocol
    run = source.parent.parent if source.parent.name == "ckpts" else source.parent
    data = told["dataset"]
    parts = [
        data["type"],
        split_name(data),
        None if mode == "test" else mode,
        source.stem,
        told["alignment"],
    ]
    if told["limit"]:
        parts.append(f"{told['items'] + told['skipped_without_valid_pixel']}items")
    return run / "results" / f"{'_'.join(filter(None, parts))}.yaml"


def _of_alignment(path: Path, result: EvaluationResult) -> Path:
    return path.with_name(f"{path.stem}_{result.protocol['alignment']}{path.suffix}")
