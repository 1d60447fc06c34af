"""The decoders: encoder features become dense maps at several scales. One published idea per file.

An entry is a class with the constructor and the `forward` of `models_zoo.decoders.base.Decoder`.
"""

from __future__ import annotations

from models_zoo.registry import Registry

DECODERS = Registry("decoder", package="models_zoo.decoders")
