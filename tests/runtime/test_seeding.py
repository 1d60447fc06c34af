"""Randomness depends on the position and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch

from trainer.runtime.seeding import TRAINING, VALIDATION, seed_everything, seed_of


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_the_same_position_draws_the_same_numbers_whatever_came_before() -> None:
    seed_everything(42, TRAINING, 7)
    first = draws()
    torch.rand(100)
    seed_everything(42, TRAINING, 7)
    assert draws() == first


def test_neighbouring_positions_are_unrelated() -> None:
    positions = [(s, k, i) for s in (42, 43) for k in (TRAINING, VALIDATION) for i in range(50)]
    seeds = [seed_of(*p) for p in positions]
    assert len(set(seeds)) == len(positions)
    assert all(0 <= s < 2**63 for s in seeds)
