"""How many operators of a training step would launch work on a GPU, counted on a CPU.

What a small step costs on a large card is its launches, some 5 microseconds each, whatever their size.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models_zoo import assembling
from trainer.objective import Objective
from trainer.types import Batch

PARTS = ("networks forward", "losses forward", "backward", "optimizer")
# Memory without contents, and what only the host sees. Views are known from their schema.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "_local_scalar_dense"}
COPIED = "lift_fresh"  # a tensor made of Python numbers: on a GPU a copy, for which the host waits


class LaunchCounter(TorchDispatchMode):
    """Count the operators that launch work, by name, in the block that it is entered for.

    Views, metadata, `detach` and new memory launch nothing. An operator counts once, although some launch several
    kernels (a convolution with its bias, the three of its backward pass), and so does a `_foreach` or fused one, which
    takes some thirty tensors per launch. `waits` counts what makes the host wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.waits += name in ("_local_scalar_dense", COPIED)
        if func.namespace == "aten" and name not in FREE and (name == COPIED or not func.is_view):
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))


def count_launches(objective: Objective, batch: Batch) -> dict[str, int]:
    """Count the launches of one training step by PARTS, with fused Adam; the weights change.

    batch: of one item. On a CPU the losses take their items one by one, on a GPU all at once; for one item that is the
    same, and no launch depends on the number of items.
    """
    optimizer = torch.optim.Adam(objective.parameters(), 1e-4, fused=True)
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # a first step would also make the moments
    optimizer.zero_grad(set_to_none=True)
    counter, ends = LaunchCounter(), [0]

    def end_part() -> None:
        ends.append(counter.launches.total())

    networks = objective.predict

    def predict(batch: Batch) -> dict[str, Any]:
        predictions = networks(batch)
        end_part()
        return predictions

    objective.predict = predict  # type: ignore[method-assign]
    assembling.devices, by_hand = (), assembling.devices  # decoders as on a GPU
    try:
        with counter:
            loss = objective(batch).loss
            end_part()
            loss.backward()
            end_part()
            optimizer.step()
            end_part()
    finally:
        del objective.predict  # the method of the class again
        assembling.devices = by_hand
    return {part: end - start for part, start, end in zip(PARTS, ends, ends[1:], strict=False)}
