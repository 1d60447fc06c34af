"""How much of the outline of near objects a depth map shows, Depth Pro, arXiv:2410.02073: the truth is a mask."""

from __future__ import annotations

import numpy as np

from trainer.metrics import METRICS, DepthMaps, MapMetricSet, Metric
from trainer.metrics.boundary import THRESHOLDS, pairs, ratios, unclipped
from trainer.runtime.errors import UserError

COVERED = 0.1  # share of a pixel above which it belongs to the foreground


@METRICS.register("boundary_recall")
class BoundaryRecallMetrics(MapMetricSet):
    """Share of the outline of a foreground that is a step towards the camera, Depth Pro (arXiv:2410.02073).

    Needs masks of near objects, the key `foreground`, as `synthetic` has them and data sets for matting. Of a run of
    neighbouring boundaries only the steepest counts, so that blur does not pay. As of `boundary`, the depth is not
    clipped, a factor changes nothing and a shift does. Outlines on the ground, where nothing is farther, count too, so
    a perfect prediction may score below 1. Here pairs with a pixel that is not valid are left out, after
    the steepest were chosen. Not scored again on depth edges.
    """

    source = "Depth Pro, arXiv:2410.02073"
    version = 1
    needs = frozenset({"foreground"})
    repeats_on_edges = False
    metrics = (Metric("boundary_recall", "fraction", higher_is_better=True, title="Boundary recall"),)

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Score an image; {} when no outline lies between valid pixels. Raises UserError without a foreground.

        Recall is averaged over the four directions, then over ten thresholds with these as weights. Directions without
        an outline count as 0, as published.
        """
        if maps.foreground is None:
            raise UserError(
                "the metric set 'boundary_recall' needs masks of near objects (`foreground`), which the items lack:"
                " leave it out, or score the data set synthetic"
            )
        true = [outline & kept for outline, kept in zip(_outlines(maps.foreground), pairs(maps.valid), strict=True)]
        if not any(outline.any() for outline in true):
            return {}
        recall = np.zeros(len(THRESHOLDS))
        found = ratios(unclipped(maps))
        for i, threshold in enumerate(THRESHOLDS):
            thin = [steepest(ratio, threshold) for ratio in found[:2]]
            thin += [steepest(ratio.T, threshold).T for ratio in found[2:]]
            shares = [(t & f).sum() / max(t.sum(), 1) for t, f in zip(true, thin, strict=True)]
            recall[i] = np.mean(shares)
        return {"boundary_recall": float(np.average(recall, weights=THRESHOLDS))}


def steepest(ratio: np.ndarray, threshold: float) -> np.ndarray:
    """Mark the largest of each run of neighbours in a row of ratio (m n) above a threshold; of equals the first."""
    width = ratio.shape[1]
    places = np.flatnonzero(ratio > threshold)
    marked = np.zeros(ratio.size, bool)
    if len(places):
        values = ratio.reshape(-1)[places]
        starts = np.flatnonzero((np.diff(places, prepend=-2) != 1) | (places % width == 0))
        run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(places)))
        largest = np.flatnonzero(values == np.maximum.reduceat(values, starts)[run])
        _, first = np.unique(run[largest], return_index=True)
        marked[places[largest[first]]] = True
    return marked.reshape(ratio.shape)


def _outlines(foreground: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mark where the neighbour of a pixel is foreground and the pixel is not; directions as of `ratios`."""
    near = foreground > COVERED
    left, right, top, bottom = near[:, :-1], near[:, 1:], near[:-1], near[1:]
    return right & ~left, left & ~right, bottom & ~top, top & ~bottom
