"""Predicted depth, item by item: from a network, or from a file that other code wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from models_zoo.registry import did_you_mean
from trainer.evaluation.processes import ALONE, Processes
from trainer.metrics.align import invert
from trainer.types import UserError

PredictDepth = Callable[[Tensor], Tensor]  # images (b 3 h w) on the CPU -> depth (b 1 h w), any device
Kind = Literal["disp", "depth"]

KEY = "pred"  # of the array in a file of predictions

# What a unit of depth is (of disparity, its inverse), and the alignment that it leaves to do.
UNITS: dict[str, str] = {"m": "none", "baseline": "stereo", "any": "median"}


@dataclass(frozen=True)
class StoredDepth:
    """Predictions that were made before, in the order of a data set.

    Args:
        values: (N h w) disparities (inverse depths) or depths, finite; 0 or less = none.
        kind: which of both.
    """

    values: np.ndarray
    kind: Kind

    @classmethod
    def read(cls, path: Path, kind: Kind | None = None) -> StoredDepth:
        """Read an NPZ file with the array `pred` (N h w) or (N 1 h w).

        `kind` may be None where the file itself says it, as those of `export_depth` do. Raises UserError for a file
        that is none, lacks the array or holds something else.
        """
        arrays = read_arrays(path, (KEY, "kind"))
        if KEY not in arrays:
            raise UserError(f"{path}: has no array {KEY!r}. {did_you_mean(KEY, read_arrays(path))}")
        told = str(arrays["kind"]) if "kind" in arrays else None
        if kind is None and told is None:
            raise UserError(f"{path}: does not say what it holds. Add --pred-kind disp or --pred-kind depth")
        if kind is not None and told is not None and told != kind:
            raise UserError(f"{path}: says that it holds {told}, not {kind}. Leave out --pred-kind")
        values = arrays[KEY]
        if values.ndim == 4 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 3 or values.dtype.kind != "f":
            raise UserError(f"{path}: expected floats (N, h, w), got {values.dtype} of shape {values.shape}")
        broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
        if broken.size:
            raise UserError(
                f"{path}: item {broken[0]} (and {broken.size - 1} more) is not finite everywhere. Write 0 where there"
                " is no prediction"
            )
        return cls(values, kind or told)  # type: ignore[arg-type]

    def check_length(self, num_items: int, truths: Path | str, path: Path) -> None:
        """Raise UserError unless there is one prediction per item of what is named `truths`."""
        if len(self.values) != num_items:
            raise UserError(
                f"{path}: holds {len(self.values)} predictions, {truths} has {num_items} items. Both must be the"
                " same split in the same order"
            )

    def depth(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        """Depth (H W) float64 of an item, resized as inverse depth; 0 where there is none."""
        values = self.values[index].astype(np.float64)
        if self.kind == "depth" and values.shape == tuple(size):
            return values
        disp = invert(values) if self.kind == "depth" else values
        return invert(resize(disp, size))


Source = PredictDepth | StoredDepth


class Items(Protocol):
    """What predictions are compared with: a `DepthDataset`, or a `TargetsFile`, whose items have no image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Tensor]: ...

    def describe(self, index: int) -> str: ...


def read_arrays(path: Path, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of an NPZ file, all or those of `keys` that are there, without pickles. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UserError(f"{path}: is a single array. Save it with np.savez(path, {KEY}=array)")
            return {key: file[key] for key in file.files if keys is None or key in keys}
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in any way
        raise UserError(f"{path}: is no NPZ file of plain arrays ({error})") from error


def flip_blended(predict: PredictDepth) -> PredictDepth:
    """Predict twice, for the image and its mirror image, and blend both inverse depths (Monodepth, arXiv:1609.03677).

    Blending scaled disparity equals blending that of the network: the weights add up to 1.
    """
    from models_zoo.depth import stereo_blend

    def predict_blended(images: Tensor) -> Tensor:
        plain, mirrored = 1 / predict(images), 1 / predict(images.flip(-1)).flip(-1)
        return 1 / stereo_blend(plain, mirrored)

    return predict_blended


def evenly_spaced(count: int | None, total: int) -> list[int]:
    """Choose `count` of `total` positions from first to last; all of them when None or too many."""
    if count is not None and count < 1:
        raise UserError(f"the number of items must be 1 or more, got {count}")
    if count is None or count >= total:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def resize_as_inverse(depth: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Resize positive depth (h w) to `size` (H, W), bilinearly in inverse depth. Returns (H W) float64."""
    return 1 / resize((1 / depth.double()).numpy(), size)


def resize(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize (h w) to (H, W) bilinearly with half-pixel centres, in float64: OpenCV's rule, not its rounding."""
    if values.shape == tuple(size):
        return values
    tensor = torch.from_numpy(values)[None, None]
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)[0, 0].numpy()


def batches_of(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut indices into batches. Raises UserError for a batch size below 1."""
    if batch_size < 1:
        raise UserError(f"batch_size must be 1 or more, got {batch_size}")
    return [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]


def read_items(
    dataset: Items, batches: Sequence[list[int]], num_workers: int
) -> Iterator[tuple[list[int], list[dict[str, Tensor]]]]:
    """Yield batches of indices with their items, in order. Lists, because truths may differ in size."""
    loader: Any = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # leaves the global one alone
    )
    return zip(batches, loader, strict=True)


def predicted_maps(
    predict: PredictDepth,
    items: Sequence[Mapping[str, Tensor]],
    indices: Sequence[int],
    dataset: Items,
) -> Iterator[Tensor]:
    """Yield the depth (h w) of each item on the CPU. Raises UserError for a missing image, and a depth that is none."""
    if not items:
        return
    if "target" not in items[0]:
        raise UserError(
            f"item {indices[0]} ({dataset.describe(indices[0])}) comes without image: a network needs the data set"
        )
    with torch.inference_mode():
        depths = predict(torch.stack([item["target"] for item in items])).float().cpu()[:, 0]  # (b h w)
    for index, depth in zip(indices, depths, strict=True):
        bad = int((~(depth.isfinite() & (depth > 0))).sum())
        if bad:
            raise UserError(
                f"item {index} ({dataset.describe(index)}): the predicted depth is not a positive finite "
                f"number at {bad} of {depth.numel()} pixels. Evaluate an earlier checkpoint"
            )
        yield depth


def predictions(
    source: Source,
    dataset: Items,
    indices: Sequence[int],
    batch_size: int,
    num_workers: int,
    processes: Processes = ALONE,
) -> Iterator[tuple[int, dict[str, Tensor], np.ndarray, np.ndarray]]:
    """Yield (index, item, depth (H W), truth (H W)) of this process's items, depth at the size of its truth."""
    batches = processes.share(batches_of(indices, batch_size))
    for chosen, items in read_items(dataset, batches, num_workers):
        truths = [truth_map(item, dataset, index) for item, index in zip(items, chosen, strict=True)]
        if isinstance(source, StoredDepth):
            depths: Any = (source.depth(i, t.shape) for i, t in zip(chosen, truths, strict=True))
        else:
            maps = predicted_maps(source, items, chosen, dataset)
            depths = (resize_as_inverse(d, t.shape) for d, t in zip(maps, truths, strict=True))
        yield from zip(chosen, items, depths, truths, strict=True)


def truth_map(item: Mapping[str, Tensor], dataset: Items, index: int) -> np.ndarray:
    """The true depth (H W) of an item, metres."""
    if "depth" not in item:
        raise UserError(
            f"item {index} ({dataset.describe(index)}) comes without ground truth: "
            "set dataset.use_depth to true, or evaluate a split that has depth"
        )
    return item["depth"][0].numpy()
