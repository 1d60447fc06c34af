"""Predicted depth in a file, as `monodepth export-depth` or other code wrote it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.evaluation.items import Items, names_of, resize
from trainer.evaluation.mdec import PRED_TYPE, PRED_TYPES
from trainer.evaluation.targets import open_npz
from trainer.metrics.align import INFINITE, invert
from trainer.runtime.errors import UserError

Kind = Literal["disp", "depth"]
FAR: dict[Kind, str] = {"disp": "a tiny disparity where it is far", "depth": "an infinite depth is allowed"}

KEY, UNCERTAINTY = "pred", "uncertainty"  # of the arrays in a file of predictions

# Units of depth (of disparity, its inverse), and the alignment that each calls for.
UNITS: dict[str, str] = {"m": "none", "baseline": "stereo", "any": "median"}


@dataclass(frozen=True)
class StoredDepth:
    """Predictions from a file, in the order of a data set."""

    values: np.ndarray  # (N h w) disparities (inverse depths) or depths, finite; 0 = none
    kind: Kind  # which of both
    names: Sequence[str] | None = None  # of the items, if known
    dataset: Mapping[str, Any] | None = None  # type and arguments of their data set, if known
    resized_as: Kind = "disp"  # which of both is interpolated
    uncertainty: np.ndarray | None = None  # (N h w) finite, larger = less certain, if the file has it
    rule: str = "bilinear"  # of `trainer.evaluation.items.RESIZE_RULES`

    @classmethod
    def read(cls, path: Path, kind: Kind | None = None) -> StoredDepth:
        """Read an NPZ file with the array `pred` (N h w) or (N 1 h w), and what `monodepth export-depth` adds to it.

        Negative numbers become 0, infinite depth becomes `INFINITE`. `kind` may be None if the file states it, or
        `pred_type` as submissions to MDEC do: depth is interpolated as depth then, and where it is affine-invariant,
        items with negative numbers are raised above 0, which `lsqr_depth_trim` undoes. Raises UserError for another
        kind of file, a missing array and wrong values.
        """
        arrays = read_arrays(path, (KEY, "kind", "items", "dataset", PRED_TYPE, UNCERTAINTY))
        if KEY not in arrays:
            raise UserError(f"{path}: has no array {KEY!r}. {did_you_mean(KEY, read_arrays(path))}")
        pred_type = str(arrays[PRED_TYPE]) if PRED_TYPE in arrays else ""
        if pred_type and pred_type not in PRED_TYPES:
            raise UserError(f"{path}: unknown {PRED_TYPE} {pred_type!r}. {did_you_mean(pred_type, PRED_TYPES)}")
        known: Any = str(arrays["kind"]) if "kind" in arrays else PRED_TYPES.get(pred_type, kind)
        if known is None:
            raise UserError(f"{path}: does not say what it holds. Add --pred-kind disp or --pred-kind depth")
        if kind not in (None, known):
            raise UserError(f"{path}: says that it holds {known}, not {kind}. Leave out --pred-kind")
        if known not in get_args(Kind):
            raise UserError(
                f"{path}: unknown kind {known!r}. {did_you_mean(known, get_args(Kind))}. Write the file again"
            )
        values = _cleaned(arrays[KEY], known, path, is_relative=pred_type == "affine-invariant")
        names = _names(arrays.get("items"), len(values), path)
        return cls(
            values,
            known,
            names,
            _arguments(arrays.get("dataset")),
            resized_as=PRED_TYPES.get(pred_type, "disp"),
            uncertainty=_uncertainty(arrays.get(UNCERTAINTY), len(values), path),
        )

    def check_items(self, truths: Items, called: Path | str, path: Path) -> None:
        """Raise UserError unless there is one prediction per item of `truths`, with the same name if names are known.

        Messages call the truths `called` and the predictions `path`.
        """
        if len(self.values) != len(truths):
            raise UserError(
                f"{path}: holds {len(self.values)} predictions, {called} has {len(truths)} items. Both must be the"
                " same split in the same order"
            )
        pairs = zip(self.names or (), names_of(truths) or (), strict=False)
        for i, (ours, theirs) in enumerate(pairs):
            if ours != theirs:
                raise UserError(
                    f"{path}: prediction {i} is of {ours!r}, item {i} of {called} is {theirs!r}. Both must be the same"
                    " split in the same order"
                )

    def depth(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        """Depth (H W) float64 of an item, resized as inverse depth or as `resized_as` says; 0 = no prediction."""
        values = self.values[index].astype(np.float64)
        if values.shape == tuple(size):
            return values if self.kind == "depth" else invert(values)
        values = resize(values if self.kind == self.resized_as else invert(values), size, self.rule)
        return values if self.resized_as == "depth" else invert(values)


def read_arrays(path: Path, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of an NPZ file, all or those of `keys`, without pickles. Raises UserError."""
    fix = f"Write it again with numbers and texts only: np.savez(file, {KEY}=np.stack(maps))"
    with open_npz(path, "an NPZ file of plain arrays", fix) as opened:
        if not zipfile.is_zipfile(opened):
            raise UserError(f"{path}: is not an NPZ file. Write one with np.savez(file, {KEY}=array)")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if keys is None or key in keys}


