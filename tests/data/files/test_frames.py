"""Frames by drive and number, and pictures by their bytes: what two lists share, against counting by hand."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from trainer.data.files.frames import (
    LEFT,
    RIGHT,
    SUPPORT,
    Frames,
    Overlap,
    compare,
    fingerprint,
    fingerprints,
    from_ranges,
    to_ranges,
)


def test_a_frame_is_listed_once_with_all_that_it_is_read_for() -> None:
    frames = Frames.of([("b", [3, 1], LEFT), ("b", [1], RIGHT), ("b", [-1, 2], SUPPORT), ("a", [7], SUPPORT)])
    assert list(frames.drives) == ["a", "b"]
    numbers, roles = frames.drives["b"]
    assert (numbers.tolist(), roles.tolist()) == ([1, 2, 3], [LEFT | RIGHT, SUPPORT, LEFT])
    assert len(frames) == 4
    again = Frames.union([Frames.of([("b", [1, 3], LEFT)]), frames])
    assert {d: (n.tolist(), r.tolist()) for d, (n, r) in again.drives.items()} == {
        "a": ([7], [SUPPORT]),
        "b": ([1, 2, 3], [LEFT | RIGHT, SUPPORT, LEFT]),
    }


def test_the_digest_is_that_of_sorted_lines_of_targets_whatever_the_camera() -> None:
    frames = Frames.of([("b", [10, 9], LEFT), ("a", [2], RIGHT), ("b", [9], RIGHT), ("b", [11], SUPPORT)])
    assert frames.digest() == hashlib.sha256(b"a 2\nb 10\nb 9\n").hexdigest()


def test_an_overlap_small_enough_to_count() -> None:
    trained = Frames.of([("a", [10, 20], LEFT), ("a", [11, 21], SUPPORT), ("b", [5], RIGHT)])
    evaluated = Frames.of([("a", [10, 11, 20, 31, 32], LEFT), ("a", [20], RIGHT), ("b", [5], LEFT), ("c", [5], LEFT)])
    # a/10 and a/20 are targets, a/11 a support, b/5 the other camera, a/31 is 10 frames from a/21, a/32 is 11.
    assert compare(evaluated, trained) == Overlap(7, 3, exact=4, other_camera=1, as_support=1, near=5, shared_drives=2)
    assert compare(evaluated, Frames()) == Overlap(7, 3)
    assert compare(Frames(), trained) == Overlap()


def test_any_overlap_against_loops() -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> list[tuple[str, int, int]]:
        return [
            ("abcd"[rng.integers(4)], int(rng.integers(60)), int(rng.choice([LEFT, RIGHT, SUPPORT])))
            for _ in range(count)
        ]

    for _ in range(30):
        ours, theirs = some(20), some(25)
        found = compare(*(Frames.of((d, [n], r) for d, n, r in entries) for entries in (ours, theirs)), near=3)
        targets = {(d, n) for d, n, r in ours if r != SUPPORT}
        seen = {(d, n) for d, n, _ in theirs}
        scenes = {(d, n) for d, n, r in theirs if r != SUPPORT}
        views = {(d, n, r) for d, n, r in theirs if r != SUPPORT}
        same = {(d, n) for d, n, r in ours if (d, n, r) in views}
        assert found == Overlap(
            len(targets),
            len({d for d, _ in targets}),
            exact=len(targets & seen),
            other_camera=len((targets & scenes) - same),
            as_support=len((targets & seen) - scenes),
            near=sum(any((d, m) in seen for m in range(n - 3, n + 4)) for d, n in targets),
            shared_drives=len({d for d, _ in targets} & {d for d, _ in seen}),
        )


def test_ranges_there_and_back() -> None:
    numbers = np.array([0, 1, 2, 5, 7, 8], np.int64)
    assert to_ranges(numbers) == "0-2,5,7-8"
    assert from_ranges("0-2,5,7-8").tolist() == numbers.tolist()
    assert (to_ranges(numbers[:0]), from_ranges("").tolist()) == ("", [])
    for odd in ("1-", "a", "3-1", "1-2-3", "0-99999999999", "9" * 30):
        with pytest.raises(ValueError, match="ranges"):
            from_ranges(odd)


def test_pictures_are_known_by_their_bytes_not_by_their_names(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8)
    paths = [tmp_path / name for name in ("a.jpg", "renamed.jpg", "longer.jpg", "middle.jpg")]
    other = content.copy()
    other[len(other) // 7 * 3 : len(other) // 7 * 3 + 4000] ^= 1  # where one of eight pieces lies
    for path, held in zip(paths, (content, content, np.r_[content, 0], other), strict=True):
        path.write_bytes(held.astype(np.uint8).tobytes())
    first, same, longer, middle = map(fingerprint, paths)
    assert first == same == fingerprint(io.BytesIO(content.tobytes()))
    assert len({first, longer, middle}) == 3
    assert fingerprints([*paths, tmp_path / "missing.jpg"]).tolist() == sorted({first, longer, middle})


def test_small_pictures_are_hashed_whole(tmp_path: Path) -> None:
    marks = set()
    for place in range(0, 30_000, 1500):
        content = bytearray(30_000)
        content[place] = 1
        (tmp_path / "a.png").write_bytes(content)
        marks.add(fingerprint(tmp_path / "a.png"))
    assert len(marks) == 20
