"""Classifiers with torchvision's names, which timm shares: a ResNet becomes the encoder of a depth network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models_zoo.weights import FORMATS
from models_zoo.weights.base import (
    ForeignWeights,
    Format,
    UnreadableWeights,
    complete_batchnorm,
    merged,
    tensors_of,
    without_classifier,
)

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
    """Return the name of the ResNet with this state dict (`conv1.weight`, `layer1.0.conv1.weight`, ...), or None."""
    blocks = {m[0] for name in tensors if (m := re.match(r"layer([1-4])\.(\d+)", name))}
    depths = Counter(block[5] for block in blocks)
    conv2 = tensors.get("layer1.0.conv2.weight")
    if conv2 is None or "conv1.weight" not in tensors:
        return None
    found = tuple(depths[stage] for stage in "1234"), tuple(conv2.shape[:2])
    is_basic = "layer1.0.conv3.weight" not in tensors
    return next((n for n, shape in RESNETS.items() if shape == found and (n in BASIC) == is_basic), None)


@FORMATS.register("torchvision")
class TorchvisionResNet(Format):
    """A state dict of torchvision's ResNet, ResNeXt or Wide ResNet; timm's of the same name have the same keys."""

    source = "ResNet, arXiv:1512.03385; ResNeXt, arXiv:1611.05431; Wide ResNet, arXiv:1605.07146"
    looked_for = "a ResNet with torchvision's names: entries conv1.weight, bn1.weight, layer1.0.conv1.weight, ..."

    def recognises(self, path: Path, content: Any) -> bool:
        names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")
        return isinstance(content, Mapping) and all(isinstance(content.get(name), Tensor) for name in names)

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        state = tensors_of(content, path)
        name = architecture(state)
        if name is None:
            known = ", ".join(RESNETS)
            raise UnreadableWeights(f"{path}: has the names of a ResNet, but is none of the known ones: {known}")
        dropped: dict[str, list[str]] = {}
        encoder = without_classifier(state, "", dropped)
        notes = complete_batchnorm(encoder)
        settings = merged({"net": {"depth": {"enc_name": name, "pretrained": False}}}, corrections)
        return ForeignWeights(
            source=path,
            format=f"ResNet with torchvision's names: {name}",
            tensors={f"depth.encoder.{key}": tensor for key, tensor in encoder.items()},
            net=settings.pop("net"),
            parts=("depth.encoder",),
            settings=settings,
            dropped=dropped,
            notes=[*notes, "only an encoder: the file holds no decoders and no other networks"],
        )
