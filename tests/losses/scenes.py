"""Tiny scenes for the tests of the losses."""

from __future__ import annotations

import torch

from trainer.geometry import pose_matrix
from trainer.geometry.scene import Scene

SIZE = (8, 16)  # pixels (h, w)


def intrinsics(b=1, size=SIZE, dtype=torch.float32):
    h, w = size
    return torch.tensor([[0.6 * w, 0.0, w / 2], [0.0, 1.9 * h, h / 2], [0.0, 0.0, 1.0]], dtype=dtype).expand(b, 3, 3)


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


def plane_scene(support_shift=0.0, target=None, **changes):
    """A textured plane seen by a camera moved sideways, so that its picture is `support_shift` pixels on."""
    h, w = SIZE
    target = torch.rand(1, 3, h, w).double() if target is None else target
    depth = 1 / (0.5 * (10 - 0.01) + 0.01)
    T = torch.eye(4).double()[None, None].clone()
    T[..., 0, 3] = support_shift * depth / (0.6 * w)
    arguments = {
        "target": target,
        "supports": target.roll(round(support_shift), -1).unsqueeze(1),
        "K": intrinsics(dtype=torch.float64),
        "Ts": T,
        "disp": {0: torch.full((1, 1, h, w), 0.5).double()},
        "supp_idxs": (1,),
    }
    return Scene(**{**arguments, **changes})


def stereo_scene(b=2, supp_idxs=(-1, 0), scales=(0, 1), size=SIZE, dtype=torch.float64, **changes):
    """A random scene whose virtual stereo view was predicted; odd items are seen by the right camera."""
    T_stereo = torch.eye(4, dtype=dtype).expand(b, 4, 4).clone()
    T_stereo[:, 0, 3] = torch.tensor([-0.1, 0.1], dtype=dtype).repeat(b)[:b]
    disp_stereo = random_scene(b, scales=scales, size=size, dtype=dtype, seed=1).disp
    changes = {"disp_stereo": disp_stereo, "T_stereo": T_stereo, **changes}
    return random_scene(b, supp_idxs, scales, size, dtype, **changes)


def random_features(b=2, n=2, size=SIZE, levels=5, channels=3, dtype=torch.float64, seed=2):
    """Features of target and supports, shallow to deep; that with stride 4 is the 4th from the end."""
    generator = torch.Generator().manual_seed(seed)
    strides = [2 ** (k + 6 - levels) for k in range(levels)]
    sizes = [(max(size[0] // stride, 1), max(size[1] // stride, 1)) for stride in strides]
    feats = [torch.rand(b, channels, *s, generator=generator, dtype=dtype) for s in sizes]
    return feats, [torch.rand(b, n, channels, *s, generator=generator, dtype=dtype) for s in sizes]


def random_autoencoder(b=2, n=2, scales=(0, 1), size=SIZE, dtype=torch.float64, seed=3):
    """What the objective puts into `extras` when there is an autoencoder."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    feats, supp_feats = random_features(b, n, size, dtype=dtype)
    return {
        "autoenc_imgs": {s: rand(b, 3, size[0] >> s, size[1] >> s) for s in scales},
        "supp_autoenc_imgs": {s: rand(b, n, 3, size[0] >> s, size[1] >> s) for s in scales},
        "autoenc_feats": feats,
        "supp_autoenc_feats": supp_feats,
    }
