"""Data: one data set per file, found by name; what they share stands in `base`, `augment` and `loaders`."""

from models_zoo.registry import Registry

DATASETS = Registry("dataset", package="trainer.data")
