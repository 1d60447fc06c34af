"""Losses: one published idea per file, found by name.

A loss is an `nn.Module` without parameters or buffers, whose constructor keywords are its YAML keys. Class attributes:
`source` (the paper), `needs` ("supports", "mask", ...: `trainer.losses.needs`), `on_twin` (also evaluated on the
virtual stereo view), `on_views` (the mean over the plain view and the others of `dataset.views`; without it the plain
view alone), `mixes_items` (the value of a batch is not the mean over its items), and `fixes_scale` (it makes a unit of
depth 5.4 m, which video alone leaves open). `forward(scene)` returns
the unweighted value and pictures by tag.
"""

from models_zoo.registry import Registry

LOSSES = Registry("loss", package="trainer.losses")
