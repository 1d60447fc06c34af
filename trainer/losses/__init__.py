"""Losses: one published idea per file, found by name.

A loss is an `nn.Module` without parameters or buffers. Its constructor keywords are its YAML keys; `needs`
names what it cannot do without ("supports", "mask", "virtual_stereo", ...: `trainer.losses.needs`); `on_twin`
says whether it is also asked about the virtual stereo view; `mixes_items`, where it is true, that the value of a
batch is not the mean of those of its items. `forward(scene)` returns the unweighted value and pictures by tag.
"""

from models_zoo.registry import Registry

LOSSES = Registry("loss", package="trainer.losses")
