"""Nested data as strict JSON and back, exactly; tensors are stored beside it and referred to by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_json(value: Any, tensors: dict[str, Tensor] | None = None, prefix: str = "") -> str:
    """Write nested data as strict JSON: any float (NaN too), tuples, counters, keys of any type.

    Tensors are added to `tensors` under `<prefix>.<place>`. Raises TypeError naming the place of anything else, and of
    a tensor without `tensors`.
    """
    return json.dumps(encode(value, prefix, tensors), allow_nan=False)


def from_json(text: str, tensors: Mapping[str, Tensor] | None = None, prefix: str = "") -> Any:
    """Read back what `to_json` wrote with the same prefix. Raises ValueError, KeyError, ... for anything else."""
    return decode(json.loads(text), tensors or {}, torch.device("cpu"), prefix)


def encode(value: Any, place: str, tensors: dict[str, Tensor] | None) -> Any:
    """Turn nested data at `place` into what JSON can hold, as `to_json` does."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor) and tensors is not None:
        tensors[place] = value.detach()
        return {"$tensor": place, "on": value.device.type}
    if isinstance(value, np.generic):
        return encode(value.item(), place, tensors)
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        items = [encode(v, f"{place}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        pairs = [(k, encode(v, f"{place}.{k}", tensors)) for k, v in value.items()]
        if isinstance(value, Counter):
            return {"$counter": pairs}
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return dict(pairs)
        return {"$dict": [(encode(k, place, tensors), v) for k, v in pairs]}
    raise TypeError(f"{place}: {value!r} of type {type(value).__name__} cannot be stored in a checkpoint")


def decode(value: Any, tensors: Mapping[str, Tensor], device: torch.device, place: str) -> Any:
    """Undo `encode` at the same place. Tensors that were not on the CPU go to `device`.

    Raises ValueError, TypeError, KeyError, ... for what `encode` does not make, a tensor of another place included.
    """

    def inside(value: Any, key: Any) -> Any:
        return decode(value, tensors, device, f"{place}.{key}")

    if isinstance(value, list):
        return [inside(v, i) for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {k: inside(v, k) for k, v in value.items()}
    content = value[tag]
    if tag == "$tensor":
        if content != place or not isinstance(value["on"], str):
            raise ValueError(f"{place} refers to {content!r}")
        return tensors[place] if value["on"] == "cpu" else tensors[place].to(device)
    if len(value) > 1:
        raise ValueError(f"{place} has keys beside {tag}")
    if tag == "$float":
        return float(content)
    if tag == "$dtype" and isinstance(dtype := getattr(torch, content, None), torch.dtype):
        return dtype
    if tag == "$tuple" and isinstance(content, list):
        return tuple(decode(content, tensors, device, place))
    if tag == "$counter":
        return Counter({key: inside(v, key) for key, v in content})
    if tag == "$dict":
        keys = [decode(key, tensors, device, place) for key, _ in content]
        return {key: inside(v, key) for key, (_, v) in zip(keys, content, strict=True)}
    raise ValueError(f"{place} is {tag} {content!r}")


def referred(value: Any) -> Iterator[str]:
    """Yield the names of the tensors that encoded data refers to."""
    if isinstance(value, dict) and "$tensor" in value:
        yield value["$tensor"]
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from referred(part)


def check_kind(value: Any, built: Any, place: str) -> None:
    """Raise ValueError unless saved data at `place` is of the kind of what was `built`: number, list as long, ...

    Keys that only one of two mappings has are left alone, and None says nothing about the kind.
    """
    same = built is None or _kind(value) == _kind(built)
    if same and isinstance(built, Mapping):
        for key in built.keys() & value.keys():
            check_kind(value[key], built[key], f"{place}.{key}")
    elif same and isinstance(built, (list, tuple)):
        same = len(value) == len(built)
        for i, pair in enumerate(zip(value, built, strict=False)):
            check_kind(*pair, f"{place}.{i}")
    elif same and isinstance(built, Tensor):
        same = getattr(value, "shape", torch.Size()) == built.shape
    if not same:
        raise ValueError(f"{place} is {value!r}"[:200])


def _kind(value: Any) -> type:
    if value is None or isinstance(value, bool):  # options that are on, off or left to torch
        return bool
    if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0):
        return float
    return next((kind for kind in (Mapping, list, tuple, Tensor) if isinstance(value, kind)), type(value))
