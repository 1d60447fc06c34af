"""Randomness as a function of position, never of history: (seed, step, rank) -> a random state.

A resumed run therefore draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import random

import numpy as np
import torch

TRAINING, VALIDATION, INITIALISATION, STATISTICS = range(4)  # streams that must never coincide


def seed_of(*position: int) -> int:
    """Mix non-negative integers into one 63-bit seed; neighbouring positions give unrelated seeds."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(*position: int) -> None:
    """Seed Python, numpy and torch (all devices in use) at one position of the experiment."""
    seed = seed_of(*position)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from the global stream
    # Not torch.manual_seed: it records the call stack for every kind of device that is not in use, 1 ms a step.
    torch.default_generator.manual_seed(seed)
    for backend in (torch.cuda, torch.xpu):
        if backend.is_initialized():
            backend.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
