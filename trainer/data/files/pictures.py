"""Picture files: opened without running anything, refused with a reason, read as RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file

DEEP_MODES = ("I", "F")  # beginnings of Pillow's names of more than 8 bits
# Pillow knows dozens more and chooses by content, whatever the ending; its reader of PostScript starts a program.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")


@contextmanager
def open_picture(source: Any, what: str = "picture", fix: str = "Copy or download it again") -> Iterator[Image.Image]:
    """Open a picture of `FORMATS`, a path or a stream; the block decodes it.

    Raises DataError naming `source`, with the advice `fix`, when it is missing or unreadable.
    """
    try:
        opened = open_file(source) if isinstance(source, str | Path) else nullcontext(source)
        with opened as file, Image.open(file, formats=FORMATS) as picture:
            yield picture
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{source} is missing. Restore it or remove its items from the split") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{source} is not a readable {what} (none of {', '.join(FORMATS)}). {fix}") from error
    except Exception as error:  # decoders raise anything
        raise DataError(f"{source} is not a readable {what} ({error}). {fix}") from error


def read_image(path: str | Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a picture as RGB, resized as `at_size`. size is (w, h). Returns (h w 3). Raises DataError as `read_rgb`."""
    return at_size(read_rgb(path), size)


def read_rgb(path: str | Path) -> Image.Image:
    """Read a picture as RGB.

    Raises DataError naming the file when it is missing, truncated, no picture, or one of more than 8 bits.
    """
    with open_picture(path) as picture:
        if picture.mode.startswith(DEEP_MODES):  # `convert` would make nearly all of it white
            raise DataError(f"{path} has more than 8 bits per pixel ({picture.mode}). Write it as 8-bit grey or colour")
        rgb = picture.convert("RGB")
    return rgb


def at_size(rgb: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture bilinearly with antialiasing. size is (w, h). Returns (h w 3)."""
    return np.asarray(rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BILINEAR))


def picture_size(source: Any) -> tuple[int, int]:
    """Read (width, height) of a picture without decoding it. Raises DataError."""
    with open_picture(source) as picture:
        size = picture.size
    return size
