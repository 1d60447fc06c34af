"""Tiny recordings on disk: the grey level of a frame is ten times its number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 20


def grey_frame(path: Path, level: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path)


def frames(folder: Path, numbers: Iterable[int], digits: int = 6, suffix: str = ".png") -> Path:
    for number in numbers:
        grey_frame(folder / f"{number:0{digits}d}{suffix}", 10 * number % 256)
    return folder


def noise_frame(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def cut(path: Path, keep: float = 0.6) -> None:
    """Cut a file short, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def scar(path: Path) -> None:
    """Damage the inside of a PNG, but not its end: only decoding tells."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(bytes(content))


def level(image) -> int:
    return round(255 * float(image.mean()))
