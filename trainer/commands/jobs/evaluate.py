"""One evaluation of depth or of camera paths, from parsed arguments to printed table and saved files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.build import build_dataset
from trainer.checkpoint import load_objective
from trainer.config.plugins import load_plugins
from trainer.data.base import DepthDataset
from trainer.evaluation import (
    EvaluationResult,
    StoredDepth,
    evaluate_odometry,
    evaluate_pose,
    evaluate_side_by_side,
    evenly_spaced,
    flip_blended,
    save_legacy,
    save_odometry,
    save_result,
)
from trainer.evaluation import report as on_screen
from trainer.evaluation.items import Items
from trainer.evaluation.predictions import Source as Predicted
from trainer.evaluation.reference import Truths, check_dataset, check_order, data_set_name, open_truths
from trainer.evaluation.session import Machine, Network, check_place, progress, start
from trainer.evaluation.subject import (
    Source,
    file_stem,
    plain_data,
    protocols_of,
    read_source,
    run_folder,
    truth_name,
)
from trainer.metrics.odometry import UNITS
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import installed_version

NEXT_FRAME = (1,)  # the only support of an item when camera paths are scored


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, score, print, save. Raises UserError for whatever the user can mend."""
    load_plugins(args.plugins)
    source = read_source(args)
    if args.odometry:
        return _run_odometry(args, source)
    protocols = protocols_of(args, source, data_set_name(args, source))
    truths = open_truths(args, source, protocols[0].needs)
    sequence = _sequence(source, args)
    _check_options(args, source, truths.items)
    stored = None if source.trained else _read_stored(source, truths, args)
    with start() as machine:
        about = {**truths.about, **source.about, "trainer_version": installed_version()}
        network: Network | None = None
        subject: Predicted
        if stored is None:
            network = Network(load_objective(source.path, args.hparams).to(machine.device), machine.device)
            subject = flip_blended(network.predict_depth) if protocols[0].flip else network.predict_depth
        else:
            subject = stored
        results = _score(subject, network, truths.items, sequence, protocols, about, machine, args)
        if machine.processes.is_first:
            _show_and_save(results, source, subject, truths.items, args)
    return 0


def _read_stored(source: Source, truths: Truths, args: argparse.Namespace) -> StoredDepth:
    stored = StoredDepth.read(source.path, args.pred_kind)
    check_order(stored, truths, args)
    source.about["predictions"]["size"] = list(stored.values.shape[:0:-1])  # width, height
    return stored


def _score(
    subject: Predicted,
    network: Network | None,
    truths: Items,
    sequence: DepthDataset | None,
    protocols: Sequence[DepthProtocol],
    about: dict[str, Any],
    machine: Machine,
    args: argparse.Namespace,
) -> list[EvaluationResult]:
    workers = 0 if args.targets else args.num_workers  # what is in memory already need not be sent around
    speed = {"batch_size": args.batch_size, "num_workers": workers, "limit": args.limit}
    num_items = len(evenly_spaced(args.limit, len(truths)))
    with progress("depth", num_items, machine) as on_item:
        results = evaluate_side_by_side(
            subject, truths, protocols, about=about, on_item=on_item, processes=machine.processes, **speed
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
    truths: Items,
    args: argparse.Namespace,
) -> None:
    on_screen.report(results, Console())
    for remark in (remark for result in results for remark in result.remarks):
        print(f"warning: {remark}", file=sys.stderr)
    several = len(results) > 1
    for result in results:
        save = default_result_path(source.path, result)
        if args.save:
            save = _of_alignment(args.save, result) if several else args.save
        replaced = " (replaces an earlier one)" if save.exists() else ""
        save_result(result, save)
        print(f"saved: {save}{replaced}")
        if args.legacy:
            legacy = _of_alignment(args.legacy, result) if several else args.legacy
            save_legacy(result, legacy)
            print(f"legacy spelling: {legacy}")
    if args.sheet:
        on_screen.draw_sheet(subject, truths, results[0], args)
        print(f"sheet: {args.sheet}")
    for result in results if several else ():
        print(f"ratio to best constant depth, {result.protocol['alignment']}: {result.ratio_to_constant:.2f}")
    print(f"ratio to best constant depth: {results[0].ratio_to_constant:.2f}")


def _sequence(source: Source, args: argparse.Namespace) -> DepthDataset | None:
    """The items with their supports, where poses are wanted."""
    if not args.pose or source.trained is None:
        return None
    if "pose" not in source.trained.net:
        raise UserError(f"{source.path}: has no pose network, its poses are given. Leave out --pose")
    plain = plain_data(source.cfg.dataset_kwargs(args.mode)[0])
    moving: dict[str, Any] = {**plain, "supp_idxs": list(source.trained.supp_idxs), "use_depth": False}
    sequence = build_dataset(source.cfg, args.mode, **moving)
    check_dataset(sequence, args.mode)
    return sequence


def _check_options(args: argparse.Namespace, source: Source, truths: Items) -> None:
    """Refuse before the work what would fail after it."""
    if args.sheet and args.sheet.suffix != ".png":
        raise UserError(f"--sheet {args.sheet}: must end in .png, the only kind of picture written")
    for count in (args.limit, args.num_sheet, args.batch_size):
        evenly_spaced(count, len(truths))
    check_place(args.save or run_folder(source.path) / "results" / "result.yaml", "--save")
    for option in ("legacy", "sheet"):
        if getattr(args, option):
            check_place(getattr(args, option), f"--{option}")


def default_result_path(source: Path, result: EvaluationResult) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_<alignment>.yaml`; a part of the items gets a name of its own.

    So do numbers against other truth: in a file, or of a kind that is not customary for the split. Results of a file
    of predictions lie in `results` beside it.
    """
    told = result.protocol
    truth = Path(told["targets"]["file"]).stem if "targets" in told else truth_name(told["dataset"])
    count = told["items"] + told["skipped_without_valid_pixel"]
    part = f"{count}items" if told["limit"] else None
    stem = file_stem(told["dataset"], truth, source.stem, told["alignment"], part)
    return run_folder(source) / "results" / f"{stem}.yaml"


def _of_alignment(path: Path, result: EvaluationResult) -> Path:
    return path.with_name(f"{path.stem}_{result.protocol['alignment']}{path.suffix}")


def _run_odometry(args: argparse.Namespace, source: Source) -> int:
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
