"""Where results go, and the names of their files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.hub import place_of
from trainer.data.base import DepthDataset
from trainer.evaluation.items import dataset_class
from trainer.evaluation.results import read_head
from trainer.runtime.errors import UserError


def run_folder(path: Path) -> Path:
    """The folder of the run that a checkpoint belongs to; of another file, the folder it lies in.

    What becomes of a model on the Hugging Face Hub goes to `models/<user>/<name>/<commit>`, not into its cache.
    """
    if place := place_of(path):
        return Path("models", *place)
    return path.parent.parent if path.parent.name == "ckpts" else path.parent


def file_stem(data: Mapping[str, Any], *rest: str | None) -> str:
    """`<data set>_<split>_<mode>_<rest>` for the items of a data set with these arguments; mode "test" is left out."""
    mode = None if data["mode"] == "test" else data["mode"]
    return "_".join(filter(None, (data["type"], DepthDataset.split_name(data), mode, *rest)))


def result_path(path: Path, protocol: Mapping[str, Any]) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_<alignment>.yaml` for a checkpoint or file of predictions at `path`.

    Scores of a part of the items, and against ground truth from a file or other than the customary one, have names of
    their own.
    """
    data = protocol["dataset"]
    unusual = dataset_class(data["type"]).unusual_truth
    truth = Path(protocol["targets"]["file"]).stem if "targets" in protocol else unusual(data)
    count = protocol["items"] + protocol["skipped_without_valid_pixel"]
    part = f"{count}items" if protocol["limit"] else None
    doubt = protocol["uncertainty"].split(",")[0].replace(" ", "_") if "uncertainty" in protocol else None
    return _result(path, file_stem(data, truth, path.stem, protocol["alignment"], part, doubt))


def variations_path(path: Path, protocol: Mapping[str, Any]) -> Path:
    """`<run>/variations/<name of the result>`: tables read `results`."""
    result = result_path(path, protocol)
    return result.parent.with_name("variations") / result.name


def odometry_path(path: Path, protocol: Mapping[str, Any]) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_odometry.yaml`."""
    return _result(path, file_stem(protocol["dataset"], path.stem, "odometry"))


def corruption_path(path: Path, protocol: Mapping[str, Any], ending: str) -> Path:
    """`result_path` of a checkpoint with the `ending` of what was corrupted, `<...>_corrupt.yaml` for everything."""
    whole = result_path(path, protocol)
    return whole.with_name(f"{whole.stem}_{ending}{whole.suffix}")


def temporal_path(path: Path, protocol: Mapping[str, Any]) -> Path:
    """`<run>/results/<dataset>_<checkpoint>_temporal_<alignment, or learned>.yaml`."""
    kind = "learned" if protocol["poses"] == "learned motion" else protocol["alignment"]
    return _result(path, file_stem(protocol["dataset"], path.stem, "temporal", kind))


def predictions_path(path: Path, data: Mapping[str, Any], flip: bool, kind: str | None = None) -> Path:
    """`<run>/preds/<dataset>_<checkpoint>.npz`; before the ending `_flip` of blended ones, and `_<kind>` of a kind."""
    return run_folder(path) / "preds" / f"{file_stem(data, path.stem, 'flip' if flip else None, kind)}.npz"


def apart(place: Path, protocol: Mapping[str, Any]) -> Path:
    """Return the place of a result, or one beside it where a result of another protocol lies there.

    Its name then says what differs: `<...>_1-50m.yaml`, `<...>_crop_garg.yaml`.
    """
    own = _choices(protocol)
    theirs = _held(place)
    if theirs is None or theirs == own:
        return place
    differing = [word for word, other in zip(own, theirs, strict=True) if word != other]
    near, full = (place.with_name(f"{'_'.join((place.stem, *words))}{place.suffix}") for words in (differing, own))
    return near if _held(near) in (None, own) else full


def _held(place: Path) -> list[str] | None:
    """Return the choices of the result that lies at a place; None where none does."""
    protocol = (read_head(place) or {}).get("protocol")
    try:
        return _choices(protocol) if isinstance(protocol, Mapping) else None
    except (AttributeError, TypeError, ValueError):  # other content under these keys
        return None


def _choices(protocol: Mapping[str, Any]) -> list[str]:
    """Name what the usual name of a result leaves out, in words for file names."""
    metrics, size = protocol.get("metrics") or (), (protocol.get("dataset") or {}).get("size") or ()
    return [
        f"{protocol.get('min_depth_m', 0):g}-{protocol.get('max_depth_m', 0):g}m",
        f"crop_{protocol.get('crop')}",
        "flip" if protocol.get("flip_post_processing") else "unflipped",
        "_".join(metrics),
        f"input_{'x'.join(map(str, size))}",
    ]


def check_place(path: Path, option: str) -> None:
    """Raise UserError naming the option when a file could not be written, which otherwise shows after the work."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder. Name a file with {option}")
    folder = next(above for above in path.absolute().parents if os.path.exists(above))
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: is a file, but a folder is needed there. Choose another place with {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: you may not write there. Choose another place with {option}")


def announced(path: Path) -> str:
    """The place of a file as it is printed once it is written; asked before, to say whether it replaces another."""
    return f"{path} (replaces an earlier one)" if os.path.exists(path) else str(path)


def _result(path: Path, stem: str) -> Path:
    return run_folder(path) / "results" / f"{stem}.yaml"
