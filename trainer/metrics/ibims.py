"""How sharp and how true depth edges are, and on which side of 10 m things stand: iBims-1, arXiv:1805.01328."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from trainer.metrics import METRICS, DepthMaps, MapMetricSet, Metric
from trainer.runtime.optional import require

PLANE_M = 10.0  # distance of the plane that directed errors refer to
FAR_PIXELS = 10.0  # a predicted edge that far from every true one is none of them; the score without any edge


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
        Metric("dir_acc", "%", higher_is_better=True, legacy="DirAcc"),
        Metric("dir_near", "%", legacy="Dir (-)"),
        Metric("dir_far", "%", legacy="Dir (+)"),
        Metric("edge_accuracy", "pixels", legacy="EdgeAcc"),
        Metric("edge_completeness", "pixels", legacy="EdgeComp"),
    )

    def __init__(self) -> None:
        self._canny = require("skimage.feature", "eval", "the metric set 'ibims'").canny

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Score an image whose scored pixels are those on true depth edges."""
        near_pred, near_truth = (depth[maps.valid] <= PLANE_M for depth in (maps.pred, maps.truth))
        found = self._canny(log_depth(maps.pred), sigma=1)
        to_truth = distance_transform_edt(~maps.scored)[found]
        to_truth = to_truth[to_truth < FAR_PIXELS]
        matched = len(to_truth) > 0
        return {
            "dir_acc": float(100 * np.mean(near_pred == near_truth)),
            "dir_near": float(100 * np.mean(near_pred & ~near_truth)),
            "dir_far": float(100 * np.mean(~near_pred & near_truth)),
            "edge_accuracy": float(np.mean(to_truth)) if matched else FAR_PIXELS,
            "edge_completeness": float(np.mean(distance_transform_edt(~found)[maps.scored]))
            if matched
            else FAR_PIXELS,
        }


def log_depth(depth: np.ndarray) -> np.ndarray:
    """Natural logarithm of depth (H W) in metres; 0, which is no depth, stays 0."""
    return np.log(depth, out=np.zeros(depth.shape), where=depth > 0)
