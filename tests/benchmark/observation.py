"""The inputs of the losses of a step, predicted one image and one pair at a time.

Geometry as in the papers: poses by the matrix exponential, inverses by general inversion.
Letters in shapes: b batch, n supports, (h, w) image size, s scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.depth import Depth

Scaled = dict[int, Tensor]


@dataclass(frozen=True)
class View:
    """One camera image with what is predicted for it."""

    image: Tensor  # (b 3 h w), clean
    supports: list[Tensor]  # n clean images (b 3 h w)
    Ts: list[Tensor]  # n motions (b 4 4) from this camera to a support's
    K: Tensor  # (b 3 3)
    disps: Scaled  # raw sigmoid disparity (b 1 h_s w_s)
    depths: Scaled  # (b 1 h w), of the upsampled disparity
    masks: Scaled = field(default_factory=dict)  # (b n h_s w_s)
    align_corners: bool = True

    def warp(self, source: Tensor, depth: Tensor, T: Tensor) -> Tensor:
        """Sample source (b c h w), seen by another camera, where this camera's pixels land in it."""
        return synthesise(source, depth, T, self.K, self.align_corners)


@dataclass(frozen=True)
class Step:
    """The inputs of all terms of one step."""

    view: View
    virtual: View | None  # the stereo partner as predicted from the target; its only support is the target
    feats: list[Tensor]  # (b c_k h_k w_k) of the target, shallow to deep
    supp_feats: list[list[Tensor]]  # the same of every support
    autoenc_imgs: list[Scaled]  # reconstructions (b 3 h_s w_s) of the target and of every support
    hints: Tensor | None  # (b 1 h w)
    photometric: Mapping[str, Any]  # keywords of img_recon
    i_stereo: int | None  # position of the stereo partner among the supports
    pseudo: Tensor | None = None  # (b 1 h w) disparity of a teacher
    # Further views: disparity (b 1 h w); A (3 3), pixels of the target -> its own; factor of its depth (b,) or None.
    others: list[tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=list)
    automask: Tensor | None = None  # (b 1 h w) bool, where a warped support is best
    travelled: Tensor | None = None  # (b n) metres from the target to each support, 0 = not known


def observe(
    networks: nn.ModuleDict,
    losses: Mapping[str, Mapping[str, Any]],
    batch: Mapping[str, Tensor],
    supp_idxs: Sequence[int],
    min_depth: float = 0.1,
    max_depth: float | None = 100.0,
    legacy_sampling: bool = False,
) -> Step:
    """Ask the networks about a batch, one image or pair at a time."""
    image_aug = batch.get("target_aug", batch["target"])
    supports = list(batch["supports"].unbind(1))
    supports_aug = list(batch.get("supports_aug", batch["supports"]).unbind(1))
    out = networks["depth"](image_aug)
    size = image_aug.shape[-2:]

    def depths(disps: Scaled) -> Scaled:
        return {s: to_depth(resize(disp, size), min_depth, max_depth) for s, disp in disps.items()}

    view = View(
        batch["target"], supports, motions(networks, image_aug, supports_aug, supp_idxs, batch), batch["K"],
        out["disp"], depths(out["disp"]), out.get("mask", {}), not legacy_sampling,
    )  # fmt: skip
    i_stereo = list(supp_idxs).index(0) if 0 in supp_idxs else None
    virtual = None
    if "disp_stereo" in out and i_stereo is not None:
        chosen = {s: choose_camera(both, batch["T_stereo"]) for s, both in out["disp_stereo"].items()}
        virtual = View(
            supports[i_stereo], [batch["target"]], [torch.linalg.inv(batch["T_stereo"])], batch["K"],
            chosen, depths(chosen), {}, not legacy_sampling,
        )  # fmt: skip

    feats, supp_feats, autoenc_imgs = out["depth_feats"], [], []
    if "autoencoder" in networks:
        autoenc = [networks["autoencoder"](image) for image in (image_aug, *supports_aug)]
        autoenc_imgs = [one["autoenc_imgs"] for one in autoenc]
        feats, *supp_feats = [one["autoenc_feats"] for one in autoenc]
    elif "feat_recon" in losses:
        with torch.no_grad():
            encode = cast(Depth, networks["depth"]).encode
            supp_feats = [encode(image) for image in supports_aug]
    return Step(
        view, virtual, feats, supp_feats, autoenc_imgs, batch.get("depth_hints"),
        losses.get("img_recon", {}), i_stereo, batch.get("pseudo"), travelled=batch.get("travelled"),
    )  # fmt: skip


def to_depth(disp: Tensor, min_depth: float, max_depth: float | None) -> Tensor:
    """Turn sigmoid disparity 0..1 into depth. Monodepth2, arXiv:1806.01260."""
    far = 1 / max_depth if max_depth else 0
    return 1 / (disp * (1 / min_depth - far) + far)


def motions(
    networks: nn.ModuleDict,
    image: Tensor,
    supports: Sequence[Tensor],
    supp_idxs: Sequence[int],
    batch: Mapping[str, Tensor],
) -> list[Tensor]:
    """Predict target -> support of every support, pairs being in temporal order; 0 is given."""
    Ts = []
    for offset, support in zip(supp_idxs, supports, strict=True):
        if offset == 0:
            Ts.append(batch["T_stereo"])
            continue
        out = networks["pose"](torch.cat([image, support] if offset > 0 else [support, image], dim=1))
        T = to_matrix(out["R"][:, 0], out["t"][:, 0])
        Ts.append(T if offset > 0 else torch.linalg.inv(T))
    return Ts


def to_matrix(axis_angle: Tensor, t: Tensor) -> Tensor:
    """Build [exp(skew(r)) t; 0 1], (b 4 4), from axis-angle r (b 3) and t (b 3)."""
    x, y, z = axis_angle.unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    top = torch.cat([torch.linalg.matrix_exp(skew), t[:, :, None]], dim=2)
    last = top.new_tensor([0, 0, 0, 1]).expand(len(top), 1, 4)
    return torch.cat([top, last], dim=1)


def synthesise(source: Tensor, depth: Tensor, T: Tensor, K: Tensor, align_corners: bool) -> Tensor:
    """Warp source (b c h w) into the camera of depth (b 1 h w). SfM-Learner, arXiv:1704.07813."""
    b, _, h, w = depth.shape
    v, u = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).view(1, 3, -1).to(depth)
    points = depth.view(b, 1, -1) * (torch.linalg.inv(K) @ pixels)
    moved = T[:, :3, :3] @ points + T[:, :3, 3:]
    u, v, _ = (K @ (moved / moved[:, 2:].clamp(min=0.1))).unbind(1)
    grid = torch.stack([2 * (u / (w - 1) - 0.5), 2 * (v / (h - 1) - 0.5)], dim=-1).view(b, h, w, 2)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=align_corners)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def choose_camera(both: Tensor, T_stereo: Tensor) -> Tensor:
    """Take channel 0 (virtual right) of (b 2 h w) for items seen from the left, else channel 1."""
    right = [0 if T[0, 3] <= 0 else 1 for T in T_stereo]
    return torch.stack([maps[channel : channel + 1] for maps, channel in zip(both, right, strict=True)])
