"""Tiny scenes for the tests of the losses."""

from __future__ import annotations

import torch

from trainer.geometry import pose_matrix
from trainer.scene import Scene

SIZE = (8, 16)  # pixels (h, w)


def intrinsics(b=1, size=SIZE, dtype=torch.float32):
    h, w = size
    return torch.tensor([[0.6 * w, 0.0, w / 2], [0.0, 1.9 * h, h / 2], [0.0, 0.0, 1.0]], dtype=dtype).expand(
        b, 3, 3
    )


def random_scene(b=2, supp_idxs=(-1, 1), scales=(0, 1, 2), size=SIZE, dtype=torch.float32, seed=0, **changes):
    """A scene of random images, disparities and small motions; `changes` replace arguments of `Scene`."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    n = len(supp_idxs)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    arguments = {
        "target": rand(b, 3, h, w),
        "supports": rand(b, n, 3, h, w),
        "K": intrinsics(b, size, dtype),
        "Ts": pose_matrix(0.1 * rand(b, n, 3) - 0.05, 0.4 * rand(b, n, 3) - 0.2),
        "disp": {s: rand(b, 1, h >> s, w >> s) for s in scales},
        "supp_idxs": supp_idxs,
    }
    return Scene(**{**arguments, **changes})
