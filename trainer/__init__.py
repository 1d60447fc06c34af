"""A trainer for self-supervised monocular depth: data, geometry, losses and the loop around Accelerate.

    import trainer

    cfg = trainer.load_config("synthetic/monodepth2_MS", "synthetic/default")
    objective = trainer.build_objective(cfg)                           # networks and losses, untrained
    objective = trainer.load_objective("models/synthetic/monodepth2_MS/42")     # of a run, in eval mode
    depth = objective.predict_depth(images)                            # (b 3 h w) RGB in [0, 1] -> (b 1 h w)

Importing this package is cheap; torch is loaded with the first of these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.build import build_objective
    from trainer.checkpoint import load_objective
    from trainer.config import load_config

__all__ = ["__version__", "build_objective", "load_config", "load_objective"]
__version__ = "0.1.0"

_HOMES = {
    "build_objective": "trainer.build", "load_config": "trainer.config", "load_objective": "trainer.checkpoint",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
