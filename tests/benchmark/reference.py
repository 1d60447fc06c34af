"""The losses of a step written twice: every term from its published formula, in plain torch.

Shares nothing with `trainer`: loops over supports and scales, slow and hard to get wrong alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmark.observation import Step, View, observe, resize, to_depth


def total(
    networks: nn.ModuleDict, losses: Mapping[str, Any], batch: Mapping[str, Tensor], **rules: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of all terms, and each of them unweighted.

    losses: {name: its keywords and `weight`, or None for a loss that is switched off}; rules: see `observe`.
    """
    losses = {name: dict(kwargs) for name, kwargs in losses.items() if kwargs is not None}
    weights = {name: float(kwargs.pop("weight", 1)) for name, kwargs in losses.items()}
    step = observe(networks, losses, batch, **rules)
    terms: dict[str, Tensor] = {}
    loss = batch["target"].new_zeros(())
    for name, kwargs in losses.items():
        parts = TERMS[name](step, **kwargs)
        loss = loss + weights[name] * sum(parts.values())
        terms |= {prefix + name: value for prefix, value in parts.items()}
    return loss, terms


def ssim_error(pred: Tensor, target: Tensor) -> Tensor:
    """Mix 0.85 structural dissimilarity of 3x3 windows and 0.15 l1. Monodepth, arXiv:1609.03677."""

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel_size=3, stride=1)

    mu_x, mu_y = pool(pred), pool(target)
    var_x, var_y = pool(pred**2) - mu_x**2, pool(target**2) - mu_y**2
    cov = pool(pred * target) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    dissimilarity = ((1 - ssim) / 2).clamp(0, 1).mean(dim=1, keepdim=True)
    return 0.85 * dissimilarity + 0.15 * (pred - target).abs().mean(dim=1, keepdim=True)


DENSE_ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda pred, target: (pred - target).abs().mean(dim=1, keepdim=True),
    "l2": lambda pred, target: ((pred - target) ** 2).sum(dim=1, keepdim=True).clamp(min=eps(pred)).sqrt(),
    "ssim": ssim_error,
}
MASKINGS: dict[str | None, Callable[[Tensor, Tensor], Tensor]] = {
    "explainability": lambda error, mask: error * mask,
    "uncertainty": lambda error, mask: error * torch.exp(-mask) + mask,
}


def reduced_error(
    preds: Sequence[Tensor],
    target: Tensor,
    mask: Tensor | None,
    loss_name: str = "ssim",
    use_min: bool = False,
    mask_name: str | None = None,
) -> Tensor:
    """Compare predictions (b c h w) with the target, and reduce over them: (b 1 h w). mask (b n h w)."""
    errors = [DENSE_ERRORS[loss_name](pred, target) for pred in preds]
    if mask_name is not None and mask is not None:
        errors = [MASKINGS[mask_name](error, mask[:, i : i + 1]) for i, error in enumerate(errors)]
    stacked = torch.stack(errors)
    return stacked.min(dim=0).values if use_min else stacked.mean(dim=0)


