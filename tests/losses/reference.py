"""The losses once more, in numpy, slowly: pixel by pixel, straight from the formulas, in float64."""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float32).eps)


def photometric(name, p, t):
    """Error (h w) of images (c h w)."""
    if name == "l1":
        return np.abs(p - t).mean(0)
    if name == "l2":
        return np.sqrt(np.maximum(((p - t) ** 2).sum(0), EPS))
    return 0.85 * ssim_error(p, t).mean(0) + 0.15 * np.abs(p - t).mean(0)


def ssim_error(x, y):
    """(1 - SSIM) / 2, clamped, of images (c h w): (c h w)."""
    c, h, w = x.shape
    out = np.zeros_like(x)
    px, py = (np.pad(a, ((0, 0), (1, 1), (1, 1)), mode="reflect") for a in (x, y))
    for k in range(c):
        for i in range(h):
            for j in range(w):
                a, b = px[k, i : i + 3, j : j + 3], py[k, i : i + 3, j : j + 3]
                ma, mb = a.mean(), b.mean()
                va, vb, cov = (a * a).mean() - ma**2, (b * b).mean() - mb**2, (a * b).mean() - ma * mb
                ssim = (2 * ma * mb + 0.01**2) * (2 * cov + 0.03**2)
                ssim /= (ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)
                out[k, i, j] = min(max((1 - ssim) / 2, 0), 1)
    return out


def bilinear(image, u, v):
    """Colour (c,) of image (c h w) at (u, v), pixel centres at integers, border extended."""
    h, w = image.shape[1:]
    u, v = min(max(u, 0), w - 1), min(max(v, 0), h - 1)
    u0, v0 = min(int(u), w - 2), min(int(v), h - 2)
    a, b = u - u0, v - v0
    top = (1 - a) * image[:, v0, u0] + a * image[:, v0, u0 + 1]
    bottom = (1 - a) * image[:, v0 + 1, u0] + a * image[:, v0 + 1, u0 + 1]
    return (1 - b) * top + b * bottom


def resize(x, size):
    """Bilinear (c h w) -> (c *size), pixel areas aligned (`align_corners=False`), no antialiasing."""
    h, w = x.shape[1:]
    out = np.zeros((len(x), *size))
    for i in range(size[0]):
        for j in range(size[1]):
            out[:, i, j] = bilinear(x, (j + 0.5) * w / size[1] - 0.5, (i + 0.5) * h / size[0] - 0.5)
    return out


def depth_of(disp, near=0.1, far=100.0):
    """Depth of sigmoid disparity."""
    return 1 / (disp * (1 / near - 1 / far) + 1 / far)


def warp(image, depth, T, K):
    """Image (c h w) as seen from the target with depth (h w), motion T (4 4), intrinsics K (3 3)."""
    h, w = depth.shape
    out, K_inv = np.zeros_like(image), np.linalg.inv(K)
    for v in range(h):
        for u in range(w):
            point = T[:3, :3] @ (depth[v, u] * (K_inv @ np.array([u, v, 1.0]))) + T[:3, 3]
            x, y = (K @ point)[:2] / max(point[2], 0.1)
            out[:, v, u] = bilinear(image, x, y)
    return out


def reconstruction(
    target, supports, K, Ts, disps, *, name="ssim", use_min=False, automask=False, masks=None, mask_name=None
):
    """One item, no noise: target (3 h w), supports (n 3 h w), disps {s: (h w)}, masks {s: (n h w)}"""
    size = target.shape[1:]
    reduce = np.min if use_min else np.mean
    means = []
    for s, disp in disps.items():
        depth = depth_of(resize(disp[None], size)[0])
        mask = resize(masks[s], size) if masks is not None else None

        def weigh(errors, mask=mask):
            if mask_name == "explainability":
                return errors * mask
            return errors * np.exp(-mask) + mask if mask_name == "uncertainty" else errors

        warped = [warp(image, depth, T, K) for image, T in zip(supports, Ts, strict=True)]
        error = reduce(weigh(np.stack([photometric(name, p, target) for p in warped])), axis=0)
        if automask:
            still = reduce(weigh(np.stack([photometric(name, p, target) for p in supports])), axis=0)
            error = np.minimum(error, still)
        means.append(error.mean())
    return np.mean(means)


def smooth_kernel(x):
    """3x3 Gaussian of sigma 1 on (c h w), border mirrored."""
    k = np.exp(-np.array([1.0, 0.0, 1.0]) / 2)
    kernel = np.outer(k, k) / k.sum() ** 2
    p, out = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="reflect"), np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = (p[:, i : i + 3, j : j + 3] * kernel).sum((1, 2))
    return out


def differences(x, use_blur):
    """|x - right neighbour| and |x - lower neighbour| of (c h w), zero at the end."""
    x = smooth_kernel(x) if use_blur else x
    dx, dy = np.zeros_like(x), np.zeros_like(x)
    dx[:, :, :-1] = np.abs(x[:, :, :-1] - x[:, :, 1:])
    dy[:, :-1] = np.abs(x[:, :-1] - x[:, 1:])
    return dx, dy


def smoothness(image, disps, use_edges=False, use_laplacian=False, use_blur=False):
    """Value for one item: image (3 h w), disps {s: (h_s w_s)}."""
    terms = []
    for s, disp in disps.items():
        gradients = []
        for x in ((disp / max(disp.mean(), EPS))[None], resize(image, disp.shape)):
            gx, gy = differences(x, use_blur)
            if use_laplacian:
                gx, gy = differences(gx, use_blur)[0], differences(gy, use_blur)[1]
            gradients.append((gx.mean(0), gy.mean(0)))
        (gx, gy), (ix, iy) = gradients
        if use_edges:
            gx, gy = gx * np.exp(-ix), gy * np.exp(-iy)
        terms.append((gx.mean() + gy.mean()) / 2**s)
    return np.mean(terms)
