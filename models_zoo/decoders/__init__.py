"""The decoders: dense maps at several scales from encoder features. One published idea per file.

An entry is a subclass of `models_zoo.decoders.base.Decoder`.
"""

from __future__ import annotations

from models_zoo.registry import Registry

DECODERS = Registry("decoder", package=__name__)
