"""Checkpoints: one safetensors file, written whole, verified when read, and everything needed to continue from it."""

from trainer.checkpoint.checkpointer import (
    Capsule,
    Checkpointer,
    find_checkpoint,
    load_capsule,
    load_objective,
    load_pretrained,
    read_pretrained,
)
from trainer.checkpoint.saved import Saved

__all__ = [
    "Capsule",
    "Checkpointer",
    "Saved",
    "find_checkpoint",
    "load_capsule",
    "load_objective",
    "load_pretrained",
    "read_pretrained",
]
