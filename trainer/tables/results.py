"""Read result files: the numbers of one trained network and the protocol behind them."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from trainer.runtime import files, yaml_text
from trainer.runtime.errors import UserError
from trainer.tables.columns import Column, column_of, is_on_edges

# Parts of a protocol in which comparable results may differ.
_NOT_PROTOCOL = {"factor", "trainer_version", "metrics", "dataset", "checkpoint", "predictions", "seconds", "device"}
_NOT_DATA = {
    *("type", "split", "split_file", "mode", "size", "num_items", "root", "seed", "hints_root", "depth_root"),
    *("pseudo_root", "decoded_root", "pseudo_wrong", "log_time"),
    *("supp_idxs", "as_torch", "use_depth", "use_hints", "use_pseudo", "use_aug", "use_strong_aug", "views"),
    *("use_foreground", "use_speed"),
    *("storage", "max_retries"),
    # Where files lie and how they store depth; masks, invalid values and cuts choose what is scored.
    *("images", "depth", "folder", "list_file", "list_line", "K", "poses", "edges", "native_items", "native_size"),
    *("usual_depth", "depth_format", "depth_key", "depth_offset", "depth_kind", "baseline"),
}
OFFICIAL = "official weights"  # of results of a checkpoint that `monodepth convert` made
_KINDS = {  # by a key of the file
    "chosen": "it holds the variations of a protocol, of `evaluate --vary`",
    "suite": "it holds the table of a suite, whose `result` entries are result files",
    "dataset": "it is a page of settings",
    "sequences": "it holds scores of camera paths, of `evaluate --odometry`",
    "clips": "it holds the temporal alignment error of clips, of `evaluate --temporal`",
    "kinds": "it holds scores of corrupted pictures, of `evaluate --corrupt`",
}
_LEGACY_ALIGNMENTS = {"stereo": "stereo", "median": "median", "mono": "median", "lsqr": "lsqr_disp", "metric": "none"}


@dataclass(frozen=True)
class Result:
    """The numbers of one seed of one model under one protocol."""

    folder: Path  # of the model: <root>/<model>; of converted weights, <run folder>/<name of the checkpoint>
    seed: str  # name of the version folder
    path: Path  # of the file
    protocol: Mapping[str, str]  # field -> value; results are comparable when all of them agree
    values: Mapping[Column, float]  # means over images
    leak: str = ""  # how many of its images the network was trained on, in words
    weights: str = ""  # SHA-256 of the checkpoint, where it is known


def read_results(root: Path, patterns: Sequence[str] = ("*.yaml",), problems: list[str] | None = None) -> list[Result]:
    """Read every `<root>/**/<model>/<version>/results/<pattern>`; a pattern with a slash is the path of a file.

    Files that cannot be read are added to the list `problems`, or raise if it is None.

    Raises UserError when there is no result, and naming all files that are no result files.
    """
    found: set[Path] = set()
    for pattern in patterns:
        inside = (p for p in root.rglob("results/*.yaml") if fnmatchcase(p.name, pattern))
        found.update([Path(pattern)] if "/" in pattern else inside)
    paths = sorted(p for p in found if os.path.isfile(p) and p.suffix == ".yaml" and not p.name.startswith("."))
    wrong: list[str] = []
    results = [result for path in paths for result in _try_read(path, wrong)]
    if wrong and (problems is None or not results):
        raise UserError("\n".join(wrong))
    if not paths:
        raise UserError(
            f"{root}: holds no result file <model>/<version>/results/{' '.join(patterns)}. Evaluate a run first:"
            " monodepth evaluate --ckpt <run folder>"
        )
    if problems is not None:
        problems += wrong
    return results


def _try_read(path: Path, wrong: list[str]) -> list[Result]:
    try:
        return read_result(path, "Move it away or narrow the choice with --file")
    except UserError as error:
        wrong.append(str(error))
        return []


def read_file(path: Path, with_items: bool = True) -> Any:
    """Read the YAML of a result file, if asked without its images, which may be many. Raises UserError if it cannot."""
    try:
        text = files.read_file(path).decode()
        if not with_items and text.startswith("format:"):
            text = text.partition("\nitems:")[0]
        return yaml_text.load(text, yaml_text.MAX_ROWS)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. `monodepth evaluate` prints where it saves a result") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        if not isinstance(error, OSError) and path.suffix not in (".yaml", ".yml"):
            raise UserError(f"{path}: is no result file of `monodepth evaluate`, which are YAML") from error
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as a result file: {reason}. Evaluate again, or move it") from error


def read_result(path: Path, advice: str = "Name a result file of `monodepth evaluate`") -> list[Result]:
    """Read one file: one result, and another of depth edges if they were scored.

    Raises UserError for other files, saying what they are as far as that is known, and ending with the `advice`.
    """
    data = read_file(path, with_items=False)
    try:
        results = _results(path, data)
    except (AttributeError, TypeError, ValueError):  # other content under the keys of a result
        results = []
    if not results:
        expected = "expected `mean` and `protocol`, or metrics and their values"
        raise UserError(f"{path}: is no result file: {kind_of(data) or expected}. {advice}")
    return results


def kind_of(data: Any) -> str:
    """Say what a file of `evaluate` other than the scores of single images is; "" for what is not known."""
    return next((words for key, words in _KINDS.items() if isinstance(data, Mapping) and key in data), "")


def _results(path: Path, data: Any) -> list[Result]:
    protocol: dict[str, str]
    if isinstance(data, Mapping) and isinstance(data.get("protocol"), Mapping):
        protocol, means = _fields(data["protocol"]), data.get("mean")
        metric_sets = data["protocol"].get("metrics") or {}
    elif _holds_numbers(data):
        protocol, means, metric_sets = _legacy_protocol(path.stem, data), _legacy_means(data), {}
    else:
        return []
    if not isinstance(means, Mapping) or not _holds_numbers(means):
        return []
    run = path.absolute().parent.parent
    leak = _leak(data["protocol"].get("leaks") or {}) if "protocol" in data else ""
    if protocol.get("origin") == OFFICIAL:  # several lie in one folder, and none is a seed of ours
        run = run / Path(data["protocol"]["checkpoint"]["file"]).stem / OFFICIAL
    checkpoint = data["protocol"].get("checkpoint") or {} if "protocol" in data else {}
    results = []
    for on_edges in (False, True):
        values = {column_of(k, metric_sets): float(v) for k, v in means.items() if is_on_edges(k) == on_edges}
        if values:
            edges = {"pixels": "true depth edges"} if on_edges else {}
            results.append(
                Result(run.parent, run.name, path, {**protocol, **edges}, values, leak, checkpoint.get("sha256", ""))
            )
    return results


def _fields(protocol: Mapping[str, Any]) -> dict[str, str]:
    """List what must agree in two comparable results."""
    data, checkpoint = protocol.get("dataset") or {}, protocol.get("checkpoint") or {}
    split = Path(data["split_file"]).stem if data.get("split_file") else data.get("split")
    size = data.get("size")
    fields = {
        "dataset": " ".join(map(str, filter(None, (data.get("type"), split, data.get("mode"))))),
        "checkpoint": Path(str(checkpoint.get("file", "?"))).stem,
        "alignment": str(protocol.get("alignment")),
        "crop": str(protocol.get("crop")),
        "depth": f"{_text(protocol.get('min_depth_m'))}-{_text(protocol.get('max_depth_m'))} m",
        "items": str(protocol.get("limit") or protocol.get("items")),
        "size": "x".join(map(str, size)) if isinstance(size, Sequence) else "?",
        "data": ", ".join(f"{k} {_text(v)}" for k, v in sorted(data.items()) if k not in _NOT_DATA and v is not None),
    }
    done = {"alignment", "crop", "min_depth_m", "max_depth_m", "items", "limit"} | _NOT_PROTOCOL
    absent = ("None", "None-None m", "?", "")  # odometry has no depth range, for example
    fields = {k: v for k, v in fields.items() if v not in absent}
    if checkpoint.get("imported"):  # its name is that of the method, not best or last
        fields = {"origin": OFFICIAL, **{k: v for k, v in fields.items() if k != "checkpoint"}}
    rest = {k: _text(v) for k, v in protocol.items() if k not in done and not isinstance(v, Mapping)}
    return {**fields, **rest}


def _leak(leaks: Mapping[str, Any]) -> str:
    """Say how many evaluated frames were training frames; "" for none."""
    exact, pictures = leaks.get("exact") or 0, leaks.get("same_pictures") or 0
    names = [str(entry.get("known_as") or entry.get("name")) for entry in leaks.get("lists") or ()]
    where = f" of its training ({', '.join(names)})" if any(names) else " of its training"
    if exact:
        return f"{exact} of its {leaks.get('frames')} frames are{where}"
    return f"{pictures} of its {leaks.get('items')} pictures are{where}" if pictures else ""


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _holds_numbers(data: Any) -> bool:
    if isinstance(data, Mapping):
        return bool(data) and all(isinstance(v, (int, float)) for v in data.values())
    return isinstance(data, list) and bool(data) and all(isinstance(row, Mapping) for row in data)


def _legacy_means(data: Mapping[str, Any] | list[Mapping[str, Any]]) -> dict[str, float]:
    """Means over images in a file of earlier code, which holds them, or a list of images with numbers and texts."""
    if isinstance(data, Mapping):
        return {str(k): float(v) for k, v in data.items()}
    columns: dict[str, list[float]] = {}
    for row in data:
        for key, value in row.items():
            if isinstance(value, (int, float)):
                columns.setdefault(str(key), []).append(float(value))
    known = {key: [v for v in values if math.isfinite(v)] for key, values in columns.items()}
    return {key: statistics.fmean(values) if values else math.nan for key, values in known.items()}


def _legacy_protocol(stem: str, data: Any) -> dict[str, str]:
    """Read the protocol of a file of earlier code from its name: <dataset>_<checkpoint>_<mode>."""
    parts = stem.split("_")
    mode = parts.pop() if parts[-1] in _LEGACY_ALIGNMENTS else "?"
    checkpoint = parts.pop() if len(parts) > 1 and parts[-1] in ("best", "last") else "?"
    return {
        "dataset": "_".join(parts),
        "checkpoint": checkpoint,
        "alignment": _LEGACY_ALIGNMENTS.get(mode, mode),
        "items": str(len(data)) if isinstance(data, list) else "not stored",
        "format": "earlier code, protocol not stored",
    }
