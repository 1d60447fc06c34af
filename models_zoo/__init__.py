"""The networks, by name: `models_zoo.create("depth", enc_name="resnet18", ...)`.

Importing this package is cheap; torch and timm are loaded with the first network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models_zoo.pretrained import PretrainedUnavailable
from models_zoo.registry import Registry, UnknownName

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETWORKS", "PretrainedUnavailable", "UnknownName", "create"]

NETWORKS = Registry("network", package=__name__)


def create(name: str, /, **kwargs: Any) -> nn.Module:
    """Build the network called `name` ("depth", "pose"); keywords are the YAML keys under `net.<name>`.

    Raises UnknownName for an unknown network and TypeError for an unknown keyword, both naming the nearest
    match; ValueError for options that do not go together; PretrainedUnavailable when weights are out of reach.
    """
    return NETWORKS.create(name, **kwargs)
