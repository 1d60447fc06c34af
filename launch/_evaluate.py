"""One evaluation from parsed arguments to printed table and saved files."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from trainer import viz
from trainer.atomic import CannotWrite, why_not
from trainer.build import build_dataset
from trainer.checkpoint import Saved, find_checkpoint, load_objective
from trainer.config import Config, load_config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.evaluation import (
    EvaluationResult,
    depth_pictures,
    evaluate_depth,
    evaluate_pose,
    evenly_spaced,
    save_result,
)
from trainer.metrics.protocol import DepthProtocol
from trainer.objective import Objective
from trainer.plugins import load_plugins, naming_plugins
from trainer.rundir import read_hparams
from trainer.safefile import read_metadata
from trainer.types import UserError

DEFAULT_CROPS = {"kitti": "garg"}  # by data set; none elsewhere
# Where a data set has these arguments: images as they are, every truth at its own size.
PLAIN_DATA = {
    "use_hints": False,
    "use_aug": False,
    "use_strong_aug": False,
    "log_time": False,
    "depth_size": None,
}

LABEL_LENGTH = 40  # characters that fit across a picture


@dataclass(frozen=True)
class Source:
    """A checkpoint that is not loaded yet: its origin, what it was trained on, what it is scored on."""

    path: Path
    trained: Config  # of the run
    cfg: Config  # of the run, with what this evaluation changes
    about: dict[str, Any]  # file, sha256, epoch, step, run: stored with the numbers


@dataclass(frozen=True)
class Network:
    """A trained network on its device."""

    objective: Objective
    device: torch.device

    def predict_depth(self, images: torch.Tensor) -> torch.Tensor:
        """Predict depth (b 1 h w) of images (b 3 h w), in the unit of the training."""
        return self.objective.predict_depth(images.to(self.device))

    def predict_pose(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Predict the motions (b n 4 4) to the supports of a batch."""
        moved: Any = {key: value.to(self.device) for key, value in batch.items()}
        return self.objective.predict(moved)["Ts"]


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, score, print, save. Raises UserError for whatever the user can mend."""
    load_plugins(args.plugins)
    source = read_source(find_checkpoint(args.ckpt), args)
    type_name, kwargs = source.cfg.dataset_kwargs(args.mode)
    protocol = DepthProtocol(
        args.metrics,
        args.alignment or ("stereo" if 0 in source.trained.supp_idxs else "median"),
        args.crop or DEFAULT_CROPS.get(type_name, "none"),
        args.min_depth,
        args.max_depth,
    )
    plain = {key: value for key, value in PLAIN_DATA.items() if key in DATASETS.parameters(type_name)}
    changes: dict[str, Any] = {**plain, "supp_idxs": None, "use_depth": True}
    dataset = build_dataset(source.cfg, args.mode, **changes)
    sequence = None
    if args.pose:
        if "pose" not in source.trained.net:
            raise UserError(f"{source.path}: has no pose network, its poses are given. Leave out --pose")
        moving: dict[str, Any] = {**plain, "supp_idxs": list(source.trained.supp_idxs), "use_depth": False}
        sequence = build_dataset(source.cfg, args.mode, **moving)
    check(args, dataset if sequence is None else sequence)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Network(load_objective(source.path, args.hparams).to(device), device)
    about = {
        "dataset": {"type": type_name, **kwargs, **changes, "num_items": len(dataset)},
        "checkpoint": source.about,
        "trainer_version": _installed_version(),
    }
    speed = {"batch_size": args.batch_size, "num_workers": args.num_workers, "limit": args.limit}
    num_items = len(evenly_spaced(args.limit, len(dataset)))
    with _progress("depth", num_items) as on_item:
        result = evaluate_depth(
            network.predict_depth, dataset, protocol, about=about, on_item=on_item, **speed
        )
    if sequence is not None:
        with _progress("pose", num_items) as on_item:
            result.pose = evaluate_pose(network.predict_pose, sequence, on_item=on_item, **speed)
    save = args.save or default_result_path(source.path, result, args.mode)
    report(result, Console())
    save_result(result, save)
    print(f"saved: {save}")
    if args.sheet:
        draw_sheet(network, dataset, protocol, result, args)
        print(f"sheet: {args.sheet}")
    print(f"ratio to best constant depth: {result.ratio_to_constant:.2f}")
    return 0


def read_source(path: Path, args: argparse.Namespace) -> Source:
    """Read what a checkpoint says about itself, and lay the changes of the command line over it."""
    metadata = read_metadata(path)
    hparams = read_hparams(args.hparams) if args.hparams else Saved(path, {}, metadata).hparams
    about = {
        "file": str(path),
        "sha256": _sha256(path),
        "epoch": int(metadata["epoch"]),
        "step": int(metadata["step"]),
        "run": {key: hparams.get(key) for key in ("name", "version", "seed", "trainer_version")},
        "hparams": str(args.hparams) if args.hparams else "embedded",
    }
    with naming_plugins(hparams, args.hparams or path):
        trained = Config.from_dict(hparams["config"], source=str(args.hparams or path))
    return Source(path, trained, changed_config(hparams["config"], args.cfg_file, args.set), about)


def check(args: argparse.Namespace, dataset: DepthDataset) -> None:
    """Refuse before the work what would fail in it; say what is worth knowing about the data."""
    problems = dataset.check()
    if problems:
        raise UserError("\n".join(f"dataset ({args.mode}): {line}" for line in problems))
    if args.sheet and args.sheet.suffix != ".png":
        raise UserError(f"--sheet {args.sheet}: must end in .png, the only kind of picture written")
    for count in (args.limit, args.num_sheet, args.batch_size):
        evenly_spaced(count, len(dataset))
    for note in dataset.notes():
        print(f"dataset ({args.mode}): {note}", file=sys.stderr)


def changed_config(embedded: Mapping[str, Any], files: list[Path], overrides: list[str]) -> Config:
    """Lay files and overrides over the embedded configuration.

    Another `dataset.type` starts afresh: of the embedded data set only what every data set knows (size,
    supports) stays.
    """
    new_type = _new_dataset_type(files, overrides)
    base = dict(embedded)
    if new_type not in (None, embedded["dataset"]["type"]):
        shared = inspect.signature(DepthDataset).parameters
        kept = {key: value for key, value in embedded["dataset"].items() if key in shared and key != "mode"}
        base["dataset"] = {"type": new_type, **kept}
    with tempfile.TemporaryDirectory() as folder:
        beneath = Path(folder) / "embedded_config.yaml"
        beneath.write_text(json.dumps(base, indent=1, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
        return load_config([beneath, *files], overrides=overrides)


def default_result_path(checkpoint: Path, result: EvaluationResult, mode: str) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_<alignment>.yaml`; a part of the items gets a name of its own."""
    told = result.protocol
    run = checkpoint.parent.parent if checkpoint.parent.name == "ckpts" else checkpoint.parent
    data = told["dataset"]
    parts = [
        data["type"],
        split_name(data),
        None if mode == "test" else mode,
        checkpoint.stem,
        told["alignment"],
    ]
    if told["limit"]:
        parts.append(f"{told['items'] + told['skipped_without_valid_pixel']}items")
    return run / "results" / f"{'_'.join(filter(None, parts))}.yaml"