def _names(items: np.ndarray | None, count: int, path: Path) -> list[str] | None:
    if items is None or items.dtype.kind != "U":
        return None
    if items.shape != (count,):
        raise UserError(f"{path}: items has shape {items.shape}, for {count} predictions. Write a name for each")
    return [str(name) for name in items]


def _uncertainty(values: np.ndarray | None, count: int, path: Path) -> np.ndarray | None:
    """Check the array `uncertainty`. Returns (N h w)."""
    if values is None:
        return None
    values = values[:, 0] if values.ndim == 4 and values.shape[1] == 1 else values
    if values.ndim != 3 or values.dtype.kind != "f" or len(values) != count or 0 in values.shape:
        given = f"{values.dtype} of shape {values.shape}"
        raise UserError(f"{path}: {UNCERTAINTY} must be floats ({count}, h, w), as there are predictions, got {given}")
    broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if broken.size:
        raise UserError(f"{path}: {UNCERTAINTY} of item {broken[0]} is not finite. Write a large number there")
    return values


def _arguments(dataset: np.ndarray | None) -> dict[str, Any] | None:
    """Arguments of the data set as `monodepth export-depth` writes them; None for anything else of this name."""
    try:
        arguments = json.loads(str(dataset))
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _cleaned(values: np.ndarray, kind: Kind, path: Path, is_relative: bool = False) -> np.ndarray:
    """Check the array `pred`. Returns (N h w) finite and not negative, items that are relative raised as a whole."""
    if values.dtype.kind in "iub":
        raise UserError(
            f"{path}: {KEY} holds {values.dtype}. Write the {kind} that the numbers stand for, as floats:"
            f" {KEY}.astype(np.float32), divided by their scale if they have one"
        )
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or values.dtype.kind != "f" or 0 in values.shape[1:]:
        raise UserError(f"{path}: expected floats (N, h, w), got {values.dtype} of shape {values.shape}")
    far = np.isposinf(values) & (kind == "depth")
    if far.any():
        values = np.where(far, np.float32(INFINITE), values)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if broken.size:
        more = f" (and {broken.size - 1} more)" if broken.size > 1 else ""
        raise UserError(
            f"{path}: item {broken[0]}{more} is not finite everywhere. Write 0 where there is no prediction, which"
            f" counts as nearest (min_depth) where there is a truth; {FAR[kind]}"
        )
    if is_relative:
        least = values.min(axis=(1, 2), keepdims=True)
        return np.where(least <= 0, values - least + 1, values)
    return np.maximum(values, 0) if (values < 0).any() else values
