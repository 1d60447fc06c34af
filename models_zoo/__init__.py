"""The networks, each reachable by name: `models_zoo.create("depth", enc_name="resnet18", ...)`.

Importing this package costs nothing; torch and timm are loaded when a network is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models_zoo._pretrained import PretrainedUnavailable
from models_zoo.registry import Registry, UnknownName

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETWORKS", "PretrainedUnavailable", "UnknownName", "create"]

NETWORKS = Registry("network", package="models_zoo")


def create(name: str, /, **kwargs: Any) -> nn.Module:
    """Build the network called `name` ("depth", "pose"); keywords are the YAML keys under `net.<name>`.

    Raises UnknownName for an unknown network and TypeError for an unknown keyword, both naming the nearest
    match; ValueError for options that do not go together; PretrainedUnavailable when weights cannot be had.
    """
    network: nn.Module = NETWORKS.create(name, **kwargs)
    return network