def split_name(data: Mapping[str, Any]) -> str | None:
    """The name of the list of items, for data sets that have one: a file of its own wins over a known split."""
    return Path(data["split_file"]).stem if data.get("split_file") else data.get("split")


def report(result: EvaluationResult, console: Console) -> None:
    """Print the numbers of the network beside those of the blind guesses, and the protocol in one line."""
    table = Table(title="mean over images")
    for title in ("metric", "unit", "better", "network", "best constant", "mean of row"):
        table.add_column(title, justify="left" if title in ("metric", "unit", "better") else "right")
    columns = [result.mean, result.baselines["constant_depth"], result.baselines["row_mean_depth"]]
    for told in result.protocol["metrics"].values():
        for key, unit in told["units"].items():
            better = "higher" if key in told["higher_is_better"] else "lower"
            table.add_row(key, unit, better, *(f"{column[key]:.4f}" for column in columns))
    console.print(table)
    if result.pose:
        told = result.pose
        console.print(
            f"pose: {told['mean']:.2f} degrees off the true direction, median {told['median']:.2f}, over"
            f" {told['count']} motions (one fixed direction: {told['mean_of_fixed_direction']:.2f})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print(protocol_line(result), markup=False, highlight=False, soft_wrap=True)


def protocol_line(result: EvaluationResult) -> str:
    """The protocol in one line, for tables and pictures."""
    told = result.protocol
    data, checkpoint = told["dataset"], told["checkpoint"]
    size = "x".join(map(str, data["size"]))
    split = " ".join(filter(None, [data["type"], split_name(data), data["mode"]]))
    return (
        f"protocol: {split}, {told['items']} items, {told['skipped_without_valid_pixel']} without truth, "
        f"input {size}; alignment {told['alignment']} (factor {result.factor['median']:.3g} +- "
        f"{100 * result.factor['relative_std']:.0f} %), crop {told['crop']}, "
        f"{told['min_depth_m']:g}-{told['max_depth_m']:g} m, no flip; "
        f"{Path(checkpoint['file']).name} of epoch {checkpoint['epoch']}, step {checkpoint['step']}"
    )


def draw_sheet(
    network: Network,
    dataset: DepthDataset,
    protocol: DepthProtocol,
    result: EvaluationResult,
    args: argparse.Namespace,
) -> None:
    """Draw items of the evaluation, evenly chosen among those that were scored."""
    chosen = [result.items[i]["index"] for i in evenly_spaced(args.num_sheet, len(result.items))]
    checkpoint = result.protocol["checkpoint"]
    name = checkpoint["run"]["name"] or Path(checkpoint["file"]).stem
    rows = list(depth_pictures(network.predict_depth, dataset, chosen, protocol))
    for row in rows:
        row["label"] = row["label"][-LABEL_LENGTH:]  # the end of a path tells more than its beginning
    title = f"{name}: AbsRel {100 * result.mean['abs_rel']:.1f} %"
    try:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        viz.picture_sheet(rows, args.sheet, title=title, footer=protocol_line(result))
    except OSError as error:
        raise CannotWrite(why_not(args.sheet, error)) from error


def _new_dataset_type(files: list[Path], overrides: list[str]) -> str | None:
    """The `dataset.type` that files or overrides ask for. What is wrong with them, `load_config` tells."""
    found = None
    for path in files:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        section = data.get("dataset") if isinstance(data, dict) else None
        found = section.get("type", found) if isinstance(section, dict) else found
    for text in overrides:
        key, _, value = text.partition("=")
        found = value.strip() if key.strip() == "dataset.type" else found
    return found


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """Show a bar on a terminal; gives the function to call after each item."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _installed_version() -> str | None:
    try:
        return version("monodepth-trainer")
    except PackageNotFoundError:  # run from a source tree
        return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
