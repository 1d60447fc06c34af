"""A computed order is a permutation of any size, and no worse than one that was drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.data import permutation
from trainer.data.permutation import Permutation, Windows

LARGE = 10_000_019  # a prime


@pytest.mark.parametrize("sizes", [range(1, 70), (97, 128, 1000, 1024, 1025), (65_536, 65_537)], ids=str)
def test_every_item_has_one_place(sizes) -> None:
    for size in sizes:
        assert np.array_equal(np.sort(Permutation(size, [3, 0])[:]), np.arange(size)), size


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_every_item_is_as_often_at_every_place(size: int) -> None:
    """Pearson's chi-square of a table with (size - 1)^2 degrees of freedom, within five standard deviations."""
    draws, table = 600, np.zeros((size, size))
    for seed in range(draws):
        table[np.arange(size), Permutation(size, [seed])[:]] += 1
    expected, freedom = draws / size, (size - 1) ** 2
    assert ((table - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)


def test_all_orders_of_four_items_are_drawn_alike() -> None:
    orders = [tuple(Permutation(4, [seed])[:].tolist()) for seed in range(960)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    assert ((counts - 40) ** 2 / 40).sum() < 23 + 5 * math.sqrt(2 * 23)


def test_neighbours_of_a_large_order_are_far_from_each_other() -> None:
    """Two random items of n are n / 3 apart on average, and half of all steps lead upwards."""
    steps = np.diff(Permutation(LARGE, [1])[5_000_000:5_020_000]) / LARGE
    assert abs(steps).mean() == pytest.approx(1 / 3, abs=0.01)
    assert (steps > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_parts_are_those_of_the_whole_wherever_reading_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Permutation(1000, [7])[:]
    monkeypatch.setattr(permutation, "_BLOCK", 16)
    order = Permutation(1000, [7])
    for start, stop in [(0, 4), (4, 8), (14, 20), (990, 1000), (998, 1005), (3, 3), (0, 100), (500, 501)]:
        assert np.array_equal(order[start:stop], whole[start:stop])
    assert not np.array_equal(Permutation(1000, [8])[:], whole)


BLOCKS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 0])  # 3, 3, 1 and 4 items


@pytest.mark.parametrize("window", [1, 2, 3, 4, 9])
def test_a_window_of_blocks_is_read_to_its_end_before_the_next_begins(window: int) -> None:
    order = Windows(BLOCKS, window, [5, 0])[:]
    assert sorted(order.tolist()) == list(range(11))
    left = BLOCKS[order].tolist()
    while left:  # the first blocks to come up, as many as a window has, fill its places
        size, chosen = 0, set[int]()
        while len(chosen) < min(window, len(set(left))):
            chosen.add(left[size])
            size += 1
        length = sum(np.bincount(BLOCKS)[list(chosen)])
        assert set(left[:length]) == chosen
        left = left[length:]


def test_an_order_by_windows_is_a_function_of_its_words_and_read_in_any_slices() -> None:
    whole = Windows(BLOCKS, 2, [5, 0])[:].tolist()
    assert whole == [2, 6, 8, 9, 7, 3, 4, 10, 1, 5, 0]  # a format: checkpoints are continued in it
    parts = Windows(BLOCKS, 2, [5, 0])
    assert [int(i) for start in (9, 6, 3, 0) for i in parts[start : start + 3]] == [
        *whole[9:], *whole[6:9], *whole[3:6], *whole[:3]
    ]  # fmt: skip
    assert Windows(BLOCKS, 2, [5, 1])[:].tolist() != whole


def test_with_all_blocks_in_one_window_any_item_may_follow_any_other() -> None:
    pairs = {tuple(Windows(np.arange(5) // 2, 3, [seed])[:2].tolist()) for seed in range(300)}
    assert len(pairs) == 5 * 4
