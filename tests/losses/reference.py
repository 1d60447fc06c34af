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


def warp(image, depth, T, K, legacy=False):
    """Image (c h w) as seen from the target with depth (h w), motion T (4 4), intrinsics K (3 3)."""
    h, w = depth.shape
    out, K_inv = np.zeros_like(image), np.linalg.inv(K)
    for v in range(h):
        for u in range(w):
            point = T[:3, :3] @ (depth[v, u] * (K_inv @ np.array([u, v, 1.0]))) + T[:3, 3]
            x, y = (K @ point)[:2] / max(point[2], 0.1)
            if legacy:  # normalised by the distance of the outermost pixel centres, read as that of the edges
                x, y = x / (w - 1) * w - 0.5, y / (h - 1) * h - 0.5
            out[:, v, u] = bilinear(image, x, y)
    return out


def weigh(errors, mask, mask_name):
    """Errors (n h w) under a mask (n h w)."""
    if mask_name == "explainability":
        return errors * mask
    return errors * np.exp(-mask) + mask if mask_name == "uncertainty" else errors


def reconstruct(
    target, supports, K, Ts, depth, *, name="ssim", use_min=False, automask=False, mask=None, mask_name=None,
    legacy=False,
):  # fmt: skip
    """One item, one depth (h w), no noise: target (c h w), supports (n c h w), mask (n h w)."""
    reduce = np.min if use_min else np.mean

    def error(images):
        return reduce(
            weigh(np.stack([photometric(name, p, target) for p in images]), mask, mask_name), axis=0
        )

    warped = error([warp(image, depth, T, K, legacy) for image, T in zip(supports, Ts, strict=True)])
    return (np.minimum(warped, error(supports)) if automask else warped).mean()


def reconstruction(target, supports, K, Ts, disps, *, masks=None, **options):
    """One item: images, disps {s: (h_s w_s)}, masks {s: (n h_s w_s)}; options of `reconstruct`."""
    size = target.shape[1:]
    return np.mean(
        [
            reconstruct(
                target, supports, K, Ts, depth_of(resize(disp[None], size)[0]),
                mask=None if masks is None else resize(masks[s], size), **options,
            )
            for s, disp in disps.items()
        ]
    )  # fmt: skip


def feature_reconstruction(feat, supp_feats, K, Ts, disp, *, mask=None, **options):
    """One item: feat (c h/4 w/4), supp_feats (n c h/4 w/4), disp (h w), mask (n h w)."""
    supports = np.stack([resize(f, disp.shape) for f in supp_feats])
    return reconstruct(resize(feat, disp.shape), supports, K, Ts, depth_of(disp), mask=mask, **options)


def autoencoder_reconstruction(images, predictions, name="ssim"):
    """Images (m 3 h w), targets and supports alike; predictions {s: (m 3 h_s w_s)}."""
    size = images.shape[2:]
    errors = [
        photometric(name, resize(p, size), t)
        for ps in predictions.values()
        for p, t in zip(ps, images, strict=True)
    ]
    return np.mean(errors)


def regression(name, p, t, valid=None, c=None):
    """Mean error of all valid pixels of p and t, any shape, one by one; c replaces berHu's threshold."""
    valid = np.ones_like(p, dtype=bool) if valid is None else valid
    ds = [abs(a - b) for a, b, v in zip(p.flat, t.flat, valid.flat, strict=True) if v]
    if not ds:
        return 0.0
    c = 0.2 * max(ds) if c is None else c
    berhu = [d if d <= c else (d * d + c * c) / (2 * c) for d in ds]
    return np.mean({"l1": ds, "log_l1": np.log(1 + np.array(ds)), "berhu": berhu}[name])


def stereo_consistency(name, disps, disps_stereo, K, T, wrong_pairs=False, near=0.1, far=100.0):
    """A batch: {s: (b h_s w_s)} of both views, K (b 3 3), T (b 4 4); `wrong_pairs` compares a map with itself."""
    a, b = [], []
    size = disps[0].shape[1:]
    for s in disps:
        for left, right, k, t in zip(disps[s], disps_stereo[s], K, T, strict=True):
            left, right = resize(left[None], size), resize(right[None], size)
            here = warp(right, depth_of(left[0], near, far), t, k)
            there = warp(left, depth_of(right[0], near, far), np.linalg.inv(t), k)
            a += [right, left] if wrong_pairs else [left, right]
            b += [here, there]
    return regression(name, np.stack(a), np.stack(b))


def feature_regulariser(kind, feats, images, use_edges=False):
    """feats [(m c_k h_k w_k)], images (m 3 h w): the mean over levels for one kind of image."""
    terms = []
    for k, feat in enumerate(feats):
        sums = []
        for f, image in zip(feat, images, strict=True):
            of_feat, of_image = differences(f, False), differences(resize(image, f.shape[1:]), False)
            if kind == "feat_smooth":
                of_feat = [d for first in of_feat for d in differences(first, False)]
                of_image = [d for first in of_image for d in differences(first, False)]
            weights = [np.exp(-d.mean(0)) if use_edges else 1.0 for d in of_image]
            sums.append(sum((d * w).mean() for d, w in zip(of_feat, weights, strict=True)))
        terms.append(np.mean(sums) / 2**k)
    return np.mean(terms) if kind == "feat_smooth" else -np.mean(terms)


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
