"""One item as a data set reads it, before augmentation: pictures as they are, and what is known of their geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.geometry import flip_intrinsics
from trainer.types import STEREO_BASELINE_UNITS

_MIRROR = np.outer([-1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0])  # times a (4 4) motion T: diag(signs) T diag(signs)


@dataclass(frozen=True)
class RawItem:
    """One item as `DepthDataset.load` reads it, before augmentation: n supports, network size (h w)."""

    target: NDArray[np.uint8]  # (h w 3) RGB
    supports: Sequence[NDArray[np.uint8]]  # n times (h w 3), in the order of `supp_idxs`
    K: NDArray[Any] | None  # (3 3) intrinsics in pixels of (h, w), pixel centres at integers; None = unknown
    T_stereo: NDArray[Any] | None = None  # (4 4) target -> stereo support, baseline 0.1 units
    depth: NDArray[Any] | None = None  # (H W) metres, 0 = none
    Ts_true: NDArray[Any] | None = None  # (n 4 4) target -> support, metres
    hints: NDArray[Any] | None = None  # (h w) proxy depth in units of the 0.1 baseline, 0 = none
    pseudo: NDArray[Any] | None = None  # (h w) disparity of a teacher up to scale and shift, > 0; 0 = none
    K_depth: NDArray[Any] | None = None  # (3 3) intrinsics in pixels of `depth`, where they are known
    edges: NDArray[Any] | None = None  # (H W) bool, depth edges of the truth
    foreground: NDArray[Any] | None = None  # (H W) 0..1, share of a pixel that a near object covers
    travelled: NDArray[Any] | None = None  # (n,) metres from target to support, 0 = not known; None = as `Ts_true` says

    def mirrored(self) -> RawItem:
        """Exchange left and right. Images and maps are views of the old ones; supports keep their places.

        x becomes -x: motions are conjugated with diag(-1, 1, 1, 1), so a stereo baseline changes its sign,
        and the principal point moves to w - 1 - cx, pixel centres being integers.
        """

        def flipped(image: Any) -> Any:
            return None if image is None else image[:, ::-1]

        def camera(K: Any, image: Any) -> Any:
            known = K is not None and image is not None
            return flip_intrinsics(torch.tensor(K), image.shape[1]).numpy() if known else None

        return RawItem(
            target=flipped(self.target),
            supports=[flipped(support) for support in self.supports],
            K=camera(self.K, self.target),
            T_stereo=None if self.T_stereo is None else self.T_stereo * _MIRROR,
            depth=flipped(self.depth),
            Ts_true=None if self.Ts_true is None else self.Ts_true * _MIRROR,
            hints=flipped(self.hints),
            pseudo=flipped(self.pseudo),
            K_depth=camera(self.K_depth, self.depth),
            edges=flipped(self.edges),
            foreground=flipped(self.foreground),
            travelled=self.travelled,
        )


def stereo_motion(right: bool) -> NDArray[Any]:
    """Return the motion target -> other camera (4 4), baseline 0.1 units; `right`: the target is the right picture."""
    T = np.eye(4)
    T[0, 3] = STEREO_BASELINE_UNITS if right else -STEREO_BASELINE_UNITS
    return T
