"""The metrics of the KITTI depth benchmark (Uhrig et al., arXiv:1708.06500), in metres, 1/km and per cent."""

from __future__ import annotations

import numpy as np

from trainer.metrics import METRICS, Metric, MetricSet


@METRICS.register("benchmark")
class BenchmarkMetrics(MetricSet):
    """Errors of depth, inverse depth and log depth of the KITTI benchmark (arXiv:1708.06500).

    Beside them its relative errors in per cent, `sq_rel_pct` with the truth squared. Reported so by
    arXiv:2208.01489.
    """

    source = "Uhrig et al., arXiv:1708.06500; arXiv:2208.01489"
    version = 1
    metrics = (
        Metric("mae", "m", legacy="MAE", title="MAE", pooled="mean"),
        Metric("rmse", "m", legacy="RMSE", title="RMSE", pooled="rms"),
        Metric("inv_mae", "1/km", legacy="InvMAE", title="iMAE", pooled="mean"),
        Metric("inv_rmse", "1/km", legacy="InvRMSE", title="iRMSE", pooled="rms"),
        Metric("log_mae_pct", "100 ln m", legacy="LogMAE", title="MAE log", pooled="mean"),
        Metric("log_rmse_pct", "100 ln m", legacy="LogRMSE", title="RMSE log", pooled="rms"),
        Metric("log_si_pct", "100 ln m", legacy="LogSI", title="SI log"),
        Metric("abs_rel_pct", "%", legacy="AbsRel", title="Abs Rel", pooled="mean"),
        Metric("sq_rel_pct", "%", legacy="SqRel", title="Sq Rel", pooled="mean"),
    )

    def compute(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        error = pred - truth
        inverse = 1000 * (1 / pred - 1 / truth)
        log = 100 * (np.log(pred) - np.log(truth))
        return {
            "mae": float(np.mean(np.abs(error))),
            "rmse": float(np.sqrt(np.mean(error**2))),
            "inv_mae": float(np.mean(np.abs(inverse))),
            "inv_rmse": float(np.sqrt(np.mean(inverse**2))),
            "log_mae_pct": float(np.mean(np.abs(log))),
            "log_rmse_pct": float(np.sqrt(np.mean(log**2))),
            "log_si_pct": float(np.std(log)),  # never the root of a negative number
            "abs_rel_pct": float(100 * np.mean(np.abs(error) / truth)),
            "sq_rel_pct": float(100 * np.mean(error**2 / truth**2)),
        }
