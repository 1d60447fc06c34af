"""All kinds of corruption: what they have in common, whatever their rule."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.data.corruptions.kinds import CORRUPTIONS, KINDS, LEVELS, corrupt
from trainer.data.corruptions.weather import plasma

DETERMINISTIC = [kind for kind in KINDS if not CORRUPTIONS[kind].is_random]
DRAWS = {"fog": 60, "frost": 24}  # to average over: clouds differ most
PINNED = {
    "brightness": "078edb0c8ddb7622",
    "color_quant": "4f6301a63873769a",
    "contrast": "2ccaa714a0812e08",
    "defocus_blur": "8bee98e290219cb7",
    "pixelate": "6628713e37cd46f6",
    "zoom_blur": "44e0f534eb246359",
}


def picture() -> np.ndarray:
    """A picture (48 80 3): sky, a road with an edge, and texture, in whole numbers."""
    y, x = np.mgrid[:48, :80]
    sky = np.stack([150 + y, 180 + y, 230 - y], axis=2)
    road = np.stack([60 + 40 * (x // 20 % 2) + y % 7 * 4, 70 + x % 5 * 9, 55 + (x + y) % 3 * 20], axis=2)
    return np.where((y > 20)[..., None], road, sky).astype(np.uint8)


def digest(kind: str, level: int = 3) -> str:
    return hashlib.sha256(corrupt(picture(), kind, level, seed=1, index=2).tobytes()).hexdigest()[:16]


def test_there_are_eighteen_kinds_of_five_levels():
    assert len(KINDS) == 18
    assert all(len(CORRUPTIONS[kind].values) == len(LEVELS) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_a_function_of_seed_index_kind_and_level(kind):
    clean = picture()
    made = corrupt(clean, kind, 3, seed=1, index=2)
    assert (made.dtype, made.shape) == (np.uint8, clean.shape)
    assert np.array_equal(clean, picture())  # left alone
    assert not np.array_equal(made, clean)
    np.random.seed(9)  # noqa: NPY002 - a history that must not matter
    assert np.array_equal(corrupt(clean, kind, 3, seed=1, index=2), made)
    for other in ({"seed": 2, "index": 2}, {"seed": 1, "index": 3}):
        assert np.array_equal(corrupt(clean, kind, 3, **other), made) != CORRUPTIONS[kind].is_random


def test_another_process_makes_the_same_bytes():
    code = "from tests.data.corruptions.test_kinds import *; print(*map(digest, KINDS))"  # without torch
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert dict(zip(KINDS, done.stdout.split(), strict=True)) == {kind: digest(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", sorted(set(DETERMINISTIC) - {"jpeg_compression"}))  # its library may differ
def test_the_bytes_are_those_of_this_version(kind):
    """Raise `VERSION` where a change of these is meant."""
    assert digest(kind) == PINNED[kind]


def mean_change(clean: np.ndarray, made: np.ndarray) -> float:
    return float(np.abs(made.astype(float) - clean).mean())


def lost_likeness(clean: np.ndarray, made: np.ndarray) -> float:
    return 1 - float(np.corrcoef(clean.ravel(), made.ravel())[0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_changes_more_than_the_one_before(kind):
    """On average over draws. Frost brightens while the picture fades, so its mean change may shrink: likeness does."""
    clouds = [plasma(np.random.default_rng(i), 128, 1.2)[:64, :112] for i in range(3)]
    clean = (255 * np.stack(clouds, axis=2)).astype(np.uint8)  # has detail of every size, as photographs have
    measure = lost_likeness if kind == "frost" else mean_change
    draws = range(DRAWS.get(kind, 8) if CORRUPTIONS[kind].is_random else 1)
    change = [np.mean([measure(clean, corrupt(clean, kind, n, seed=0, index=i)) for i in draws]) for n in LEVELS]
    assert change == sorted(change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "fogg"}, "Did you mean 'fog'"),
        ({"level": 6}, "levels are 1 to 5"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"got uint8 of shape \(4, 4\)"),
        ({"image": np.zeros((4, 4, 3))}, "got float64"),
    ],
)
def test_what_is_no_picture_or_kind_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        corrupt(**{"image": picture(), "kind": "fog", "level": 1, "seed": 0, "index": 0, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_pictures_are_corrupted_too(kind):
    assert corrupt(picture()[:5, :8], kind, 5, seed=0, index=0).shape == (5, 8, 3)
