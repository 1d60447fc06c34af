"""What predictions are compared with: the items of a data set, or ground truth in a file without the data set."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.build import build_dataset
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.kitti_raw.targets import asked_source, kitti_truth
from trainer.evaluation.items import names_of
from trainer.evaluation.split import KEYS, told_keys, told_sections
from trainer.evaluation.stored import StoredDepth
from trainer.evaluation.subject import Source, new_dataset_type, plain_data, sha256
from trainer.evaluation.targets import TargetsFile
from trainer.runtime.errors import UserError
from trainer.runtime.processes import is_first_process

TARGETS = "targets"  # the name of a data set that nobody told
PLACES = frozenset(
    {"root", "path", "datasets"}
)  # arguments of data sets whose items are files, known by their names


@dataclass(frozen=True)
class Truths:
    """Items with a true depth, and what a result file says about them."""

    items: DepthDataset | TargetsFile
    about: dict[str, Any]  # "dataset"; "truth", where it is known in words; "targets" of a file


def data_set_name(args: argparse.Namespace, source: Source) -> str:
    """The type of the data set; of a file of ground truth, what the configuration says it is."""
    unknown = args.targets is not None and new_dataset_type(args.cfg_file, args.set) is None
    return TARGETS if unknown else source.cfg.dataset_kwargs(args.mode)[0]


def open_truths(args: argparse.Namespace, source: Source, needs: frozenset[str]) -> Truths:
    """Open what is scored, and check what can be checked before the work. Raises UserError naming all problems."""
    if args.targets is not None:
        return _open_file(args, source)
    type_name, kwargs = source.cfg.dataset_kwargs(args.mode)
    changes: dict[str, Any] = {**plain_data(type_name, needs), "supp_idxs": None, "use_depth": True}
    dataset = build_dataset(source.cfg, args.mode, **changes)
    check_dataset(dataset, args.mode)
    _refuse_without_depth(dataset, type_name, args.mode)
    _warn_of_training_items(source, type_name, kwargs)
    if source.trained is None:
        del kwargs["size"]  # of images, which nobody looks at
    truth = {"truth": dataset.truth} if hasattr(dataset, "truth") else {}
    return Truths(
        dataset, {"dataset": {"type": type_name, **kwargs, **changes, "num_items": len(dataset)}, **truth}
    )


def check_order(stored: StoredDepth, truths: Truths, args: argparse.Namespace) -> None:
    """Raise UserError where predictions are not of these items in this order, as far as it is known; else say so."""
    called = args.targets or "the data set"
    stored.check_items(truths.items, called, args.pred_file)
    names = {args.pred_file: stored.names, called: names_of(truths.items)}
    for nameless in [place for place, known in names.items() if known is None and is_first_process()]:
        print(
            f"{nameless}: has no names of items, so nothing tells whether predictions and truths are in the same order",
            file=sys.stderr,
        )
    if stored.dataset and args.targets is None:
        _check_scenes(stored.dataset, truths.about["dataset"], args.pred_file, args.mode)


def _check_scenes(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path, mode: str) -> None:
    """Compare the arguments that items are made from, where they are no files: other items may have the same names."""
    parameters = DATASETS.parameters(ours["type"])
    if theirs.get("type") != ours["type"] or PLACES & set(parameters):
        return
    other = {}
    for key in parameters.keys() - inspect.signature(DepthDataset).parameters.keys() - {"num_items"}:
        told, wanted = (
            json.dumps(data.get(key, parameters[key].default), default=str) for data in (theirs, ours)
        )
        if json.loads(told) != json.loads(wanted):
            other[key] = told.replace(" ", ""), wanted
    if other:
        differences = ", ".join(
            f"{key} {told} (here {wanted})" for key, (told, wanted) in sorted(other.items())
        )
        changes = " ".join(f"dataset.{mode}.{key}={told}" for key, (told, _) in sorted(other.items()))
        raise UserError(
            f"{path}: its predictions are of another data set, in spite of the same names: {differences}."
            f" Evaluate on theirs with --set {changes}"
        )


def check_dataset(dataset: DepthDataset, mode: str) -> None:
    """Raise UserError for what would fail in the work; say what is worth knowing about the data."""
    if problems := dataset.check():
        raise UserError("\n".join(f"dataset ({mode}): {line}" for line in problems))
    for note in dataset.notes() if is_first_process() else ():
        print(f"dataset ({mode}): {note}", file=sys.stderr)


def _refuse_without_depth(dataset: DepthDataset, type_name: str, mode: str) -> None:
    """Raise UserError for a data set that was asked for depth and has none, saying what can be done with it."""
    if dataset.use_depth:
        return
    has_poses = len(dataset) and "Ts_true" in dataset[0]
    instead = "--odometry scores its camera paths; " if has_poses else ""
    raise UserError(
        f"dataset ({mode}): {type_name} has no true depth here, so there is nothing to compare depth with."
        f" {instead}`export_depth` writes predictions without any truth; --cfg-file names a data set that has depth"
    )


def _warn_of_training_items(source: Source, type_name: str, kwargs: Mapping[str, Any]) -> None:
    """Say so when a network is scored on the list of items that it was trained on."""
    if source.trained is None or not is_first_process():
        return
    of_training, told = source.trained.dataset_kwargs("train")
    split = kwargs.get("split_file")
    if split and (type_name, split) == (of_training, told.get("split_file")):
        print(
            f"warning: {split} is what the network was trained on: the numbers flatter it. Name another file:"
            " --set dataset.split_file=<file>",
            file=sys.stderr,
        )


def _open_file(args: argparse.Namespace, source: Source) -> Truths:
    """Of the data set, only its name is taken from the configuration: nothing else of it has any say here."""
    targets = TargetsFile.read(args.targets)
    name, digest = data_set_name(args, source), sha256(args.targets)
    _, kwargs = source.cfg.dataset_kwargs(args.mode)
    told = {key: kwargs[key] for key in KEYS if name != TARGETS and kwargs.get(key)}
    digest_of = f"{args.targets.name}, sha256 {digest[:16]}"
    if name != TARGETS:
        _warn_of_other_truth(args, kwargs, name, targets.truth)
    return Truths(
        targets,
        {
            "dataset": {"type": name, **told, "mode": args.mode, "num_items": len(targets)},
            # A text of its own, so that tables keep it apart from other truth of the same images.
            "truth": f"{targets.truth} ({digest_of})" if targets.truth else digest_of,
            "targets": {"file": str(args.targets), "sha256": digest},
        },
    )


def _warn_of_other_truth(args: argparse.Namespace, kwargs: Mapping[str, Any], name: str, held: str) -> None:
    """Say so when files or options explicitly ask for another truth than a file of ground truth says it holds."""
    told = told_keys(told_sections(args.cfg_file, args.set), args.mode)
    keys = ("use_benchmark", "depth_along")
    if not held or not {key.removeprefix(f"{args.mode}.") for key in told} & set(keys):
        return
    parameters = DATASETS.parameters(name)
    if not set(keys) <= set(parameters) or not is_first_process():
        return
    use_benchmark, along = (kwargs.get(key, parameters[key].default) for key in keys)
    asked = kitti_truth(asked_source(use_benchmark, along))
    if asked != held:
        print(
            f"warning: {args.targets} holds another truth than dataset.{' and dataset.'.join(keys)} ask for:"
            f" {held}, not {asked}. Scored on what it holds; `prepare targets --source` writes the other",
            file=sys.stderr,
        )
