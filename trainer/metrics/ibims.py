"""Accuracy and completeness of depth edges, and directed depth errors: iBims-1, arXiv:1805.01328."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from trainer.metrics import METRICS, DepthMaps, MapMetricSet, Metric
from trainer.runtime.optional import require

PLANE_M = 10.0  # distance of the plane that directed errors refer to
FAR_PIXELS = 10.0  # predicted edges that far from every true one do not count; the score without any edge


@METRICS.register("ibims")
class IbimsMetrics(MapMetricSet):
    """Directed errors and accuracy, completeness of depth edges, iBims-1 (arXiv:1805.01328).

    Predicted edges are those of Canny in log depth, sigma 1. Needs a data set with true edges, and scikit-image.
    Directed errors count valid pixels only; `edge_completeness` does not cut distances at 10 pixels, as
    the toolbox of iBims does, so that numbers compare with arXiv:2208.01489.
    """

    source = "iBims-1, arXiv:1805.01328; arXiv:2208.01489"
    version = 1
    needs = frozenset({"edges"})
    metrics = (
        Metric("dir_acc", "%", higher_is_better=True, legacy="DirAcc", title="DDE"),
        Metric("dir_near", "%", legacy="Dir (-)", title="DDE near"),
        Metric("dir_far", "%", legacy="Dir (+)", title="DDE far"),
        Metric("edge_accuracy", "pixels", legacy="EdgeAcc", title="DBE accuracy"),
        Metric("edge_completeness", "pixels", legacy="EdgeComp", title="DBE completeness"),
    )

    def __init__(self) -> None:
        self._canny = require("skimage.feature", "eval", "the metric set 'ibims'").canny

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Score an image whose scored pixels are those on true depth edges."""
        near_pred, near_truth = (depth[maps.valid] <= PLANE_M for depth in (maps.pred, maps.truth))
        found = self._canny(log_depth(maps.pred), sigma=1)
        to_truth = distance_transform_edt(~maps.scored)[found]
        to_truth = to_truth[to_truth < FAR_PIXELS]
        completeness = accuracy = FAR_PIXELS
        if len(to_truth):
            accuracy = float(np.mean(to_truth))
            completeness = float(np.mean(distance_transform_edt(~found)[maps.scored]))
        return {
            "dir_acc": float(100 * np.mean(near_pred == near_truth)),
            "dir_near": float(100 * np.mean(near_pred & ~near_truth)),
            "dir_far": float(100 * np.mean(~near_pred & near_truth)),
            "edge_accuracy": accuracy,
            "edge_completeness": completeness,
        }


def log_depth(depth: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of depth (H W) in metres; 0, a missing depth, stays 0."""
    return np.log(depth, out=np.zeros(depth.shape), where=depth > 0)
