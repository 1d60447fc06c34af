"""Checkpoints: one safetensors file, written atomically, verified when read, and everything needed to continue.

Start here: `load_objective` to use a trained network, `pretrained` for the weights a new run starts from, `resume` for
what may change when a run continues, `foreign` for weights of other code.
"""

from trainer.checkpoint.checkpointer import Capsule, Checkpointer, load_capsule
from trainer.checkpoint.loading import find_checkpoint, load_objective, load_with_config, runs_below
from trainer.checkpoint.pretrained import read_pretrained
from trainer.checkpoint.saved import Saved
from trainer.checkpoint.trained_on import TrainedOn

__all__ = [
    "Capsule",
    "Checkpointer",
    "Saved",
    "TrainedOn",
    "find_checkpoint",
    "load_capsule",
    "load_objective",
    "load_with_config",
    "read_pretrained",
    "runs_below",
]
