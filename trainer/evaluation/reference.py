"""Ground truth that predictions are compared with: that of a data set, or of a file without the data set."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.build import build_dataset
from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.evaluation.items import Items, dataset_class, names_of
from trainer.evaluation.request import TARGETS, EvaluationRequest
from trainer.evaluation.stored import StoredDepth
from trainer.evaluation.targets import TargetsFile
from trainer.runtime.errors import UserError
from trainer.runtime.files import sha256
from trainer.runtime.processes import is_first_process


def open_dataset(
    cfg: Config, mode: str, needs: Collection[str] = (), **changes: Any
) -> tuple[DepthDataset, dict[str, Any]]:
    """Build and check a data set for an evaluation: nothing random, what metric sets need, then `changes`.

    Returns it and its arguments. Prints its notes on stderr. Raises UserError listing all problems.
    """
    type_name, kwargs = cfg.dataset_kwargs(mode)
    plain, known = dataset_class(type_name).evaluation_arguments(needs), DATASETS.parameters(type_name)
    changes = {**{key: value for key, value in plain.items() if key in known}, **changes}
    dataset = build_dataset(cfg, mode, **changes)
    if problems := dataset.check():
        raise UserError("\n".join(f"dataset ({mode}): {line}" for line in problems))
    for note in dataset.notes():
        _print(f"dataset ({mode}): {note}")
    return dataset, {"type": type_name, **kwargs, **changes, "num_items": len(dataset)}


def open_truths(request: EvaluationRequest) -> tuple[DepthDataset | TargetsFile, dict[str, Any]]:
    """Open the ground truth, and check what can be checked before the work.

    Returns the items and what results keep of them: "dataset"; "truth" in words, where known; "targets" of a file.
    Raises UserError listing all problems.
    """
    if request.targets is not None:
        return _open_file(request, request.targets)
    subject, mode = request.subject, request.mode
    needs = request.protocols[0].needs
    dataset, arguments = open_dataset(subject.cfg, mode, needs, supp_idxs=None, use_depth=True)
    if not dataset.use_depth:
        has_poses = len(dataset) and "Ts_true" in dataset[0]
        instead = "--odometry scores its camera paths; " if has_poses else ""
        raise UserError(
            f"dataset ({mode}): {arguments['type']} has no true depth here, so there is nothing to compare depth with."
            f" {instead}`monodepth export-depth` writes predictions without any truth; --cfg-file names a data set that"
            " has depth"
        )
    if subject.trained is None:
        del arguments["size"]  # of images, which are not used
    else:
        _warn_of_training_items(subject.trained, arguments)
        _warn_of_calibration_items(subject.metadata["checkpoint"].get("calibration"), arguments)
    return dataset, {"dataset": arguments, **({"truth": dataset.truth} if dataset.truth else {})}


def check_order(stored: StoredDepth, truths: Items, arguments: Mapping[str, Any], request: EvaluationRequest) -> None:
    """Raise UserError unless predictions are of these items, of a data set with these arguments, in this order.

    Warns when that is unknown.
    """
    path, called = request.subject.path, request.targets or "the data set"
    stored.check_items(truths, called, path)
    for place, names in ((path, stored.names), (called, names_of(truths))):
        if names is None:
            _print(
                f"{place}: has no names of items, so predictions and truths cannot be checked to be in the same order"
            )
    if stored.dataset and request.targets is None:
        _check_arguments(stored.dataset, arguments, path, request.mode)


def _check_arguments(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path, mode: str) -> None:
    """Compare the arguments of a data set that makes its items: other items may have the same names.

    Items of files are known by their names.
    """
    parameters = DATASETS.parameters(ours["type"])
    if theirs.get("type") != ours["type"] or dataset_class(ours["type"]).path_arguments & set(parameters):
        return
    names = parameters.keys() - inspect.signature(DepthDataset).parameters.keys() - {"num_items", "use_foreground"}
    both = [(key, *(_plain(data.get(key, parameters[key].default)) for data in (theirs, ours))) for key in names]
    if other := sorted((key, json.dumps(a, separators=(",", ":")), json.dumps(b)) for key, a, b in both if a != b):
        differences = ", ".join(f"{key} {used} (here {wanted})" for key, used, wanted in other)
        changes = " ".join(f"dataset.{mode}.{key}={used}" for key, used, _ in other)
        raise UserError(
            f"{path}: its predictions are of another data set, in spite of the same names: {differences}."
            f" Evaluate on theirs with --set {changes}"
        )


def _warn_of_training_items(trained: Config, arguments: Mapping[str, Any]) -> None:
    """Warn when a network is scored on the split file that it was trained on."""
    type_name, of_training = trained.dataset_kwargs("train")
    split = arguments.get("split_file")
    if split and (type_name, of_training.get("split_file")) == (arguments["type"], split):
        _print(
            f"warning: {split} is what the network was trained on: the numbers flatter it. Name another file:"
            " --set dataset.split_file=<file>"
        )


def about_data(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Say in short what a data set with these arguments is: type, mode, and split if it has one."""
    split = DepthDataset.split_name(arguments)
    return {"type": arguments["type"], "mode": arguments["mode"], **({"split": split} if split else {})}


def _warn_of_calibration_items(calibration: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> None:
    """Warn when a network is scored on the data set that its metres were fitted to."""
    if calibration and calibration["data"] == about_data(arguments):
        _print(
            f"warning: the metres of this checkpoint were fitted to {calibration['images']} images of this data set, so"
            " --alignment none flatters it"
        )


def _open_file(request: EvaluationRequest, path: Path) -> tuple[TargetsFile, dict[str, Any]]:
    """Read ground truth from a file. Of the data set only the name and the split are used."""
    name = request.data_name
    targets, digest = replace(TargetsFile.read(path), scene_in=dataset_class(name).scene_in), sha256(path)
    split = {}
    if name != TARGETS:
        _, kwargs = request.subject.cfg.dataset_kwargs(request.mode)
        split = {key: kwargs[key] for key in ("split", "split_file") if kwargs.get(key)}
        _warn_of_other_truth(request, kwargs, targets.truth)
    short = f"{path.name}, sha256 {digest[:16]}"
    return targets, {
        "dataset": {"type": name, **split, "mode": request.mode, "num_items": len(targets)},
        # With the checksum, tables keep it apart from other truth of the same images.
        "truth": f"{targets.truth} ({short})" if targets.truth else short,
        "targets": {"file": str(path), "sha256": digest},
    }


def _warn_of_other_truth(request: EvaluationRequest, kwargs: Mapping[str, Any], held: str) -> None:
    """Warn when the changes explicitly ask for another truth than a file says it holds."""
    data = dataset_class(request.data_name)
    keys = data.truth_arguments
    if not held or not any(request.changes.sets(key, request.mode) for key in keys):
        return
    asked = data.truth_of(kwargs)
    if asked != held:
        _print(
            f"warning: {request.targets} holds another truth than dataset.{' and dataset.'.join(keys)} ask for:"
            f" {held}, not {asked}. Scored on what it holds; `monodepth prepare targets --source` writes the other"
        )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _print(line: str) -> None:
    """Print a line on stderr, once for all processes."""
    if is_first_process():
        print(line, file=sys.stderr)
