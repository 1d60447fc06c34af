"""The decoders that read a pyramid of feature maps, as a ResNet gives it; the others have tests of their own."""

from __future__ import annotations

from models_zoo.decoders import DECODERS

PYRAMID = [name for name in DECODERS.names() if not DECODERS.get(name).feature_problems((2, 4, 8, 16, 32))]
