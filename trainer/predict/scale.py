"""What the numbers of a depth map mean: metres, and by whose word, or relative depth."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.metrics.calibration import PowerLaw
from trainer.runtime.errors import UserError
from trainer.tables.results import read_file
from trainer.types import METRES_PER_UNIT, STEREO_BASELINE_M, STEREO_BASELINE_UNITS

Unit = Literal["m", "relative"]


@dataclass(frozen=True)
class Scale:
    """Factor from the depth of a network, raised to `exponent`, to `unit`, and where both come from.

    `unit` is "m", metres, or "relative": depth up to one factor that is the same within a picture, and not known.
    """

    factor: float
    unit: Unit
    origin: str  # a phrase for legends, metadata and model cards
    exponent: float = 1.0  # other than 1 by a calibration alone

    @property
    def disparity_unit(self) -> str:
        """Unit of inverse depth."""
        return "1/m" if self.unit == "m" else "relative"

    def __str__(self) -> str:
        return f"{'metres' if self.unit == 'm' else 'relative depth'} ({self.origin})"


RELATIVE = Scale(1.0, "relative", "trained on video alone, which leaves the scale open")
AFFINE = Scale(1.0, "relative", "published weights of disparity up to scale and shift, so its shape is not true either")
METRIC = Scale(1.0, "m", "published weights that predict metres")
STEREO = Scale(
    METRES_PER_UNIT,
    "m",
    f"trained on stereo pairs: x {METRES_PER_UNIT:.4g}, a baseline of {STEREO_BASELINE_M} m over "
    f"{STEREO_BASELINE_UNITS} units",
)


def scale_of(
    supp_idxs: Sequence[int],
    given: float | str | Path | None = None,
    activation: str = "sigmoid",
    known: tuple[PowerLaw, str] | None = None,
) -> Scale:
    """Return the scale of a network trained with the supports `supp_idxs`.

    activation: of the depth network; without supports it says what published weights were trained for.
    known: what the checkpoint knows of metres, as `checkpoint.units` says; wins over supports and activation.
    given: None for what the training says: metres when the supports hold the stereo pair (0), else relative depth; a
        number, metres per unit of the network, known from a calibration; or a result file of `evaluate`, whose images
        say how far the truth is from the prediction (median over the images of the ratio of medians).

    Raises UserError for a number that is not positive and finite, and a file without ratios.
    """
    if given is None and known is not None:
        law, origin = known
        return Scale(law.factor, "m", origin, law.a)
    if given is None and not supp_idxs and activation in ("relu", "metric"):
        return METRIC if activation == "metric" else AFFINE
    if given is None:
        return STEREO if 0 in supp_idxs else RELATIVE
    try:
        factor = float(str(given))
    except ValueError:
        return _measured(Path(str(given)))
    if not (math.isfinite(factor) and factor > 0):
        raise UserError(f"scale: must be metres per unit of the network, a positive number, got {given}")
    return Scale(factor, "m", f"calibrated: x {factor:.6g}, given by the user")


def _measured(path: Path) -> Scale:
    if not os.path.isfile(path):
        raise UserError(
            f"scale: {str(path)!r} is neither a number (metres per unit of the network) nor a result file of `evaluate`"
        )
    result = read_file(path)
    items = result.get("items") if isinstance(result, Mapping) else None
    ratios = [item.get("truth_over_prediction") for item in items or () if isinstance(item, Mapping)]
    known = [ratio for ratio in ratios if isinstance(ratio, float) and math.isfinite(ratio) and ratio > 0]
    if not known:
        raise UserError(f"scale: {path}: holds no ratios of truth and prediction. Evaluate the checkpoint again")
    ratio = float(np.median(known))
    spread = float(np.std(known)) / ratio
    a, b = _law_of(result)
    origin = f"measured: x {ratio:.4g}, median over {len(known)} images of {path.name}, spread {spread:.1%}"
    return Scale(
        ratio * math.exp(b),
        "m",
        origin + (f", on top of its calibration: {PowerLaw(a, b)}" if (a, b) != (1, 0) else ""),
        a,
    )


def _law_of(result: Mapping[str, Any]) -> tuple[float, float]:
    """Return a and b of the power law by which the predictions of a result had been made metres; 1, 0 without one."""
    try:
        metres = result["protocol"]["checkpoint"]["metres"]
        return float(metres["a"]), float(metres["b"])
    except (KeyError, TypeError, ValueError):
        return 1.0, 0.0
