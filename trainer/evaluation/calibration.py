"""Measure how the depth of a checkpoint becomes metres, and decide whether that is worth keeping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.items import Items
from trainer.evaluation.predictions import PLAIN, Execution, PredictDepth, evenly_spaced, predictions
from trainer.metrics.calibration import (
    LEAST_DRIVES,
    Calibration,
    CrossValidation,
    PowerLaw,
    Sample,
    cross_validate,
    fit,
)
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.processes import FoundByAll

LEAST_GAIN = 1e-4  # of AbsRel: less is rounding
POWERS = 0.25, 4.0  # beyond these, depth tells hardly anything, or hardly differs
NAMES = {"before": "as it is", "scale": "one scale", "after": "scale and power"}


@dataclass(frozen=True)
class Measured:
    """The laws that were fitted to all images, and what they are worth on drives they have not seen."""

    law: PowerLaw
    scale: PowerLaw  # a = 1
    score: CrossValidation
    images: int
    drives: int

    @property
    def parts(self) -> str:
        """How the images were divided, in words."""
        what = "whole drives" if self.drives >= LEAST_DRIVES else "blocks of images in order"
        return f"{self.images} images of {self.drives} drives, in {self.score.folds} parts of {what}"

    def table(self) -> list[str]:
        """Lines with AbsRel of each law."""
        laws = {"before": "", "scale": f"  {self.scale}", "after": f"  {self.law}"}
        return [f"{NAMES[key]:16} AbsRel {self.score.mean(key):.4f}{laws[key]}" for key in NAMES]

    def calibration(self, scale_only: bool, is_metric: bool, data: Mapping[str, str]) -> Calibration:
        """Return the calibration to keep. Raises UserError, with the numbers, where it does not help; on all processes.

        scale_only: take the single scale. is_metric: whether depth was in metres before, so that a scale must help.
        """
        law, better = (self.scale, "scale") if scale_only else (self.law, "after")
        for worse in (["before"] if is_metric else []) + ([] if scale_only else ["scale"]):
            gain, error = self.score.gain(worse, better)
            if gain <= max(error, LEAST_GAIN):
                instead = ". To take the scale alone: --scale-only" if worse == "scale" else ""
                raise FoundByAll(
                    f"{NAMES[better]} does not help against {NAMES[worse]}: cross-validated AbsRel"
                    f" {self.score.mean(better):.4f} and {self.score.mean(worse):.4f}, a gain of {gain:.4f} with a"
                    f" standard error of {error:.4f} ({self.parts}). Nothing is written{instead}"
                )
        if law.a <= 0:
            raise FoundByAll(f"the best power of depth is {law.a:.3g}: far is taken for near. Nothing is written")
        least, most = POWERS
        if not least <= law.a <= most:
            raise FoundByAll(
                f"the best power of depth is {law.a:.4g} ({law}), not between {least:g} and {most:g}: the network does"
                f" not tell far from near well enough for it (cross-validated AbsRel {self.score.mean('after'):.4f},"
                f" of one scale {self.score.mean('scale'):.4f}; {self.parts}). Nothing is written. Train on, or take"
                " the scale alone: --scale-only"
            )
        means = {key: round(self.score.mean(key), 6) for key in NAMES}
        means["after"] = means["scale"] if scale_only else means["after"]
        return Calibration(law.a, law.b, data, self.images, self.drives, self.score.folds, means)


def measure_metres(
    predict: PredictDepth,
    dataset: Items,
    protocol: DepthProtocol,
    before: PowerLaw,
    how: Execution = PLAIN,
    *,
    limit: int | None = None,
) -> Measured:
    """Fit power laws from predicted to true depth, over all items, and score them on drives they have not seen.

    Args:
        predict: images (b 3 h w) in [0, 1] -> positive depth (b 1 h w) in the unit of the training.
        dataset: items with `target` (3 h w) and `depth` (1 H W) in metres, 0 = none. Its `scene_of` are the drives;
            items without one count as one drive together, so that alike ones are never in both parts.
        protocol: which pixels count, and the limits of depth.
        before: how depth would become metres without.
        limit: take only so many items, spread evenly over the data set.

    Raises UserError when too few items have a true depth.
    """
    indices, mine = evenly_spaced(limit, len(dataset)), []
    for index, _, depth, truth in predictions(predict, dataset, indices, how):
        valid = protocol.valid_pixels(truth)
        if valid.any():
            mine.append(Sample.of(index, dataset.scene_of(index) or "", depth[valid], np.asarray(truth)[valid]))
        how.on_item()
    samples = sorted(how.processes.gather(mine), key=lambda sample: sample.index)
    limits = protocol.min_depth, protocol.max_depth
    score = cross_validate(samples, before, limits) if samples else None
    if score is None:
        raise FoundByAll(
            f"{len(samples)} of {len(indices)} items have a true depth {protocol.where()}, too few to fit metres and to"
            " check them on others: 3 drives are needed, or a drive of 30 images"
        )
    drives = len({sample.drive for sample in samples})
    return Measured(fit(samples), fit(samples, scale_only=True), score, len(samples), drives)
