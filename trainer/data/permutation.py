"""Random orders of many items, computed where they are read: any item after any other, or block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6  # in each, both digits change
_BLOCK = 1 << 14  # rows computed together, 4 ms; one by one, a batch of 12 would take 0.2 ms


class Permutation:
    """A permutation of 0 .. size - 1, to be sliced: `order[start:stop]` returns (stop - start,) int64.

    A number is a pair (left, right) of digits below a and b, with a * b >= size. In turn each digit is increased by a
    hash of the other, modulo its base, which can be undone, and so can all of it. What ends beyond `size` is sent
    through again until it does not: the generalised Feistel network of Black & Rogaway, *Ciphers with Arbitrary Finite
    Domains*, CT-RSA 2002. The hash is that of SplitMix64 (Steele et al., OOPSLA 2014).

    Args:
        size: number of items, > 0.
        words: of entropy, >= 0; the permutation is a function of both.
    """

    def __init__(self, size: int, words: Sequence[int]):
        self.size = size
        self._keys = np.random.default_rng(words).integers(2**64, size=(_ROUNDS, 2), dtype=np.uint64)
        self._start, self._held = 0, np.empty(0, np.int64)  # the rows computed last

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.size)
        if start < self._start or stop > self._start + len(self._held):
            self._start, self._held = start, self._computed(start, max(stop, min(start + _BLOCK, self.size)))
        return self._held[start - self._start : stop - self._start]

    def _computed(self, start: int, stop: int) -> NDArray[Any]:
        a = math.isqrt(self.size - 1) + 1
        bases = np.array([a, -(-self.size // a)], np.uint64)
        items = np.arange(start, stop, dtype=np.uint64)
        outside = np.ones(len(items), bool)
        while outside.any():
            left, right = np.divmod(items[outside], bases[1])
            for first, second in self._keys:
                left = (left + _hashed(right + first) % bases[0]) % bases[0]
                right = (right + _hashed(left + second) % bases[1]) % bases[1]
            items[outside] = left * bases[1] + right
            outside = items >= self.size
        return items.astype(np.int64)


class Windows:
    """A random order in which items of few blocks are read at a time, to be sliced: `order[start:stop]`, int64.

    Blocks come in random order. Each `window` of them in a row is read to its end, its items in random order, before
    the next begins: with one block, items of a block stay together; with all, any item may follow any other.

    Args:
        blocks: (n,) number of the block of each item, from 0.
        window: blocks that are shuffled together, >= 1.
        words: of entropy, >= 0; the order is a function of all three.
    """

    def __init__(self, blocks: NDArray[Any], window: int, words: Sequence[int]):
        self._words = list(words)
        self._items = np.argsort(blocks, kind="stable")
        counts = np.bincount(blocks)
        self._starts = np.cumsum([0, *counts])
        sequence = np.random.default_rng([*words, 0]).permutation(np.flatnonzero(counts))
        self._windows = [sequence[i : i + window] for i in range(0, len(sequence), window)]
        self._ends = np.cumsum([counts[window].sum() for window in self._windows])
        self._held = (-1, np.empty(0, np.int64))  # the window computed last

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self._items))
        parts = [np.empty(0, np.int64)]
        while start < stop:
            i = int(np.searchsorted(self._ends, start, "right"))
            first = int(self._ends[i - 1]) if i else 0
            end = min(stop, int(self._ends[i]))
            parts.append(self._window(i)[start - first : end - first])
            start = end
        return np.concatenate(parts)

    def _window(self, i: int) -> NDArray[Any]:
        if self._held[0] != i:
            items = np.concatenate([self._items[self._starts[b] : self._starts[b + 1]] for b in self._windows[i]])
            self._held = i, np.random.default_rng([*self._words, 1 + i]).permutation(items)
        return self._held[1]


def _hashed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash numbers of 64 bits; products wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
