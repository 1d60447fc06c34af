"""The step of `bench step --naive`: Monodepth2 (arXiv:1806.01260) as published, on the networks of an objective.

It stands in for earlier code. Padding, ELU and SSIM are torch's modules, all gradients are autograd's; every support is
warped and compared at every scale by calls of its own, the unwarped ones again at every scale, and every pair of frames
passes the pose network alone. It computes what the objective computes, but for the batch that BatchNorm of the pose
network sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.decoders.base import LEVELS
from models_zoo.depth import Depth
from trainer.objective import Objective
from trainer.types import Batch

NEAREST = 0.1  # projected coordinates are divided by at least this depth, as in `trainer.geometry`


class Loss(NamedTuple):
    """What `Objective` returns, without the rest."""

    loss: Tensor


class NaiveObjective(nn.Module):
    """Compute the loss of `img_recon` (SSIM, minimum, automask) and `disp_smooth` (edges) of the given objective.

    It shares the parameters of the objective. noise: standard deviation of what breaks ties of the automask.
    """

    def __init__(self, objective: Objective, noise: float = 1e-5):
        super().__init__()
        self.depth, self.pose = NaiveDepth(cast(Depth, objective.networks["depth"])), objective.networks["pose"]
        self.supp_idxs, self.noise = objective.supp_idxs, noise
        self.smoothness = objective.weights["disp_smooth"]
        self.limits = objective.min_depth, objective.max_depth or float("inf")
        self.ssim = SSIM()

    def forward(self, batch: Batch) -> Loss:
        predictions = self.predict(batch)
        losses = [self.compare(batch, disp, predictions["Ts"], scale) for scale, disp in predictions["disp"].items()]
        return Loss(sum(losses) / len(losses))  # type: ignore[arg-type]

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Return disparity of every scale, and the motion from the target to each support (b 4 4)."""
        target, motions = batch["target"], []
        for i, offset in enumerate(self.supp_idxs):
            support = batch["supports"][:, i]
            pair = [support, target] if offset < 0 else [target, support]
            out = self.pose(torch.cat(pair, 1))
            motions.append(motion(out["R"][:, 0], out["t"][:, 0], invert=offset < 0))
        return {"disp": self.depth(target), "Ts": motions}

    def compare(self, batch: Batch, disp: Tensor, Ts: Sequence[Tensor], scale: int) -> Tensor:
        """Return the loss of one scale."""
        target, supports = batch["target"], batch["supports"].unbind(1)
        near, far = self.limits
        full = F.interpolate(disp, target.shape[-2:], mode="bilinear", align_corners=False)
        depth = 1 / (1 / far + (1 / near - 1 / far) * full)
        warped = [warp(support, depth, T, batch["K"]) for support, T in zip(supports, Ts, strict=True)]
        errors = torch.cat([self.error(image, target) for image in warped], 1)
        static = torch.cat([self.error(image, target) for image in supports], 1)
        static = static + torch.randn_like(static) * self.noise
        best = torch.cat([static, errors], 1).min(1).values.mean()
        image = F.interpolate(target, disp.shape[-2:], mode="bilinear", align_corners=False)
        return best + self.smoothness * smoothness(disp / disp.mean((2, 3), keepdim=True), image) / 2**scale

    def error(self, image: Tensor, target: Tensor) -> Tensor:
        """Compare two images (b 3 h w): 0.85 SSIM and 0.15 L1 (b 1 h w)."""
        return 0.85 * self.ssim(image, target).mean(1, True) + 0.15 * (target - image).abs().mean(1, True)


