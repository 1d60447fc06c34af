"""Nested data as strict JSON and back, exactly; tensors are stored beside it and referred to by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
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


def from_json(text: str, tensors: dict[str, Tensor] | None = None) -> Any:
    """Read back what `to_json` wrote."""
    return decode(json.loads(text), tensors or {}, torch.device("cpu"))


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


def decode(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Undo `encode`. Tensors that were not on the CPU go to `device`."""
    if isinstance(value, list):
        return [decode(v, tensors, device) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        tensor = tensors[value["$tensor"]]
        return tensor if value["on"] == "cpu" else tensor.to(device)
    if "$float" in value:
        return float(value["$float"])
    if "$dtype" in value:
        return getattr(torch, value["$dtype"])
    if "$tuple" in value:
        return tuple(decode(value["$tuple"], tensors, device))
    if "$counter" in value:
        return Counter(dict(value["$counter"]))
    pairs = value["$dict"] if "$dict" in value else value.items()
    return {decode(k, tensors, device): decode(v, tensors, device) for k, v in pairs}
