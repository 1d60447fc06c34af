"""Losses: one published idea per file, found by name. A loss takes a `Scene` and returns `(value, pictures)`."""

from models_zoo.registry import Registry

LOSSES = Registry("loss", package="trainer.losses")
