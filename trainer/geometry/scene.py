"""A scene: a batch of targets with supports and predictions. Losses see nothing else.

Everything is at least float32. Depth at full resolution, warped supports and resized images are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.geometry.depth import disp_to_depth
from trainer.geometry.pose import invert_pose
from trainer.geometry.precision import full_precision, full_precision_maps
from trainer.geometry.synthesis import Runner, ViewSynthesis, sample_grid

Scales = dict[int, Tensor]  # scale s -> map at stride 2**s

# Images of a loss, {tag: (b c h w)}, detached; a callable is drawn only when it is logged.
Pictures = dict[str, Tensor | Callable[[], Tensor]]


@dataclass(eq=False, repr=False)
class Scene:
    """Targets, their n supports each, and predictions. Raises ValueError when scale 0 is missing."""

    target: Tensor  # (b 3 h w) RGB in [0, 1], without colour augmentation
    supports: Tensor | None  # (b n 3 h w) likewise
    K: Tensor | None  # (b 3 3) intrinsics in pixels of (h, w)
    Ts: Tensor | None  # (b n 4 4) motion target -> support
    disp: Scales  # {s: (b 1 ...)} sigmoid disparity; must hold scale 0
    mask: Scales | None = None  # {s: (b n ...)} predicted mask, one channel per support
    supp_idxs: Sequence[int] = ()  # frame offset of each support, 0 = the other camera of the stereo pair
    min_depth: float = 0.1  # at disparity 1
    max_depth: float | None = 100.0  # at disparity 0
    legacy_sampling: bool = False  # see `ViewSynthesis`
    disp_stereo: Scales | None = None  # {s: (b 1 ...)} disparity of the virtual stereo view, chosen per item
    T_stereo: Tensor | None = None  # (b 4 4) motion target -> stereo support
    depth_hints: Tensor | None = None  # (b 1 h w) proxy depth, 0 = none
    pseudo: Tensor | None = None  # (b 1 h w) disparity of a teacher up to scale and shift, > 0; 0 = none
    travelled: Tensor | None = None  # (b n) metres from target to support, 0 = not known
    extras: Mapping[str, Any] = field(default_factory=dict)  # other network outputs: features, autoencoder images
    is_virtual: bool = False  # the scene of a `stereo_twin`, which has no mask
    others: Mapping[str, Scene] = field(default_factory=dict)  # further views of the targets, by name
    A: Tensor | None = None  # (b 3 3) of one of those: pixels of the plain view -> its pixels; None = the same
    depth_factor: Tensor | None = None  # (b,) likewise: depth is this times that of the disparity; None = 1
    fused: Runner | None = None  # calls formulas over all supports and scales; None = piece by piece, derived by hand
    automask: Tensor | None = None  # (b 1 h w) bool, set by img_recon: a warped support is best at scale 0

    def __post_init__(self) -> None:
        if 0 not in self.disp:
            raise ValueError(f"no disparity of scale 0 among {sorted(self.disp)}: add 0 to net.depth.out_scales")
        self.size = (self.target.shape[-2], self.target.shape[-1])
        self.target = full_precision(self.target)
        self.supports = None if self.supports is None else full_precision(self.supports)
        self.n_supports = 0 if self.supports is None else self.supports.shape[1]
        self.disp = full_precision_maps(self.disp)
        self.scales = tuple(self.disp)  # ascending
        self.mask = None if self.mask is None else full_precision_maps(self.mask)
        self.disp_stereo = None if self.disp_stereo is None else full_precision_maps(self.disp_stereo)
        self.supp_idxs = tuple(self.supp_idxs)
        self._depths: Scales = {}
        self._warps: dict[tuple[int, int], Tensor] = {}
        self._projections: dict[int, Tensor] = {}
        self._targets: dict[tuple[int, int], Tensor] = {}
        self._twin: Scene | None = None

    def support(self, i_supp: int) -> Tensor:
        """Return support image (b 3 h w) at position `i_supp` of `supp_idxs`."""
        return self._need(self.supports, "supports")[:, i_supp]

    def depth(self, scale: int) -> Tensor:
        """Return depth (b 1 h w) of the disparity at `scale`, which is upsampled first."""
        if self.fused is not None:
            return self._all_depths[:, self._place(scale)]
        if scale not in self._depths:
            self._depths[scale] = self.to_depth(resize(self.disp[scale], self.size))
        return self._depths[scale]

    def to_depth(self, disp: Tensor) -> Tensor:
        """Turn disparity of this scene (b 1 ...) into depth."""
        depth = disp_to_depth(disp, self.min_depth, self.max_depth)
        return depth if self.depth_factor is None else depth * full_precision(self.depth_factor).view(-1, 1, 1, 1)

    def disp_on_plain(self) -> tuple[Tensor, Tensor]:
        """Return disparity of scale 0 at the pixels of the plain view, and where this view shows them (b 1 h w, bool).

        As resized pictures overlap: pixel u of the plain view, zoomed by z, is pixel z (u + 0.5) - 0.5.
        """
        disp = resize(self.disp[0], self.size)
        if self.A is None:
            return disp, torch.ones_like(disp, dtype=torch.bool)
        places, shown = [], []
        for axis, side in enumerate(reversed(self.size)):  # x, y
            zoom, start = self.A[:, axis, axis, None].to(disp), self.A[:, axis, 2, None].to(disp)
            place = zoom * (torch.arange(side, dtype=disp.dtype, device=disp.device) + 0.5) - 0.5 + start
            last = (zoom * side + start).clamp_max(side) - 1  # what a reduced picture is continued with is not shown
            shown.append((place >= -0.5) & (place <= last + 0.5))
            places.append(place.clamp_min(0).minimum(last))
        seen = (shown[0][:, None, :] & shown[1][:, :, None]).unsqueeze(1)
        return sample_grid(disp, *places), seen

    def warp(self, scale: int, i_supp: int) -> Tensor:
        """Warp support `i_supp` (b 3 h w) into the target with the depth of `scale`."""
        if self.fused is not None:
            return self.all_warps[:, i_supp, :, self.scales.index(scale)]
        key = (scale, i_supp)
        if key not in self._warps:
            P = self.projection(i_supp)
            self._warps[key] = self.synthesis.warp(self.support(i_supp), self.depth(scale), P)
        return self._warps[key]

    def projection(self, i_supp: int) -> Tensor:
        """Return the projection (b 3 4) from pixels and depth of the target to pixels of support `i_supp`."""
        if i_supp not in self._projections:
            self._projections[i_supp] = self.synthesis.projection(self._need(self.Ts, "Ts")[:, i_supp])
        return self._projections[i_supp]

    @cached_property
    def all_warps(self) -> Tensor:
        """All supports, warped with the depths of all scales in one call (b n 3 s h w); for a scene that is `fused`."""
        assert self.fused is not None
        images, Ts = self._need(self.supports, "supports"), self._need(self.Ts, "Ts")
        return self.synthesis.warp_all(self.fused, images, self._all_depths, Ts)

    @cached_property
    def _all_depths(self) -> Tensor:
        """Depths (b s h w) of all scales."""
        return self.to_depth(torch.cat([resize(disp, self.size) for disp in self.disp.values()], 1))

    def _place(self, scale: int) -> slice:
        return slice(self.scales.index(scale), self.scales.index(scale) + 1)

    @cached_property
    def synthesis(self) -> ViewSynthesis:
        return ViewSynthesis(self._need(self.K, "K"), self.size, self.legacy_sampling)

    def mask_up(self, scale: int) -> Tensor | None:
        """Return the predicted mask (b n h w) of `scale` at full resolution; None without a mask."""
        return None if self.mask is None else resize(self.mask[scale], self.size)

    def target_at(self, size: tuple[int, int]) -> Tensor:
        """Return the target (b 3 *size), resized bilinearly without antialiasing."""
        if size not in self._targets:
            self._targets[size] = resize(self.target, size)
        return self._targets[size]

    @cached_property
    def feats(self) -> list[Tensor]:
        """Features of the target, shallow to deep (b c_k h_k w_k), of the autoencoder or else the depth encoder."""
        return self._features("autoenc_feats", "depth_feats")

    @cached_property
    def supp_feats(self) -> list[Tensor]:
        """The same features of all supports, (b n c_k h_k w_k)."""
        return self._features("supp_autoenc_feats", "supp_depth_feats")

    @property
    def views(self) -> tuple[Scene, ...]:
        twin = self.stereo_twin()
        return (self,) if twin is None else (self, twin)

    def stereo_twin(self) -> Scene | None:
        """Return the scene seen from the virtual stereo camera; None when its disparity was not predicted.

        Target and stereo support change places, the motion is inverted, there is no mask. Monodepth, arXiv:1609.03677,
        sec. 3.2.
        """
        if self.disp_stereo is None:
            return None
        if self._twin is None:
            if 0 not in self.supp_idxs:
                raise ValueError(f"virtual stereo: add 0 to dataset.supp_idxs, which are {self.supp_idxs}")
            T_stereo = self._need(self.T_stereo, "T_stereo")
            self._twin = Scene(
                target=self.support(self.supp_idxs.index(0)),
                supports=self.target.unsqueeze(1),
                K=self.K,
                Ts=invert_pose(T_stereo).unsqueeze(1),
                disp=self.disp_stereo,
                supp_idxs=(0,),
                min_depth=self.min_depth,
                max_depth=self.max_depth,
                legacy_sampling=self.legacy_sampling,
                is_virtual=True,
                fused=self.fused,
            )
        return self._twin

    def fault(self) -> Tensor:
        """Return 0, or NaN once view synthesis met a number that is not finite; see `ViewSynthesis.fault`."""
        views = (view for view in (self, self._twin, *self.others.values()) if view is not None)
        faults = [view.synthesis.fault() for view in views if "synthesis" in vars(view)]  # where something was warped
        return sum(faults, self.target.new_zeros(()))

    def _features(self, *names: str) -> list[Tensor]:
        for name in names:
            if name in self.extras:
                return [full_precision(feat) for feat in self.extras[name]]
        raise ValueError(f"this scene has none of {names}, which a loss needs; it has {sorted(self.extras)}")

    def _need(self, value: Tensor | None, name: str) -> Tensor:
        if value is None:
            raise ValueError(f"this scene has no {name!r}, which a loss needs; supports are {self.supp_idxs}")
        return value


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps x (b c ...) to (b c *size), bilinearly, without antialiasing; x itself when it fits."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
