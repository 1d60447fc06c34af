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

# SSIM's constants 0.01**2 and 0.03**2 for sums over 9 pixels instead of means: those of products of two sums are times
# 81, of sums of products times 9.
_C1, _C2 = 81 * 0.01**2, 9 * 0.03**2


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
    bordered = _mirrored(target.detach().contiguous())
    sums, squares = _window_sums(torch.stack([bordered, bordered * bordered]))
    spread = squares.addcmul_(sums, sums, value=-1 / 9)
    return lambda image: _SsimL1.apply(image.contiguous(), bordered, sums, spread, weight_ssim)


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
    c1, c2 = _C1 / 81, _C2 / 9
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
    def forward(ctx: Any, image: Tensor, bordered: Tensor, sums: Tensor, spread: Tensor, weight: float) -> Tensor:
        ctx.save_for_backward(image, bordered, sums, spread)
        ctx.weight = weight
        error = image.new_zeros(image.shape[0], 1, *image.shape[2:])
        for part in cache_pieces(image):
            x, y = image[part], _inside(bordered[part])
            _, n1, n2, d1, d2 = _ssim_factors(x, bordered[part], sums[part], spread[part])
            dissimilarity = n1.mul_(n2).div_(d1.mul_(d2)).mul_(-2).add_(0.5).clamp_(0, 1)
            mixed = dissimilarity.mul_(weight).add_(torch.sub(x, y).abs_(), alpha=1 - weight)
            error[part[0]] += mixed.sum(1, keepdim=True)
        return error.div_(image.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, bordered, sums, spread = ctx.saved_tensors
        grad_image = torch.empty_like(image)
        of_ssim, of_l1 = (grad * (w / image.shape[1]) for w in (-2 * ctx.weight, 1 - ctx.weight))
        for part in cache_pieces(image):
            x, y, out = image[part], bordered[part], grad_image[part]
            _ssim_backward(x, y, sums[part], spread[part], of_ssim[part[0]], out)
            out.addcmul_(torch.sub(x, _inside(y)).sign_(), of_l1[part[0]])
        return grad_image, None, None, None, None


def _ssim_factors(x: Tensor, y: Tensor, sy: Tensor, spread_y: Tensor) -> tuple[Tensor, ...]:
    """Return the window sums of x, and SSIM / 4 as factors n1 * n2 / (d1 * d2). y has a border; `sy` are its sums.

    Where x is y, d1 is 2 n1 and d2 is 2 n2 to the last bit, so that a picture is at distance 0 from itself: sums of
    products are centred alike in all three, and constants come last.
    """
    maps = x.new_empty(3, *y.shape)
    maps[0] = _mirrored(x)
    torch.mul(maps[0], maps[0], out=maps[1])
    torch.mul(maps[0], y, out=maps[2])
    sx, d2, n2 = _window_sums(maps).unbind()
    n1 = (sx * sy).add_(_C1 / 2)
    n2.addcmul_(sx, sy, value=-1 / 9).add_(_C2 / 2)
    d1 = (sx * sx).addcmul_(sy, sy).add_(_C1)
    d2.addcmul_(sx, sx, value=-1 / 9).add_(spread_y).add_(_C2)
    return sx, n1, n2, d1, d2


def _ssim_backward(x: Tensor, y: Tensor, sy: Tensor, spread_y: Tensor, grad: Tensor, out: Tensor) -> None:
    """Write the gradient with respect to x, given that of SSIM / 4; 0 where (1 - SSIM) / 2 is clamped."""
    sx, n1, n2, d1, d2 = _ssim_factors(x, y, sy, spread_y)
    per_den = torch.mul(d1, d2).reciprocal_()
    quarter = torch.mul(n1, n2).mul_(per_den)
    per_den.mul_(grad * (quarter.abs() <= 0.25))  # dSSIM / dn = the other factor / den
    grads = x.new_zeros(3, *y.shape)  # of sums, of sums of x x, of sums of x y
    of_sum, of_squares, of_xy = _inside(grads).unbind()
    torch.mul(n1, per_den, out=of_xy)
    torch.mul(quarter * d1, per_den, out=of_squares)
    n2.sub_(n1, alpha=1 / 9).mul_(sy)
    d2.sub_(d1, alpha=1 / 9).mul_(quarter).mul_(sx)
    torch.mul(n2.sub_(d2, alpha=2), per_den, out=of_sum)
    of_sum, of_squares, of_xy = _window_sums_adjoint(grads).unbind()
    torch.addcmul(of_sum, of_squares, x, value=-2, out=out).addcmul_(of_xy, _inside(y))


def _mirrored(x: Tensor) -> Tensor:
    """Give x (b c h w) a border of one pixel, mirrored without repeating the edge."""
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def _inside(bordered: Tensor) -> Tensor:
    return bordered[..., 1:-1, 1:-1]


def _window_sums(bordered: Tensor) -> Tensor:
    """Sum the 3x3 pixels around each one inside the border of maps (..., h + 2, w + 2): (..., h, w)."""
    return _sums_of_three(_sums_of_three(bordered, -2), -1)


def _window_sums_adjoint(grads: Tensor) -> Tensor:
    """Apply the transpose of mirroring and summing, from gradients with a border of zeros to those of pixels.

    The row outside is the second one inside, which so receives what the edge sends out; columns alike.
    """
    for dim in (-2, -1):
        sums, n = _sums_of_three(grads, dim), grads.shape[dim] - 2
        for inner, edge in ((1, 1), (n - 2, n)):
            sums.narrow(dim, inner, 1).add_(grads.narrow(dim, edge, 1))
        grads = sums
    return grads


def _sums_of_three(x: Tensor, dim: int) -> Tensor:
    """Add three neighbours along `dim` to one, so that two entries less are left."""
    n = x.shape[dim] - 2
    return torch.add(x.narrow(dim, 0, n), x.narrow(dim, 1, n)).add_(x.narrow(dim, 2, n))
