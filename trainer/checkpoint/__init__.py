"""Checkpoints: one safetensors file, written whole, verified when read, and everything needed to continue from it."""

from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.loading import (
    Capsule,
    find_checkpoint,
    load_capsule,
    load_objective,
    load_pretrained,
    read_pretrained,
)
from trainer.checkpoint.saved import PartialWeights, Saved, WrongArchitecture
from trainer.checkpoint.state import Position, TrainState

__all__ = [
    "Capsule",
    "Checkpointer",
    "PartialWeights",
    "Position",
    "Saved",
    "TrainState",
    "WrongArchitecture",
    "find_checkpoint",
    "load_capsule",
    "load_objective",
    "load_pretrained",
    "read_pretrained",
]
