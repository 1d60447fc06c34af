"""An evaluator written a second time, from the published rules alone: numpy in float32, OpenCV, no code shared."""

from __future__ import annotations

import cv2
import numpy as np


def evaluate(disps, truths, min_depth=1e-3, max_depth=80.0, garg=True, mode="mono"):
    """Score disparities (N h w) against depth maps [(H W)] as tables of KITTI do; returns means and items."""
    items = [
        _item(d, t.astype(np.float32), min_depth, max_depth, garg, mode) for d, t in zip(disps, truths, strict=True)
    ]
    items = [item for item in items if item]
    return {key: float(np.mean([item[key] for item in items])) for key in items[0]}, items


def _item(disp, t, min_depth, max_depth, garg, mode):
    H, W = t.shape
    valid = (t > min_depth) & (t < max_depth)
    if garg:
        crop = np.zeros_like(valid)
        crop[int(0.40810811 * H) : int(0.99189189 * H), int(0.03594771 * W) : int(0.96405229 * W)] = True
        valid &= crop
    if not valid.any():
        return {}
    disp = cv2.resize(disp.astype(np.float32), (W, H), interpolation=cv2.INTER_LINEAR)
    p = np.where(disp == 0, 0, 1 / np.where(disp == 0, 1, disp))
    p, t = p[valid], t[valid]
    ratio = {"mono": np.median(t) / np.median(p), "stereo": 5.4, "none": 1.0}[mode]
    p = np.clip(ratio * p, min_depth, max_depth)
    thresh = np.maximum(t / p, p / t)
    e = 100 * (np.log(p) - np.log(t))
    return {
        "factor": float(ratio),
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "log_rmse": np.sqrt(np.mean((np.log(p) - np.log(t)) ** 2)),
        "d1": np.mean(thresh < 1.25),
        "d2": np.mean(thresh < 1.25**2),
        "d3": np.mean(thresh < 1.25**3),
        "mae": np.mean(np.abs(p - t)),
        "inv_mae": 1000 * np.mean(np.abs(1 / p - 1 / t)),
        "inv_rmse": 1000 * np.sqrt(np.mean((1 / p - 1 / t) ** 2)),
        "log_mae_pct": np.mean(np.abs(e)),
        "log_rmse_pct": np.sqrt(np.mean(e**2)),
        "log_si_pct": np.sqrt(np.mean(e**2) - np.mean(e) ** 2),
        "abs_rel_pct": 100 * np.mean(np.abs(p - t) / t),
        "sq_rel_pct": 100 * np.mean((p - t) ** 2 / t**2),
    }


def velodyne_depth(points, P_rect, R_rect, velo_to_cam, size):
    """Project LiDAR points (n 3) to a depth map by the rules of KITTI's development kit, one point at a time."""
    w, h = size
    depth = np.zeros((h, w))
    for x, y, z in points:
        if x < 0:
            continue
        q = P_rect @ R_rect @ velo_to_cam @ np.array([x, y, z, 1.0])
        if q[2] <= 0:
            continue
        u, v = int(np.round(q[0] / q[2])) - 1, int(np.round(q[1] / q[2])) - 1
        if 0 <= u < w and 0 <= v < h and (depth[v, u] == 0 or q[2] < depth[v, u]):
            depth[v, u] = q[2]
    return depth
