"""Stereo consistency: the disparity of each camera should equal the other's, warped. Monodepth, arXiv:1609.03677."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from trainer.geometry import invert_pose
from trainer.geometry.scene import Pictures, Scene, resize
from trainer.losses import LOSSES
from trainer.losses._regression import RegressionName, criterion


@LOSSES.register("stereo_const")
class StereoConsistency(nn.Module):
    """Distance of each camera's sigmoid disparity from that of the other camera, warped into its own view.

    Both directions, upsampled from every scale, make one mean (Monodepth adds the directions). No pixel is left out;
    disparities and the depths that warp them all learn.

    Args:
        loss_name: how two disparities are compared; berhu: linear up to a fifth of the largest difference, then square.
        use_automask: only false; accepted for files of earlier code.

    Raises ValueError when `use_automask` is set.
    """

    source: ClassVar[str] = "Monodepth, arXiv:1609.03677"
    needs: frozenset[str] = frozenset({"supports", "virtual_stereo"})
    on_twin = False  # `forward` compares both views

    def __init__(self, loss_name: RegressionName = "berhu", use_automask: Literal[False] = False):
        super().__init__()
        if use_automask:
            raise ValueError(f"use_automask must be false, got {use_automask}: no pixel is left out")
        self.distance = criterion(loss_name)
        self.mixes_items = loss_name == "berhu"  # the threshold is that of the batch

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over directions, scales, batch and pixels, and the warped disparities of scale 0.

        Raises ValueError when the disparity of the virtual view was not predicted.
        """
        twin = scene.stereo_twin()
        if twin is None or scene.T_stereo is None:
            raise ValueError("stereo_const: no virtual stereo view, set net.depth.use_virtual_stereo: true")
        P = scene.synthesis.projection(scene.T_stereo)
        P_back = twin.synthesis.projection(invert_pose(scene.T_stereo))
        own: list[Tensor] = []
        others: list[Tensor] = []
        pictures: Pictures = {}
        for scale in scene.scales:
            disp, disp_stereo = (resize(view.disp[scale], scene.size) for view in (scene, twin))
            seen_here = scene.synthesis.warp(disp_stereo, scene.depth(scale), P)
            seen_there = twin.synthesis.warp(disp, twin.depth(scale), P_back)
            own += [disp, disp_stereo]
            others += [seen_here, seen_there]
            if scale == 0:
                pictures["disp/warp"] = seen_there.detach()
                pictures["disp/stereo_warp"] = seen_here.detach()
        return self.distance(torch.cat(own), torch.cat(others)), pictures
