"""The ResNets of torchvision, told apart by names and shapes of their weights. Their names in timm are the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

# Blocks per stage, and (out, in / groups) channels of layer1.0.conv2. arXiv:1512.03385, 1611.05431, 1605.07146.
RESNETS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int]]] = {
    "resnet18": ((2, 2, 2, 2), (64, 64)),
    "resnet34": ((3, 4, 6, 3), (64, 64)),
    "resnet50": ((3, 4, 6, 3), (64, 64)),
    "resnet101": ((3, 4, 23, 3), (64, 64)),
    "resnet152": ((3, 8, 36, 3), (64, 64)),
    "resnext50_32x4d": ((3, 4, 6, 3), (128, 4)),
    "resnext101_32x8d": ((3, 4, 23, 3), (256, 8)),
    "wide_resnet50_2": ((3, 4, 6, 3), (128, 128)),
    "wide_resnet101_2": ((3, 4, 23, 3), (128, 128)),
}
BASIC = ("resnet18", "resnet34")  # two convolutions per block; all others have three


def architecture(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the ResNet that a state dict (`conv1.weight`, `layer1.0.conv1.weight`, ...) belongs to, or None."""
    blocks = {m[0] for name in tensors if (m := re.match(r"layer([1-4])\.(\d+)", name))}
    depths = Counter(block[5] for block in blocks)
    conv2 = tensors.get("layer1.0.conv2.weight")
    if conv2 is None or "conv1.weight" not in tensors:
        return None
    found = tuple(depths[stage] for stage in "1234"), tuple(conv2.shape[:2])
    is_basic = "layer1.0.conv3.weight" not in tensors
    return next((n for n, told in RESNETS.items() if told == found and (n in BASIC) == is_basic), None)
