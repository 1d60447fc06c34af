"""What predictions are compared with: the items of a data set, or ground truth in a file without the data set."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from launch._cli import is_first_process
from launch._evaluation_settings import Source, new_dataset_type, plain_data, sha256
from trainer.build import build_dataset
from trainer.data.base import DepthDataset
from trainer.evaluation import TargetsFile
from trainer.types import UserError

TARGETS = "targets"  # the name of a data set that nobody told


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
    if source.trained is None:
        del kwargs["size"]  # of images, which nobody looks at
    truth = {"truth": dataset.truth} if hasattr(dataset, "truth") else {}
    return Truths(
        dataset, {"dataset": {"type": type_name, **kwargs, **changes, "num_items": len(dataset)}, **truth}
    )


def check_dataset(dataset: DepthDataset, mode: str) -> None:
    """Raise UserError for what would fail in the work; say what is worth knowing about the data."""
    if problems := dataset.check():
        raise UserError("\n".join(f"dataset ({mode}): {line}" for line in problems))
    for note in dataset.notes() if is_first_process() else ():
        print(f"dataset ({mode}): {note}", file=sys.stderr)


def _open_file(args: argparse.Namespace, source: Source) -> Truths:
    """Of the data set, only its name is taken from the configuration: nothing else of it has any say here."""
    targets = TargetsFile.read(args.targets)
    name, digest = data_set_name(args, source), sha256(args.targets)
    _, kwargs = source.cfg.dataset_kwargs(args.mode)
    told = {key: kwargs[key] for key in ("split", "split_file") if name != TARGETS and kwargs.get(key)}
    return Truths(
        targets,
        {
            "dataset": {"type": name, **told, "mode": args.mode, "num_items": len(targets)},
            # A text of its own, so that tables keep it apart from other truth of the same images.
            "truth": f"{args.targets.name}, sha256 {digest[:16]}",
            "targets": {"file": str(args.targets), "sha256": digest},
        },
    )
