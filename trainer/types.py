"""Batches and predictions: their keys, shapes and units.

Letters in shapes: b batch, n support frames, (h, w) network input size, (H, W) size of the ground truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict

from torch import Tensor

STEREO_BASELINE_M = 0.54  # metres between the cameras of a KITTI stereo pair
STEREO_BASELINE_UNITS = 0.1  # the same in `T_stereo` (Monodepth2, arXiv:1806.01260)
# 5.4: metres in a unit of depth and motion, where something in the training fixes the unit: stereo pairs, or the losses
# `speed` and `camera_height`
METRES_PER_UNIT = STEREO_BASELINE_M / STEREO_BASELINE_UNITS

DATA_STAGES = ("Total", "Image", "Support", "Depth", "Augment", "ToTorch")  # columns of Batch["load_ms"]


class Batch(TypedDict, total=False):
    """A flat dict of tensors, batch first, so that it can be moved, split and gathered."""

    target: Tensor  # (b 3 h w) RGB in [0, 1], never colour-augmented
    supports: Tensor  # (b n 3 h w) support images, in the order of `dataset.supp_idxs`
    target_aug: Tensor  # (b 3 h w) colour-augmented network input in [0, 1]; absent = `target`
    supports_aug: Tensor  # (b n 3 h w) likewise; absent = `supports`
    K: Tensor  # (b 3 3) intrinsics in pixels of (h, w)
    T_stereo: Tensor  # (b 4 4) target -> stereo support, when 0 is in `supp_idxs`; baseline 0.1 units
    depth: Tensor  # (b 1 H W) ground truth in metres, 0 = missing, at its own resolution
    depth_hints: Tensor  # (b 1 h w) proxy depth in units of the 0.1 baseline, 0 = missing
    pseudo: Tensor  # (b 1 h w) disparity of a teacher network up to scale and shift, > 0; 0 = none
    # Further views of the item in training, when `dataset.views`: NAME is high, low, crop or permute. All but permute:
    # view_NAME_target (b 3 h w), view_NAME_supports (b n 3 h w)  as `target`, `supports`
    # view_NAME_A (b 3 3)  pixels of `target` -> pixels of the view: a zoom and a shift; its intrinsics are A K
    # view_NAME_target_aug (b 3 h w)  as `target_aug`, of crop
    # view_NAME_depth_factor (b,)  of crop: depth is this times what the network says
    # view_permute_cut (b 2)  x and y of the pixel at which `target_aug` is cut, int64
    Ts_true: Tensor  # (b n 4 4) true target -> support motion in metres, if known
    travelled: Tensor  # (b n) metres from target to support along the way, 0 = not known, when `dataset.use_speed`
    K_depth: Tensor  # (b 3 3) intrinsics in pixels of `depth`, if known
    edges: Tensor  # (b 1 H W) 1 on depth edges of the truth, if known
    foreground: Tensor  # (b 1 H W) share of a pixel that a near object covers, 0..1, if known
    index: Tensor  # (b,) dataset index, int64
    load_ms: Tensor  # (b, len(DATA_STAGES)) milliseconds spent on the item, when `dataset.log_time`


Images = dict[str, Tensor]


@dataclass
class StepOutput:
    """The result of a forward pass of the objective. `images` are computed when first read."""

    loss: Tensor  # scalar: sum of weight_k * (loss_k + stereo_loss_k)
    # Unweighted scalars: {"img_recon": ..., "stereo_img_recon": ...}. With several views of the items loss_k is the
    # mean over all of them, and those of the further ones come beside it: "high_img_recon".
    losses: dict[str, Tensor]
    predictions: dict[str, Any]  # disp, depth, Ts, mask, ... as in `Predictions`, without graph
    make_images: Callable[[], Images] = field(default=dict, repr=False)

    @cached_property
    def images(self) -> Images:
        """Pictures for the tracker, {name: (b c h w)}, without gradient."""
        return self.make_images()


class Predictions(TypedDict, total=False):
    """`StepOutput.predictions`. Inner dicts are keyed by scale s (stride 2**s), ascending."""

    disp: dict[int, Tensor]  # (b 1 h/2^s w/2^s) disparity of the network, 0 = far
    disp_stereo: dict[int, Tensor]  # (b 1 ...) of the virtual stereo view, chosen per item
    mask: dict[int, Tensor]  # (b n ...) one channel per support
    depth: dict[int, Tensor]  # (b 1 h w) depth at network resolution, in units of the 0.1 baseline
    Ts: Tensor  # (b n 4 4) target -> support, in the order of `supp_idxs`
    K: Tensor  # (b 3 3) intrinsics in pixels of (h, w), where they are learned, in place of the batch's
    R: Tensor  # (b m 3) axis-angle of the m supports with an offset other than 0, as predicted, before inversion
    t: Tensor  # (b m 3) translation of the same
    focal: Tensor  # (b m 2) learned fx, fy of the same in image widths and heights; K is that of the first
    centre: Tensor  # (b m 2) learned cx, cy of the same
    depth_feats: list[Tensor]  # (b c_k h_k w_k) of the depth encoder, shallow to deep
    supp_depth_feats: list[Tensor]  # (b n c_k h_k w_k) of the supports, constant, if a loss compares features
    autoenc_imgs: dict[int, Tensor]  # (b 3 h/2^s w/2^s) reconstruction of the target
    autoenc_feats: list[Tensor]  # as depth_feats, of the autoencoder
    supp_autoenc_imgs: dict[int, Tensor]  # (b n 3 ...) reconstruction of the supports
    supp_autoenc_feats: list[Tensor]
