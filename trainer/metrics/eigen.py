"""The seven metrics of Eigen et al., arXiv:1406.2283, the standard for KITTI depth."""

from __future__ import annotations

import numpy as np

from trainer.metrics import METRICS, Metric, MetricSet


@METRICS.register("eigen")
class EigenMetrics(MetricSet):
    """AbsRel, SqRel, RMSE, LogRMSE and the three ratio accuracies of Eigen et al. (arXiv:1406.2283)."""

    source = "Eigen et al., arXiv:1406.2283"
    version = 1
    metrics = (
        Metric("abs_rel", "fraction", legacy="AbsRel", title="Abs Rel", pooled="mean"),
        Metric("sq_rel", "m", legacy="SqRel", title="Sq Rel", pooled="mean"),
        Metric("rmse", "m", legacy="RMSE", title="RMSE", pooled="rms"),
        Metric("log_rmse", "ln m", legacy="LogRMSE", title="RMSE log", pooled="rms"),
        Metric("d1", "fraction", higher_is_better=True, legacy=r"$\delta < 1.25$", title="δ < 1.25", pooled="mean"),
        Metric("d2", "fraction", higher_is_better=True, legacy=r"$\delta < 1.25^2$", title="δ < 1.25²", pooled="mean"),
        Metric("d3", "fraction", higher_is_better=True, legacy=r"$\delta < 1.25^3$", title="δ < 1.25³", pooled="mean"),
    )

    def compute(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Score predicted against true depth, both (n,) in metres, positive.

        `sq_rel` divides by the truth, not by its square: historically wrong, kept because every table uses it.
        """
        error = pred - truth
        ratio = np.maximum(pred / truth, truth / pred)
        return {
            "abs_rel": float(np.mean(np.abs(error) / truth)),
            "sq_rel": float(np.mean(error**2 / truth)),
            "rmse": float(np.sqrt(np.mean(error**2))),
            "log_rmse": float(np.sqrt(np.mean((np.log(pred) - np.log(truth)) ** 2))),
            "d1": float(np.mean(ratio < 1.25)),
            "d2": float(np.mean(ratio < 1.25**2)),
            "d3": float(np.mean(ratio < 1.25**3)),
        }