def reconstruction(
    preds: Sequence[Tensor],
    target: Tensor,
    sources: Sequence[Tensor],
    mask: Tensor | None = None,
    use_automask: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Average the reconstruction error, where an unwarped source may explain a pixel better."""
    error = reduced_error(preds, target, mask, **kwargs)
    if use_automask:
        error = torch.minimum(error, reduced_error(sources, target, mask, **kwargs))
    return error.mean()


def img_recon(step: Step, **kwargs: Any) -> dict[str, Tensor]:
    """Image reconstruction, all scales at full resolution. Monodepth2, arXiv:1806.01260."""

    def of_view(view: View, **kwargs: Any) -> Tensor:
        values = []
        for s, depth in view.depths.items():
            warped = [view.warp(source, depth, T) for source, T in zip(view.supports, view.Ts, strict=True)]
            mask = resize(view.masks[s], depth.shape[-2:]) if s in view.masks else None
            values.append(reconstruction(warped, view.image, view.supports, mask, **kwargs))
        return mean(values)

    parts = {"": of_view(step.view, **kwargs)}
    if step.virtual is not None:
        parts["stereo_"] = of_view(step.virtual, **{**kwargs, "mask_name": None})
    return parts


def feat_recon(step: Step, **kwargs: Any) -> dict[str, Tensor]:
    """Reconstruction of detached stride-4 features. Depth-VO-Feat, arXiv:1803.03893; FeatDepth, arXiv:2007.10603."""
    view, size = step.view, step.view.image.shape[-2:]
    target, *sources = [resize(feats[-4].detach(), size) for feats in (step.feats, *step.supp_feats)]
    warped = [view.warp(source, view.depths[0], T) for source, T in zip(sources, view.Ts, strict=True)]
    mask = resize(view.masks[0], size) if view.masks else None
    return {"": reconstruction(warped, target, sources, mask, **kwargs)}


def autoenc_recon(step: Step, loss_name: str = "ssim", **_unused: Any) -> dict[str, Tensor]:
    """Autoencoded target and supports against the clean images. FeatDepth, arXiv:2007.10603."""
    images = [step.view.image, *step.view.supports]
    values = [
        DENSE_ERRORS[loss_name](resize(pred, image.shape[-2:]), image).mean()
        for image, preds in zip(images, step.autoenc_imgs, strict=True)
        for pred in preds.values()
    ]
    return {"": mean(values)}


def berhu(d: Tensor, mask: Tensor) -> Tensor:
    """Laina et al., arXiv:1606.00373; the threshold is a constant, of valid pixels."""
    valid = d.detach()[mask]
    c = 0.2 * valid.max() if len(valid) else d.new_zeros(())
    return torch.where(d <= c, d, (d**2 + c**2) / (2 * c + eps(d)))


REGRESSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda d, _: d,
    "log_l1": lambda d, _: torch.log(1 + d),  # Depth Hints, arXiv:1909.09051
    "berhu": berhu,
}


def regression(pred: Tensor, target: Tensor, mask: Tensor, loss_name: str) -> Tensor:
    """Average the error of valid pixels; 0 without any."""
    error = REGRESSIONS[loss_name]((pred - target).abs(), mask)
    return error[mask].sum() / mask.sum().clamp(min=1)


def depth_regr(
    step: Step, loss_name: str = "berhu", use_automask: bool = False, invert: bool = False
) -> dict[str, Tensor]:
    """Depth against hints, where the hint explains the image better if asked. Depth Hints, arXiv:1909.09051."""
    assert step.hints is not None
    masks = [step.hints > 0 for _ in step.view.depths]
    if use_automask:
        masks = [mask & (gain > 0) for mask, gain in zip(masks, gains_by_hint(step), strict=True)]
    pred, hints = torch.cat(list(step.view.depths.values())), step.hints.repeat(len(masks), 1, 1, 1)
    if invert:
        pred, hints = 1 / pred, torch.where(hints > 0, 1 / hints.clamp(min=1e-9), 0)
    return {"": regression(pred, hints, torch.cat(masks), loss_name)}


@torch.no_grad()
def gains_by_hint(step: Step) -> list[Tensor]:
    """Photometric error of the depth of every scale minus that of the hint, (b 1 h w), masks apart."""
    assert step.hints is not None
    view = step.view
    options = {key: step.photometric[key] for key in ("loss_name", "use_min") if key in step.photometric}

    def photometric(depth: Tensor) -> Tensor:
        warped = [view.warp(source, depth, T) for source, T in zip(view.supports, view.Ts, strict=True)]
        return reduced_error(warped, view.image, None, **options)

    of_hint = photometric(step.hints)
    return [photometric(depth) - of_hint for depth in view.depths.values()]


def stereo_const(step: Step, loss_name: str = "berhu", use_automask: bool = False) -> dict[str, Tensor]:
    """Disparity of each stereo view against that of the other one, warped. Monodepth, arXiv:1609.03677."""
    assert step.virtual is not None and step.i_stereo is not None  # noqa: PT018
    view, virtual, size = step.view, step.virtual, step.view.image.shape[-2:]
    own, warped = [], []
    for s in view.disps:
        disp, disp_stereo = resize(view.disps[s], size), resize(virtual.disps[s], size)
        own += [disp, disp_stereo]
        warped += [
            view.warp(disp_stereo, view.depths[s], view.Ts[step.i_stereo]),
            virtual.warp(disp, virtual.depths[s], virtual.Ts[0]),
        ]
    everywhere = torch.ones_like(torch.cat(own), dtype=torch.bool)
    return {"": regression(torch.cat(own), torch.cat(warped), everywhere, loss_name)}


def gradients(x: Tensor, use_blur: bool = False) -> tuple[Tensor, Tensor]:
    """Absolute differences to the right and lower neighbours, 0 in the last column and row."""
    if use_blur:
        g = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64) / 2)
        g = (g / g.sum()).to(x)
        c = x.shape[1]
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        x = F.conv2d(padded, (g[:, None] * g).expand(c, 1, 3, 3), groups=c)
    dx, dy = torch.zeros_like(x), torch.zeros_like(x)
    dx[..., :, :-1] = (x[..., :, :-1] - x[..., :, 1:]).abs()
    dy[..., :-1, :] = (x[..., :-1, :] - x[..., 1:, :]).abs()
    return dx, dy


def second_gradients(x: Tensor, use_blur: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return xx, yy, xy, yx of the absolute first differences."""
    dx, dy = gradients(x, use_blur)
    (dxx, dxy), (dyx, dyy) = gradients(dx, use_blur), gradients(dy, use_blur)
    return dxx, dyy, dxy, dyx


def edge_weight(image_term: Tensor) -> Tensor:
    return torch.exp(-image_term.mean(dim=1, keepdim=True))


def disp_smooth(
    step: Step, use_edges: bool = False, use_laplacian: bool = False, use_blur: bool = False
) -> dict[str, Tensor]:
    """Differences of mean-normalised disparity. Monodepth, arXiv:1609.03677; DVSO, arXiv:1807.02570."""

    def of_scale(disp: Tensor, image: Tensor) -> Tensor:
        image = resize(image, disp.shape[-2:])
        disp = disp / disp.mean(dim=(2, 3), keepdim=True).clamp(min=eps(disp))
        operator = second_gradients if use_laplacian else gradients
        (gx, gy), (ix, iy) = operator(disp, use_blur)[:2], operator(image, use_blur)[:2]
        if use_edges:
            gx, gy = gx * edge_weight(ix), gy * edge_weight(iy)
        return gx.mean() + gy.mean()

    def of_view(view: View) -> Tensor:
        return mean([of_scale(disp, view.image) / 2**s for s, disp in view.disps.items()])

    parts = {"": of_view(step.view)}
    if step.virtual is not None:
        parts["stereo_"] = of_view(step.virtual)
    return parts


def of_features(step: Step, operator: Callable[..., tuple[Tensor, ...]], use_edges: bool) -> Tensor:
    """Average over levels k of 1/2^k times the mean differences of features: target plus supports."""

    def of_images(image: Tensor, feats: Sequence[Tensor]) -> Tensor:
        values = []
        for k, feat in enumerate(feats):
            terms = operator(feat)
            if use_edges:
                edges = operator(resize(image, feat.shape[-2:]))
                terms = tuple(term * edge_weight(edge) for term, edge in zip(terms, edges, strict=True))
            values.append(sum(term.mean() for term in terms) / 2**k)
        return mean(values)

    supports = [torch.cat(level) for level in zip(*step.supp_feats, strict=True)]
    return of_images(step.view.image, step.feats) + of_images(torch.cat(step.view.supports), supports)


def feat_peaky(step: Step, use_edges: bool = False) -> dict[str, Tensor]:
    """Reward feature gradients. FeatDepth, arXiv:2007.10603."""
    return {"": -of_features(step, gradients, use_edges)}


def feat_smooth(step: Step, use_edges: bool = False) -> dict[str, Tensor]:
    """Punish second differences of features. FeatDepth, arXiv:2007.10603."""
    return {"": of_features(step, second_gradients, use_edges)}


def disp_occ(step: Step, invert: bool = False) -> dict[str, Tensor]:
    """Mean disparity, of the virtual view too. DVSO, arXiv:1807.02570."""
    views = [step.view] if step.virtual is None else [step.view, step.virtual]
    value = torch.stack([mean([disp.mean() for disp in view.disps.values()]) for view in views]).sum()
    return {"": -value if invert else value}


def disp_mask(step: Step) -> dict[str, Tensor]:
    """Cross-entropy of the mask against ones. SfM-Learner, arXiv:1704.07813."""
    return {"": mean([-mask.log().clamp(min=-100).mean() for mask in step.view.masks.values()])}


def disp_ssi(step: Step, form: str = "nimbled", gradient: float = 0.0) -> dict[str, Tensor]:
    """Disparity against a teacher's, both without scale and shift. MiDaS, arXiv:1907.01341; NimbleD, 2408.14177."""
    assert step.pseudo is not None
    values = []
    for disp in step.view.disps.values():
        for p, t in zip(resize(disp, step.pseudo.shape[-2:])[:, 0], step.pseudo[:, 0], strict=True):
            values.append(of_a_picture(p, t, form, gradient))
    return {"": mean(values)}


def of_a_picture(p: Tensor, t: Tensor, form: str, gradient: float) -> Tensor:
    """The distance of two maps (h w), at the pixels where the second is above 0."""
    known = t > 0
    m = int(known.sum())
    if m == 0:
        return 0 * p.sum()

    def ranged(x: Tensor) -> Tensor:
        low, high = x[known].min(), x[known].max()
        return (x - low) / (high - low + 1e-6)

    def standard(x: Tensor) -> Tensor:
        off = x - x[known].median()
        return off / off[known].abs().mean().clamp(min=1e-6)

    if form == "mse":
        columns = torch.stack([p[known], torch.ones(m, dtype=p.dtype)], 1)
        a, b = torch.linalg.solve(columns.T @ columns, columns.T @ t[known])
        difference = a * p + b - t
        value = (difference[known] ** 2).sum() / (2 * m)
    else:
        difference = standard(ranged(p)) - standard(ranged(t)) if form == "nimbled" else standard(p) - standard(t)
        ranked = difference[known].abs().sort().values
        value = ranked[: int(0.8 * m) if form == "trimmed" else m].sum() / (m if form == "nimbled" else 2 * m)
    for step in (1, 2, 4, 8) if gradient else ():
        r, on = difference[::step, ::step], known[::step, ::step]
        across = ((r[:, 1:] - r[:, :-1]).abs() * (on[:, 1:] & on[:, :-1])).sum()
        down = ((r[1:] - r[:-1]).abs() * (on[1:] & on[:-1])).sum()
        value = value + gradient * (across + down) / on.sum().clamp(min=1)
    return value


def view_consistency(step: Step, loss_name: str = "ssim", use_automask: bool = False) -> dict[str, Tensor]:
    """Difference of enlarged views and the target. RA-Depth, arXiv:2207.11984 (ssim); BDEdepth, arXiv:2309.05254
    (silog)."""
    plain, values = step.view.disps[0], []
    for disp, A, factor in step.others:
        zoom, (left, top) = int(A[0, 0]), (int(-A[i, 2]) // int(A[i, i]) for i in range(2))
        small = resize(disp, [side // zoom for side in disp.shape[-2:]])
        part = slice(top, top + small.shape[-2]), slice(left, left + small.shape[-1])
        depth = to_depth(small, 0.1, 100) * (1 if factor is None else factor.view(-1, 1, 1, 1))
        if loss_name == "ssim":
            error = ssim_error((1 / depth - 0.01) / (10 - 0.01), plain[(..., *part)])
        else:
            error = depth.log() - step.view.depths[0][(..., *part)].log()
        for item, e in enumerate(error):
            kept = e[step.automask[item][(..., *part)]] if use_automask and step.automask is not None else e.flatten()
            values.append(kept.mean() if loss_name == "ssim" else (kept**2).mean() - 0.5 * kept.mean() ** 2)
    return {"": torch.stack(values).sum() / len(plain)}


def speed(step: Step) -> dict[str, Tensor]:
    """Average | |t| - way | in metres over the supports whose way is known; a unit is 5.4 m. arXiv:1905.02693."""
    assert step.travelled is not None
    errors = [
        (5.4 * T[i, :3, 3].square().sum().sqrt() - ways[i]).abs()
        for T, ways in zip(step.view.Ts, step.travelled.unbind(1), strict=True)
        for i in range(len(T))
        if ways[i] > 0
    ]
    return {"": mean(errors)}


def camera_height(step: Step, height: float = 1.65, rows: float = 0.3, columns: float = 0.5) -> dict[str, Tensor]:
    """Fit 1 / depth = m ray to the lower middle of each picture: over level ground m is (0, 1 / height, 0)."""
    depth, errors = step.view.depths[0], []
    h, w = depth.shape[-2:]
    high, wide = round(rows * h), round(columns * w)
    left = (w - wide) // 2
    for d, K in zip(depth[:, 0], step.view.K, strict=True):
        pixels = [(u, v) for v in range(h - high, h) for u in range(left, left + wide)]
        rays = torch.stack([torch.linalg.solve(K, K.new_tensor([u, v, 1.0])) for u, v in pixels])
        values = torch.stack([1 / d[v, u] for u, v in pixels])
        weights = torch.ones_like(values)
        for _ in range(5):
            m = weighted_least_squares(rays, values, weights).detach()
            off = (rays @ m - values.detach()).abs()
            weights = (1 + (off / (1.4826 * off.sort().values[len(off) // 2])) ** 2) ** -2
        m = weighted_least_squares(rays, values, weights)
        errors.append((height * m[1] / 5.4 - 1).abs())
    return {"": mean(errors)}


def weighted_least_squares(A: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Solve the normal equations of sum weights * (A m - y)^2."""
    W = weights[:, None]
    return torch.linalg.solve(A.T @ (W * A), A.T @ (weights * y))


TERMS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "img_recon": img_recon, "feat_recon": feat_recon, "autoenc_recon": autoenc_recon,
    "stereo_const": stereo_const, "depth_regr": depth_regr, "disp_smooth": disp_smooth,
    "feat_peaky": feat_peaky, "feat_smooth": feat_smooth, "disp_occ": disp_occ, "disp_mask": disp_mask,
    "disp_ssi": disp_ssi,
    "view_consistency": view_consistency, "speed": speed, "camera_height": camera_height,
}  # fmt: skip


def mean(values: Sequence[Any]) -> Tensor:
    return torch.stack(list(values)).mean()


def eps(x: Tensor) -> float:
    """Machine epsilon of the tensor's type."""
    return torch.finfo(x.dtype).eps
