"""Picture files: opened without running anything, refused with a reason, read as RGB, resized.

Pillow opens every file and has the last word on damaged ones. Ordinary pictures are decoded to the same bits by
kornia-rs where it is (extra `fast`; KITTI's JPEG in 0.63 of Pillow's time, its PNG in 0.34), else by torchvision
(0.68 and 0.76).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file

DEEP_MODES = ("I", "F")  # beginnings of Pillow's names of more than 8 bits
# Pillow knows dozens more and chooses by content, whatever the ending; its reader of PostScript starts a program.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")


@contextmanager
def open_picture(
    source: Any, what: str = "picture", fix: str = "Copy or download it again"
) -> Iterator[ImageFile.ImageFile]:
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


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """Read a picture as RGB (h w 3).

    Raises DataError naming the file when it is missing, truncated, no picture, or one of more than 8 bits.
    """
    with open_picture(path) as picture:
        if picture.mode.startswith(DEEP_MODES):  # `convert` would make nearly all of it white
            raise DataError(f"{path} has more than 8 bits per pixel ({picture.mode}). Write it as 8-bit grey or colour")
        quick = _decoded(picture) if _is_ordinary(picture) else None
        pixels = np.array(picture.convert("RGB")) if quick is None else quick
    return pixels


def at_size(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture (H W 3) bilinearly with antialiasing, as Pillow does to within one level. size is (w, h).

    In whole numbers, so that neither threads nor batches matter. Returns (h w 3).
    """
    if pixels.shape[1::-1] == size:
        return pixels
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized: Tensor = F.interpolate(batch, size[::-1], mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _is_ordinary(picture: ImageFile.ImageFile) -> bool:
    """Tell whether any decoder makes the same RGB of a picture: 8 bits, grey or colour, nothing transparent."""
    if picture.format != "PNG":
        return picture.format == "JPEG" and picture.mode in ("L", "RGB")
    (_, _, _, packing), *_ = picture.tile
    return packing in ("L", "RGB") and not picture.info.keys() & {"transparency", "interlace"}


def _decoded(picture: ImageFile.ImageFile) -> NDArray[np.uint8] | None:
    """Decode an opened picture (h w 3), all of its file; None = ask Pillow, which may say what is wrong."""
    decode, file = _decoder(), picture.fp
    if decode is None or file is None:
        return None
    behind_header = file.tell()
    file.seek(0)
    try:
        pixels = decode(file.read(), picture)
    except Exception:  # decoders raise anything
        file.seek(behind_header)
        return None
    return pixels if pixels.shape == (picture.height, picture.width, 3) else None


@cache
def _decoder() -> Callable[[bytes, Image.Image], NDArray[np.uint8]] | None:
    """Return what decodes the bytes of an ordinary picture; None where no library for it loads."""
    for make in (_by_kornia, _by_torchvision):
        with suppress(ImportError, OSError, RuntimeError):
            return make()
    return None


def _by_kornia() -> Callable[[bytes, Image.Image], NDArray[np.uint8]]:
    from kornia_rs.io import ImageDecoder, decode_image_png_u8

    def decode(content: bytes, picture: Image.Image) -> NDArray[np.uint8]:
        if picture.format == "JPEG":  # a new decoder, because one that has failed fails for ever
            colours: NDArray[np.uint8] = ImageDecoder().decode(content)
            return colours
        grey = picture.mode == "L"
        pixels: NDArray[np.uint8] = decode_image_png_u8(content, picture.size[::-1], "mono" if grey else "rgb")
        return np.repeat(pixels, 3, axis=2) if grey else pixels

    return decode


def _by_torchvision() -> Callable[[bytes, Image.Image], NDArray[np.uint8]]:
    from torchvision.io import ImageReadMode, decode_image

    def decode(content: bytes, picture: Image.Image) -> NDArray[np.uint8]:
        planes: Tensor = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
        return planes.permute(1, 2, 0).numpy()

    return decode


def picture_size(source: Any) -> tuple[int, int]:
    """Read (width, height) of a picture without decoding it. Raises DataError."""
    with open_picture(source) as picture:
        size = picture.size
    return size
