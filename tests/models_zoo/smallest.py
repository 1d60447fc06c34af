"""The smallest networks that every decoder works in."""

from __future__ import annotations

from typing import Any

from models_zoo.decoders import DECODERS

STRIDES = {"test_resnet": (2, 4, 8, 16, 32), "litemono_tiny": (4, 8, 16), "test_vit": (16, 16, 16, 16)}


def smallest(dec_name: str) -> dict[str, Any]:
    """Options of a depth network with this decoder: an encoder whose features it reads, and all of its scales."""
    decoder = DECODERS.get(dec_name)
    enc_name = next(name for name, strides in STRIDES.items() if not decoder.feature_problems(strides))
    return {"enc_name": enc_name, "dec_name": dec_name, "out_scales": list(decoder.scales)}
