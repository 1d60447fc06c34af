"""Distances between the point clouds of predicted and true depth (arXiv:2203.08122)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from trainer.metrics import METRICS, DepthMaps, MapMetricSet, Metric
from trainer.runtime.errors import UserError

NEGLIGIBLE = 1e-3  # precision and recall below it make F-score and IoU unstable


@METRICS.register("pointcloud")
class PointcloudMetrics(MapMetricSet):
    """Chamfer distance, F-score and IoU of the point clouds behind two depth maps (arXiv:2203.08122).

    F-score and IoU within 10 and 20 cm. Needs the intrinsics of the image.
    """

    source = "arXiv:2203.08122"
    version = 1
    needs = frozenset({"K"})
    metrics = (
        Metric("chamfer", "m", legacy="Chamfer", title="Chamfer", pooled="mean"),
        Metric("f_score_10", "%", higher_is_better=True, legacy="F-Score", title="F-Score 10"),
        Metric("iou_10", "%", higher_is_better=True, legacy="IoU", title="IoU 10"),
        Metric("f_score_20", "%", higher_is_better=True, legacy="F-Score-20", title="F-Score 20"),
        Metric("iou_20", "%", higher_is_better=True, legacy="IoU-20", title="IoU 20"),
    )

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Compare the points of the scored pixels. Raises UserError when the image has no intrinsics."""
        if maps.K is None:
            raise UserError("the metric set 'pointcloud' needs intrinsics, which the items lack: leave it out")
        pred, truth = (back_project(depth, maps.scored, maps.K) for depth in (maps.pred, maps.truth))
        threads = torch.get_num_threads()  # as launchers set them; a dense map takes seconds on one
        to_truth, _ = cKDTree(truth).query(pred, workers=threads)
        to_pred, _ = cKDTree(pred).query(truth, workers=threads)
        f_10, iou_10 = overlap(to_truth, to_pred, 0.1)
        f_20, iou_20 = overlap(to_truth, to_pred, 0.2)
        return {
            "chamfer": float(np.mean(to_truth) + np.mean(to_pred)),
            "f_score_10": 100 * f_10,
            "iou_10": 100 * iou_10,
            "f_score_20": 100 * f_20,
            "iou_20": 100 * iou_20,
        }


def back_project(depth: np.ndarray, scored: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Back-project the scored pixels of depth (H W) to points (n 3): depth * K^-1 (u, v, 1), pixels at integers."""
    v, u = np.nonzero(scored)
    pixels = np.stack([u, v, np.ones_like(u)]).astype(np.float64)  # (3 n)
    return (np.linalg.solve(K.astype(np.float64), pixels) * depth[scored]).T


def overlap(to_truth: np.ndarray, to_pred: np.ndarray, within: float) -> tuple[float, float]:
    """Return F-score and IoU, fractions, of points whose nearest neighbour is less than `within` metres away.

    to_truth (n,) are the distances of predicted points, to_pred (m,) those of true ones. If next to nothing matches,
    both are the precision.
    """
    precision, recall = float(np.mean(to_truth < within)), float(np.mean(to_pred < within))
    if precision < NEGLIGIBLE and recall < NEGLIGIBLE:
        return precision, precision
    product = precision * recall
    return 2 * product / (precision + recall), product / (precision + recall - product)
