"""Depth boundaries as the evaluation of MoGe-2 scores them, arXiv:2507.02546: another number than that of Depth Pro."""

from __future__ import annotations

import numpy as np

from trainer.metrics import METRICS, DepthMaps, MapMetricSet, Metric
from trainer.metrics.boundary import THRESHOLDS, counts, f1, pairs, unclipped


@METRICS.register("boundary_f1_moge")
class BoundaryMogeMetrics(MapMetricSet):
    """F1 of depth boundaries as in the evaluation of MoGe-2 (arXiv:2507.02546), radius 1.

    Unlike `boundary` (arXiv:2410.02073), it counts the boundaries of all four directions together, and a threshold of
    25 % weighs five times as much as one of 5 %. Of aligned depth that is not clipped, and between valid pixels only.
    An image without any boundary scores 0. Not scored again on depth edges.
    """

    source = "MoGe-2, arXiv:2507.02546"
    version = 1
    repeats_on_edges = False
    metrics = (Metric("boundary_f1_moge", "fraction", higher_is_better=True, title="Boundary F1 (MoGe)"),)

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Score an image; {} when no two neighbours are valid."""
        kept = pairs(maps.valid)
        if not any(chosen.any() for chosen in kept):
            return {}
        hits, found, true = counts(unclipped(maps), maps.truth, kept).sum(axis=1)
        score = f1(hits / np.maximum(found, 1), hits / np.maximum(true, 1))
        return {"boundary_f1_moge": float(np.average(score, weights=THRESHOLDS - 1))}
