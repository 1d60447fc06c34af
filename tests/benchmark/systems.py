"""The published systems, shrunk: their YAML files with tiny encoders, two scales, lively weights and no noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from tests.world import ROOT
from trainer.build import build_objective
from trainer.config import load_config
from trainer.objective import Objective

FOLDER = ROOT / "cfg" / "benchmark"
DEFAULT = FOLDER / "default.yaml"
NAMES = (
    "garg", "monodepth", "kuznietsov", "sfm_learner", "klodt", "depth_vo_feat", "dvso", "monoresmatch",
    "superdepth", "monodepth2_M", "monodepth2_MS", "depth_hints_MS", "ddvnet", "feat_depth", "hrdepth_M",
    "hrdepth_MS", "cadepth_MS", "diffnet_MS",
)  # fmt: skip
WIDTH, HEIGHT = 96, 64
DEPTHS = {"min_depth": 0.7, "max_depth": 40.0}  # warps of a few pixels, and not what the defaults say
WITH_NOISE = ("img_recon", "feat_recon")


def written(name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Merge default, file and changes as plain YAML: no schema, no defaults filled in."""
    texts = [path.read_text(encoding="utf-8") for path in (DEFAULT, FOLDER / f"{name}.yaml")]
    return merge(merge(*map(yaml.safe_load, texts)), changes or {})


def build(name: str, changes: Mapping[str, Any] | None = None, **trainer: Any) -> Objective:
    """Build a system in evaluation mode, so that networks answer the same for one image and for many."""
    sections = written(name, changes)
    used = [net for net, kwargs in sections["net"].items() if kwargs is not None]
    settings = {
        "net": {net: {"enc_name": "test_resnet", "pretrained": False} for net in used},
        "loss": {loss: {"automask_noise": 0} for loss in WITH_NOISE if sections["loss"].get(loss)},
        "dataset": {"type": "synthetic", "size": [WIDTH, HEIGHT]},
        "trainer": {**DEPTHS, **trainer},
    }
    settings = merge(settings, {"net": {"depth": {"out_scales": [0, 2]}}})
    cfg = load_config(FOLDER / f"{name}.yaml", DEFAULT, overrides=[settings, changes or {}])
    torch.manual_seed(0)
    objective = build_objective(cfg)
    enliven(objective.networks)
    return objective.eval()


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; everything else is replaced."""
    out = dict(copy.deepcopy(base))
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else copy.deepcopy(value)
    return out


@torch.no_grad()
def enliven(networks: nn.ModuleDict) -> None:
    """Give fresh networks outputs that differ from pixel to pixel and from image to image."""
    for name, module in networks.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.3, 0.7), (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                nn.init.uniform_(cast(Tensor, values), low, high)
        elif isinstance(module, nn.Conv2d) and ".encoder." not in name:
            module.weight.mul_(3)  # about keeps the variance from layer to layer
    if "pose" in networks:
        last = cast(nn.Conv2d, list(networks["pose"].modules())[-1])
        last.weight.mul_(30)
        nn.init.normal_(cast(Tensor, last.bias), std=4)  # times 0.01: units and radians


def make_batch(supp_idxs: Sequence[int], hints: bool = False) -> dict[str, Tensor]:
    """Two items of smooth random images, one seen by the left camera and one by the right."""
    generator = torch.Generator().manual_seed(1)

    def smooth(*channels: int) -> Tensor:
        """Random maps in 0..1 with coarse and fine structure."""
        maps = torch.zeros(math.prod(channels), 1, HEIGHT, WIDTH)
        for cells, gain in ((8, 0.77), (24, 0.23)):
            noise = torch.rand(len(maps), 1, cells * 2 // 3, cells, generator=generator)
            maps += gain * nn.functional.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic")
        return maps.clamp(0, 1).view(*channels, HEIGHT, WIDTH)

    b, n = 2, len(supp_idxs)
    target = smooth(b, 3)
    supports = (0.3 * target[:, None] + 0.7 * smooth(b, n, 3)).clamp(0, 1)
    batch = {
        "target": target,
        "supports": supports,
        "target_aug": target**1.3 * 0.9,
        "supports_aug": supports**1.3 * 0.9,
        "K": torch.tensor([[0.6 * WIDTH, 0, 0.48 * WIDTH], [0, 1.9 * HEIGHT, 0.53 * HEIGHT], [0, 0, 1]]).repeat(
            b, 1, 1
        ),
    }
    if 0 in supp_idxs:
        batch["T_stereo"] = torch.eye(4).repeat(b, 1, 1)
        batch["T_stereo"][:, 0, 3] = torch.tensor([-0.1, 0.1])
    if hints:
        holes = smooth(b, 1) > 0.55  # more wrong than any hint, if holes were taken for hints
        batch["depth_hints"] = (1 / (0.4 + smooth(b, 1))).masked_fill(holes, 0)
    return batch


def offsets(sections: Mapping[str, Any]) -> list[int]:
    """Read dataset.supp_idxs, a number or a list."""
    value = sections["dataset"]["supp_idxs"]
    return [value] if isinstance(value, int) else list(value)
