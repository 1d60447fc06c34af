"""Depth boundaries between neighbouring pixels: are they where the truth has them? Depth Pro, arXiv:2410.02073."""

from __future__ import annotations

import numpy as np

from trainer.metrics import METRICS, DepthMaps, MapMetricSet, Metric

THRESHOLDS = np.linspace(1.05, 1.25, 10)  # of the ratio of two neighbouring depths; above it is a boundary
NEAREST = 1e-6  # metres: what is nearer, or behind the camera, counts as that near


@METRICS.register("boundary")
class BoundaryMetrics(MapMetricSet):
    """F1 of depth boundaries, Depth Pro (arXiv:2410.02073): two neighbours whose depths differ by 5 to 25 %.

    The depth is not clipped, so an alignment by a factor changes nothing; one with a shift does. Directions without any
    boundary count as 0, as published, so that a perfect prediction scores below 1 where there are such, and 0 in an
    image without boundaries. Here pairs with a pixel that is not valid are left out; the published score has dense
    truth. Not scored again on depth edges.
    """

    source = "Depth Pro, arXiv:2410.02073"
    version = 1
    repeats_on_edges = False
    metrics = (Metric("boundary_f1", "fraction", higher_is_better=True, title="Boundary F1"),)

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Score an image; {} when no two neighbours are valid.

        F1 of the mean precision and the mean recall of the four directions, averaged over ten thresholds with these as
        weights.
        """
        kept = pairs(maps.valid)
        if not any(chosen.any() for chosen in kept):
            return {}
        hits, found, true = counts(unclipped(maps), maps.truth, kept)
        recall, precision = (np.mean(hits / np.maximum(of, 1), axis=0) for of in (true, found))
        return {"boundary_f1": float(np.average(f1(precision, recall), weights=THRESHOLDS))}


def unclipped(maps: DepthMaps) -> np.ndarray:
    """Return aligned depth (H W) as it was before it was clipped."""
    return maps.pred if maps.unclipped is None else maps.unclipped


def ratios(depth: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return by how much a pixel of depth (H W) is farther than its neighbour to the right, left, below, above.

    (H W-1) twice, then (H-1 W) twice: a ratio above 1 means that the neighbour is nearer.
    """
    near = 1 / np.maximum(depth, NEAREST)
    left, right, top, bottom = near[:, :-1], near[:, 1:], near[:-1], near[1:]
    return right / left, left / right, bottom / top, top / bottom


def pairs(valid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mark the pairs of neighbours of which both are valid, valid being (H W) bool; as `ratios`."""
    across, down = valid[:, :-1] & valid[:, 1:], valid[:-1] & valid[1:]
    return across, across, down, down


def counts(pred: np.ndarray, truth: np.ndarray, kept: tuple[np.ndarray, ...]) -> np.ndarray:
    """Count boundaries, by direction and threshold: (3 4 10), those in both depths (H W), in pred, in truth."""
    rows = []
    for ours, theirs, chosen in zip(ratios(pred), ratios(truth), kept, strict=True):
        wanted = chosen & (np.maximum(ours, theirs) > THRESHOLDS[0])  # a few pixels of many
        found, true = (ratio[wanted][:, None] > THRESHOLDS for ratio in (ours, theirs))
        rows.append([np.count_nonzero(marked, axis=0) for marked in (found & true, found, true)])
    return np.array(rows).transpose(1, 0, 2)


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return the harmonic mean, 0 where both are 0."""
    both = precision + recall
    return 2 * precision * recall / np.where(both > 0, both, 1)
