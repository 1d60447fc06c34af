"""Photometric distance between two images: dense, one channel. Nothing here reduces over pixels.

Errors are computed in two steps, `compare = ERRORS[name](target)` and `compare(image)` for every image, so that the
statistics of the target are computed once. The target is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.geometry import cache_pieces

LossName = Literal["ssim", "l1", "l2"]
Compare = Callable[[Tensor], Tensor]  # image (b c h w) -> error (b 1 h w)

# SSIM's constants 0.01**2 and 0.03**2, times 81: statistics are kept as sums over 9 pixels, not means.
_C1, _C2 = 81 * 0.01**2, 81 * 0.03**2


def l1_error(target: Tensor) -> Compare:
    """Compare images with `target` (b c h w) by the mean of the absolute differences of the channels."""
    target = target.detach()
    return lambda image: (image - target).abs().mean(1, keepdim=True)


def l2_error(target: Tensor) -> Compare:
    """Compare by the Euclidean distance of the channels: root of the SUM of squares, floored at machine epsilon."""
    target, eps = target.detach(), torch.finfo(target.dtype).eps
    return lambda image: (image - target).square().sum(1, keepdim=True).clamp_min(eps).sqrt()


def ssim_error(target: Tensor, weight_ssim: float = 0.85) -> Compare:
    """Compare by structural dissimilarity and L1: w * (1 - SSIM) / 2 + (1 - w) * L1, mean of the channels.

    SSIM over 3x3 pixels, equal weights, mirrored border; images in [0, 1], at least 2x2 pixels. Monodepth,
    arXiv:1609.03677, sec. 3.3. Raises ValueError when `weight_ssim` w is not in [0, 1].
    """
    if not 0 <= weight_ssim <= 1:
        raise ValueError(f"weight_ssim must lie in [0, 1], got {weight_ssim}")
    target = target.detach()
    sums = _box(target)
    spread = _box(target * target).mul_(9).addcmul_(sums, sums, value=-1).add_(_C2)  # 81 times the variance, plus C2
    target = target.contiguous()
    return lambda image: _SsimL1.apply(image.contiguous(), target, sums, spread, weight_ssim)


ERRORS: dict[str, Callable[[Tensor], Compare]] = {"ssim": ssim_error, "l1": l1_error, "l2": l2_error}


def error_formula(images: Tensor, target: Tensor, name: LossName) -> Tensor:
    """Compare all images (b n c s h w), of n supports at s scales, with `target` (b c h w): (b n s h w).

    What `ERRORS[name]` does, as a plain formula in which autograd finds the derivative: few large operators, which a
    compiler fuses. It keeps some fifteen maps of the size of the images unless it is compiled.
    """
    return FORMULAS[name](images, target.detach()[:, None, :, None])


def _l1_formula(images: Tensor, target: Tensor) -> Tensor:
    return (images - target).abs().mean(2)


def _l2_formula(images: Tensor, target: Tensor) -> Tensor:
    return (images - target).square().sum(2).clamp_min(torch.finfo(target.dtype).eps).sqrt()


def _ssim_formula(images: Tensor, target: Tensor, weight_ssim: float = 0.85) -> Tensor:
    x, xx, xy = _window_means(torch.stack([images, images * images, images * target]))
    y, yy = _window_means(torch.stack([target, target * target]))
    c1, c2 = _C1 / 81, _C2 / 81
    product, squares = x * y, x * x + y * y
    ssim = (2 * product + c1) * (2 * (xy - product) + c2) / ((squares + c1) * (xx + yy - squares + c2))
    dissimilarity = (0.5 - 0.5 * ssim).clamp(0, 1)
    return torch.lerp((images - target).abs(), dissimilarity, weight_ssim).mean(2)


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ssim": _ssim_formula,
    "l1": _l1_formula,
    "l2": _l2_formula,
}


def _window_means(x: Tensor) -> Tensor:
    """Average the 3x3 pixels around each one of x (..., h, w), the border mirrored without repeating it.

    Mirrored by `cat`: the backward pass of torch's reflection padding is not deterministic on CUDA.
    """
    maps = x.reshape(-1, *x.shape[-2:])
    maps = torch.cat([maps[:, 1:2], maps, maps[:, -2:-1]], 1)
    maps = torch.cat([maps[..., 1:2], maps, maps[..., -2:-1]], 2)
    return F.avg_pool2d(maps, 3, 1).view(x.shape)


class _SsimL1(torch.autograd.Function):
    """`ssim_error` with a derivative by hand, piece by piece on the CPU.

    Autograd would keep some fifteen maps of the size of the image; this keeps the image and recomputes the rest.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, sums: Tensor, spread: Tensor, weight: float) -> Tensor:
        ctx.save_for_backward(image, target, sums, spread)
        ctx.weight = weight
        error = image.new_zeros(image.shape[0], 1, *image.shape[2:])
        for part in cache_pieces(image):
            x, y = image[part], target[part]
            num, den = _ssim_ratio(x, y, sums[part], spread[part])[:2]
            dissimilarity = num.div_(den).mul_(-0.5).add_(0.5).clamp_(0, 1)
            mixed = dissimilarity.mul_(weight).add_(torch.sub(x, y).abs_(), alpha=1 - weight)
            error[part[0]] += mixed.sum(1, keepdim=True)
        return error.div_(image.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, target, sums, spread = ctx.saved_tensors
        grad_image = torch.empty_like(image)
        share = grad / image.shape[1]
        for part in cache_pieces(image):
            x, y, g = image[part], target[part], share[part[0]]
            of_ssim = _ssim_backward(x, y, sums[part], spread[part], g * (-0.5 * ctx.weight))
            of_l1 = torch.sub(x, y).sign_().mul_(g)
            torch.add(of_ssim, of_l1, alpha=1 - ctx.weight, out=grad_image[part])
        return grad_image, None, None, None, None


def _ssim_ratio(x: Tensor, y: Tensor, sy: Tensor, spread_y: Tensor) -> tuple[Tensor, ...]:
    """Return SSIM as num / den, their factors (num = n1 * n2, den = d1 * d2), and the window sums of x."""
    sx = _box(x)
    n1 = (sx * sy).mul_(2)
    n2 = _box(x * y).mul_(18).sub_(n1).add_(_C2)
    n1 += _C1
    d1 = (sx * sx).addcmul_(sy, sy)
    d2 = _box(x * x).mul_(9).addcmul_(sx, sx, value=-1).add_(spread_y)
    d1 += _C1
    return n1 * n2, d1 * d2, n1, n2, d1, d2, sx


def _ssim_backward(x: Tensor, y: Tensor, sy: Tensor, spread_y: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient with respect to x, given that of SSIM; 0 where (1 - SSIM) / 2 is clamped."""
    num, den, n1, n2, d1, d2, sx = _ssim_ratio(x, y, sy, spread_y)
    ssim = num.div_(den)
    grad = grad * (ssim.abs() <= 1)
    per_den = den.reciprocal_().mul_(grad)  # dSSIM / dn = the other factor / den
    of_xy = n1.mul(per_den).mul_(18)
    of_squares = (ssim * grad).div_(d2).mul_(-9)
    of_sum = n2.sub_(n1).mul_(sy)
    of_sum -= d2.sub_(d1).mul_(ssim).mul_(sx)
    of_sum.mul_(per_den).mul_(2)
    result = _box_adjoint(of_squares).mul_(x).mul_(2)
    return result.addcmul_(_box_adjoint(of_xy), y).add_(_box_adjoint(of_sum))


def _box(x: Tensor) -> Tensor:
    """Sum the 3x3 pixels around each one of x (b c h w), the border mirrored without repeating it."""
    return _sum_of_three(_sum_of_three(x, -2), -1)


def _box_adjoint(g: Tensor) -> Tensor:
    """Apply the transpose of the linear map `_box`, from gradients of window sums to gradients of pixels."""
    return _sum_of_three(_sum_of_three(g, -2, transpose=True), -1, transpose=True)


def _sum_of_three(x: Tensor, dim: int, transpose: bool = False) -> Tensor:
    """Add to each entry along `dim` its two neighbours, the border mirrored; or apply the transpose of that map.

    The end of a row has one neighbour, which counts twice; in the transpose that neighbour receives twice.
    """
    n = x.shape[dim]
    out = x.clone()
    out.narrow(dim, 1, n - 1).add_(x.narrow(dim, 0, n - 1))
    out.narrow(dim, 0, n - 1).add_(x.narrow(dim, 1, n - 1))
    for end, inner in ((0, 1), (n - 1, n - 2)):
        taker, giver = (inner, end) if transpose else (end, inner)
        out.narrow(dim, taker, 1).add_(x.narrow(dim, giver, 1))
    return out
