"""Files are looked at once: again when any of them may have changed, and always when one was damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.data.files import damage

END = b"\xff\xd9"  # of a JPEG


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Five files that end as pictures do, few enough to be many; the user's cache is a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(damage, "_MANY", 5)
    monkeypatch.setattr(damage, "_PART", 2)
    paths = [tmp_path / f"{i}.jpg" for i in range(5)]
    for path in paths:
        path.write_bytes(b"picture" + END)
    return paths


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened."""
    paths: list[str] = []
    real = damage._file_problem
    monkeypatch.setattr(damage, "_file_problem", lambda path: paths.append(path) or real(path))
    return paths


def find(pictures: list[Path]) -> int:
    problems, left = damage.find_damaged(map(str, pictures))
    assert left == 0
    return len(problems)


def test_whole_files_are_looked_at_once(pictures: list[Path], looked: list[str]) -> None:
    assert find(pictures) == find(pictures) == 0
    assert sorted(looked) == [str(path) for path in pictures]
    assert find(pictures[::-1]) == find(pictures[:4]) == 0  # another list; too few to be remembered
    assert find(pictures[:4]) == 0
    assert len(looked) == 5 + 5 + 4 + 4


def cut(path: Path) -> None:
    """Spoil a file in place, so that its folder, its size and its time of change stay what they were."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"xx")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_other(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"picturexx")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [cut, replace_by_other])
def test_damage_is_found_however_it_came_and_never_remembered(pictures, looked, change) -> None:
    assert find(pictures) == 0
    change(pictures[3])
    assert find(pictures) == find(pictures) == 1
    pictures[3].unlink()
    assert find(pictures) == 0  # what is missing is reported by others
    pictures[3].write_bytes(b"pictures" + END)
    assert find(pictures) == find(pictures) == 0
    assert len(looked) == 5 * 5


def test_without_a_cache_or_as_another_process_of_the_machine(pictures, looked, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(pictures[0]))  # a file, so nothing can be remembered
    assert find(pictures) == find(pictures) == 0
    assert len(looked) == 10
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    cut(pictures[0])
    assert find(pictures) == 0
    assert len(looked) == 10
