"""Number the layers of an encoder, from the image on: what learning rates that decay with depth are laid out by."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn


def layer_numbers(encoder: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter of an encoder, by name: 0 = stem and embeddings, then block by block.

    The groups are timm's (`group_matcher` of a model). Layers around a ViT, which read out its maps, and whatever else
    timm leaves out count with the deepest block. Raises ValueError for an encoder whose layers are not known.
    """
    prefix, model = _grouped(encoder)
    names = {name: name.removeprefix(prefix) for name, _ in encoder.named_parameters() if name.startswith(prefix)}
    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    # A `features_only` model calls the first two parts of "stages.0.blocks" by one name, "stages_0.blocks".
    numbers |= {name.replace(".", "_", 1): number for name, number in numbers.items()}
    if unknown := [name for name, own in names.items() if own not in numbers]:
        raise ValueError(f"timm does not say to which layer {unknown[0]} belongs")
    found = {name: numbers[own] for name, own in names.items()}
    order = {number: i for i, number in enumerate(sorted(set(found.values())))}
    deepest = len(order) - 1
    return {name: order[found[name]] if name in found else deepest for name, _ in encoder.named_parameters()}


def _grouped(encoder: nn.Module) -> tuple[str, Any]:
    """Return the model that groups the parameters, and the prefix of its parameters in the encoder.

    That is a part of the encoder, or where timm has rebuilt a model from its parts, the model that it was.
    """
    for path, module in encoder.named_modules():
        if hasattr(module, "group_matcher"):
            return f"{path}." if path else "", module
    source = getattr(encoder, "pretrained_cfg", None) or {}
    if "architecture" not in source:
        raise ValueError(f"{type(encoder).__name__} has no `group_matcher`, which would name its layers")
    with torch.device("meta"):
        return "", timm.create_model(source["architecture"])
