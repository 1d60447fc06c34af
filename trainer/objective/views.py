"""Further views of the items of a batch: what the depth network sees, and how its answer becomes a scene.

A crop or a reduction has pictures and intrinsics of its own; the disparity of a permuted input is put back and belongs
to the pictures as they are. Motions are those of the plain view. RA-Depth, arXiv:2207.11984; BDEdepth,
arXiv:2309.05254.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from trainer.geometry.precision import matmul3
from trainer.types import Batch

_SUFFIXES = "_A", "_cut"  # every view has one of these keys


def view_names(batch: Mapping[str, Any], needed_by: Mapping[str, str]) -> list[str]:
    """List the views of a batch. Raises ValueError when there are none and a loss needs some."""
    found = [key[len("view_") :] for key in batch if key.startswith("view_")]
    names = sorted(key.removesuffix(end) for key in found for end in _SUFFIXES if key.endswith(end))
    if not names and "views" in needed_by:
        raise ValueError(f"loss {needed_by['views']!r} needs several views of each item: set dataset.train.views")
    return names


def network_input(batch: Mapping[str, Any], name: str, scales: Iterable[int]) -> Tensor:
    """Return what the depth network sees of a view, (b 3 h w)."""
    key = f"view_{name}_"
    if f"{key}cut" in batch:
        target = batch.get("target_aug", batch["target"])
        return permuted(target, _fitting_cut(batch[f"{key}cut"], target, scales))
    return batch.get(f"{key}target_aug", batch[f"{key}target"])


def scene_parts(
    batch: Mapping[str, Any], predictions: Mapping[str, Any], name: str, seen: Mapping[str, Any]
) -> tuple[Batch, dict[str, Any], dict[str, Tensor]]:
    """Return batch and predictions for the scene of a view, and what sets the scene apart (fields of `Scene`).

    predictions: of the plain view. seen: what the depth network returned for `network_input`.
    """
    key, K, apart = f"view_{name}_", predictions.get("K", batch.get("K")), {}
    images, maps = _have(batch, "target", "supports"), _have(seen, "disp", "mask")
    if f"{key}cut" in batch:
        cut = _fitting_cut(batch[f"{key}cut"], batch["target"], maps["disp"])
        maps = {
            kind: {s: permuted(x, -torch.div(cut, 2**s, rounding_mode="floor")) for s, x in of_scales.items()}
            for kind, of_scales in maps.items()
        }
    else:
        images = {kind: batch[key + kind] for kind in images}
        apart = {kind: batch[key + kind] for kind in ("A", "depth_factor") if key + kind in batch}
        K = None if K is None else matmul3(apart["A"], K)
    return cast(Batch, images | _have(batch, "T_stereo")), {**maps, **_have(predictions, "Ts"), "K": K}, apart


def _have(entries: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: entries[key] for key in keys if key in entries}


def permuted(x: Tensor, cut: Tensor) -> Tensor:
    """Cut maps x (b c h w) at column and row `cut` (b 2), and let the halves change places; -cut undoes it."""
    h, w = x.shape[-2:]
    columns = (torch.arange(w, device=x.device) + cut[:, :1]) % w
    rows = (torch.arange(h, device=x.device) + cut[:, 1:]) % h
    x = x.gather(3, columns[:, None, None, :].expand_as(x))
    return x.gather(2, rows[:, None, :, None].expand_as(x))


def _fitting_cut(cut: Tensor, image: Tensor, scales: Iterable[int]) -> Tensor:
    """Move a cut (b 2) to a multiple of the largest stride 2**s, so that maps of every scale can be put back."""
    stride = 2 ** max(scales)
    near = torch.div(cut + stride // 2, stride, rounding_mode="floor") * stride
    sides = image.shape[-1], image.shape[-2]
    return torch.stack([near[:, i].clamp(stride, side - stride) for i, side in enumerate(sides)], 1)
