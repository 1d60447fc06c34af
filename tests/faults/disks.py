"""Disks for tests that fill them, and folders in which nothing may be changed; both undone at the end."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
    """Put a file system in memory on a folder. Skips the test where that is not allowed."""
    _or_skip("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def unchangeable(folder: Path) -> Iterator[None]:
    """Let nothing be made, renamed or removed in a folder, not even by root. Skips where that is not possible."""
    _or_skip("chattr", "+i", str(folder))
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Fill the disk of a folder but for `left` bytes. Returns the file to delete."""
    path, block = folder / "filler", b"\0" * 4096
    try:
        with open(path, "wb", buffering=0) as file:
            while file.write(block) == len(block):
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    with open(path, "rb+") as file:
        file.truncate(max(path.stat().st_size - left, 0))
    return path


def _or_skip(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"{command[0]}: {error.strerror}")
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
