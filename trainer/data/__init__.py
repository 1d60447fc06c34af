"""Data: one data set per file, found by name; `base`, `augment` and `loaders` hold what they share."""

from models_zoo.registry import Registry

DATASETS = Registry("dataset", package="trainer.data")