class NaiveDepth(nn.Module):
    """The encoder of a depth network and its U-Net, put together of torch's modules around the same parameters."""

    def __init__(self, depth: Depth):
        super().__init__()
        self.standardise, self.encoder = depth.standardise, depth.encoder
        decoder: Any = depth.decoders["disp"]
        layers = list(decoder.decoder)
        self.skips = {level: decoder.skip_index(level) for level in LEVELS}
        self.blocks = nn.ModuleList(
            nn.Sequential(padded(layer.conv), nn.ELU(inplace=True)) for layer in layers[: 2 * len(LEVELS)]
        )
        self.heads = nn.ModuleDict(
            {str(s): padded(conv) for s, conv in zip(decoder.out_scales, layers[2 * len(LEVELS) :], strict=True)}
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        feats = self.encoder(self.standardise(images))
        x, disps = feats[-1], {}
        for number, level in enumerate(LEVELS):
            x = F.interpolate(self.blocks[2 * number](x), scale_factor=2, mode="nearest")
            skip = self.skips[level]
            x = x if skip is None else torch.cat([x, feats[skip]], 1)
            x = self.blocks[2 * number + 1](x)
            if str(level) in self.heads:
                disps[level] = torch.sigmoid(self.heads[str(level)](x))
        return dict(sorted(disps.items()))


def padded(conv: nn.Conv2d) -> nn.Sequential:
    """Return reflection padding by a module of its own and an unpadded convolution with the same parameters."""
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size)  # type: ignore[arg-type]
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ReflectionPad2d(1), plain)


class SSIM(nn.Module):
    """Structural dissimilarity of 3x3 windows, (1 - SSIM) / 2 in [0, 1], for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.mean = nn.ReflectionPad2d(1), nn.AvgPool2d(3, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.pad(x), self.pad(y)
        mu_x, mu_y = self.mean(x), self.mean(y)
        sigma_x = self.mean(x**2) - mu_x**2
        sigma_y = self.mean(y**2) - mu_y**2
        sigma_xy = self.mean(x * y) - mu_x * mu_y
        num = (2 * mu_x * mu_y + 0.01**2) * (2 * sigma_xy + 0.03**2)
        den = (mu_x**2 + mu_y**2 + 0.01**2) * (sigma_x + sigma_y + 0.03**2)
        return torch.clamp((1 - num / den) / 2, 0, 1)


def smoothness(disp: Tensor, image: Tensor) -> Tensor:
    """Average differences of disparity (b 1 h w) over all pixels, less where the image (b 3 h w) has edges."""
    (disp_x, disp_y), (image_x, image_y) = (
        ((maps[..., :-1] - maps[..., 1:]).abs(), (maps[..., :-1, :] - maps[..., 1:, :]).abs()) for maps in (disp, image)
    )
    x, y = disp_x * (-image_x.mean(1, True)).exp(), disp_y * (-image_y.mean(1, True)).exp()
    return (x.sum() + y.sum()) / disp.numel()


def motion(R: Tensor, t: Tensor, invert: bool) -> Tensor:
    """Build a motion (b 4 4) from an axis-angle rotation (b 3) and a translation (b 3), or its inverse."""
    angle = R.norm(dim=1)[:, None, None]
    x, y, z = (R[:, :, None] / angle).unbind(1)  # (b 1) each
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    rotation = torch.eye(3, dtype=R.dtype, device=R.device) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross
    turn, shift = (torch.eye(4, dtype=R.dtype, device=R.device).repeat(len(R), 1, 1) for _ in range(2))
    turn[:, :3, :3] = rotation.transpose(1, 2) if invert else rotation
    shift[:, :3, 3] = -t if invert else t
    return turn @ shift if invert else shift @ turn


def warp(support: Tensor, depth: Tensor, T: Tensor, K: Tensor) -> Tensor:
    """Sample a support (b 3 h w) where the pixels of the target, at `depth` (b 1 h w) and moved by T, fall in it."""
    b, _, h, w = depth.shape
    sides = (torch.arange(side, dtype=depth.dtype, device=depth.device) for side in (h, w))
    v, u = (pixels.flatten() for pixels in torch.meshgrid(*sides, indexing="ij"))
    points = depth.view(b, 1, -1) * (torch.linalg.inv(K) @ torch.stack([u, v, torch.ones_like(u)])[None])
    points = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    seen = K @ T[:, :3] @ points
    x, y = (seen[:, :2] / seen[:, 2:].clamp(min=NEAREST)).unbind(1)
    grid = torch.stack([x / (w - 1), y / (h - 1)], -1).view(b, h, w, 2) * 2 - 1
    return F.grid_sample(support, grid, padding_mode="border", align_corners=True)
