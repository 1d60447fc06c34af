"""Classifiers with torchvision's names: a ResNet becomes the encoder of a depth network, and nothing else.

ResNet, arXiv:1512.03385; ResNeXt, arXiv:1611.05431; Wide ResNet, arXiv:1605.07146.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models_zoo.weights import FORMATS
from models_zoo.weights._resnets import RESNETS, architecture
from models_zoo.weights.base import (
    ForeignWeights,
    Format,
    UnreadableWeights,
    complete_batchnorm,
    merged,
    tensors_of,
    without_classifier,
)


@FORMATS.register("torchvision")
class TorchvisionResNet(Format):
    """A state dict of torchvision's ResNet, ResNeXt or Wide ResNet; timm's of the same name have the same keys."""

    source = "ResNet, arXiv:1512.03385; ResNeXt, arXiv:1611.05431; Wide ResNet, arXiv:1605.07146"
    looked_for = (
        "a ResNet with torchvision's names: entries conv1.weight, bn1.weight, layer1.0.conv1.weight, ..."
    )

    def recognises(self, path: Path, content: Any) -> bool:
        """See `Format`."""
        names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")
        return isinstance(content, Mapping) and all(isinstance(content.get(name), Tensor) for name in names)

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        """See `Format`."""
        state = tensors_of(content, path)
        name = architecture(state)
        if name is None:
            raise UnreadableWeights(
                f"{path}: has the names of a ResNet, but none of the known ones: {', '.join(RESNETS)}"
            )
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
            notes=[*notes, "only an encoder: decoders and other networks are not in the file"],
        )
