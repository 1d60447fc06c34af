"""What a checkpoint knows about metres, beside the stereo pairs that it was trained on."""

from __future__ import annotations

from typing import Any

from trainer.checkpoint.saved import Saved
from trainer.config import Config
from trainer.losses import LOSSES
from trainer.metrics.calibration import PowerLaw
from trainer.types import METRES_PER_UNIT


def metres_of(saved: Saved, config: Config) -> tuple[PowerLaw, str] | None:
    """Return how depth of a network becomes metres, and a phrase on where that comes from; None where that is open.

    The calibration in the file wins. Then, in a training without stereo pairs, losses that fix the scale make a unit
    5.4 m.
    """
    if saved.calibration is not None:
        return saved.calibration, saved.calibration.words
    fixing = [name for name, kwargs in config.loss.items() if _fixes_scale(name, kwargs)]
    if 0 in config.supp_idxs or not fixing:
        return None
    return PowerLaw.scale(METRES_PER_UNIT), f"trained with {' and '.join(fixing)}: x {METRES_PER_UNIT:.4g}"


def _fixes_scale(name: str, kwargs: dict[str, Any]) -> bool:
    weight = kwargs.get("weight", 1.0)
    is_used = any(weight.values()) if isinstance(weight, dict) else bool(weight)
    return is_used and name in LOSSES and getattr(LOSSES.get(name), "fixes_scale", False)
