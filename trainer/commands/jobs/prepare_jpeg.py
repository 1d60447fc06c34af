"""`monodepth prepare jpeg`: KITTI's PNG pictures as JPEG, quality 92, 4:2:0, as Monodepth2 does (arXiv:1806.01260)."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.commands.jobs.preparing import clean_stale_under, print_problems, spread, store
from trainer.runtime.files import read_file, require_space

_SHARE = 0.3  # of the bytes of a PNG; KITTI has 0.19
_LEAST_PSNR = 30.0  # dB of the grey values; KITTI has about 42, the next frame of a drive 12 to 17


class Outcome(NamedTuple):
    """The result for one picture."""

    problem: str = ""
    psnr: float = math.inf  # dB
    sizes: tuple[int, int] = (0, 0)  # bytes of the PNG and of the JPEG


def run(root: str | None, check: bool, remove_png: bool, jobs: int) -> int:
    """Convert and compare; return 1 when pictures were broken or came back different."""
    from trainer.data.kitti_raw.places import find_raw  # imports torch, which the other processes do without

    raw = find_raw(root, "--root")
    pictures = sorted(raw.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*/image_0[23]/data/*.png"))
    clean_stale_under(path.parent for path in pictures)
    new = [path for path in pictures if not _is_there(path.with_suffix(".jpg"))]
    missing = pictures if check or remove_png else new
    require_space(raw, int(_SHARE * sum(path.stat().st_size for path in new)), "JPEG pictures")
    tasks = [(path, remove_png) for path in missing]
    outcomes = list(spread(_convert, tasks, jobs, unit="picture", done=len(pictures) - len(missing)))
    good = [outcome for outcome in outcomes if not outcome.problem]
    print(f"{raw}: {len(pictures)} PNG pictures, {len(good)} of them converted or compared")
    if good:
        before, after = (sum(outcome.sizes[i] for outcome in good) / 1e6 for i in (0, 1))
        values = [outcome.psnr for outcome in good]
        mean = sum(values) / len(values)
        print(f"{before:.1f} MB became {after:.1f} MB; PSNR {mean:.1f} dB, worst {min(values):.1f}")
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    print_problems(problems, "pictures stay PNG", "picture stays PNG")
    if remove_png:
        print(f"{len(good)} PNG files deleted")
    elif good:
        print("readers take the PNG files while they exist; --remove-png deletes those that were compared")
    return int(len(good) < len(outcomes))


def _is_there(jpg: Path) -> bool:
    """Check that a JPEG exists and ends as one, without reading the rest."""
    from trainer.data.files.damage import TAIL, is_whole

    if not os.path.isfile(jpg):
        return False
    with open(jpg, "rb") as file:
        file.seek(max(0, jpg.stat().st_size - TAIL))
        return is_whole(file.read())


def _convert(task: tuple[Path, bool]) -> Outcome:
    """Write the JPEG if it is missing or broken, read it back, compare; with `remove` delete the PNG."""
    png, remove = task
    jpg = png.with_suffix(".jpg")
    try:
        original = _read(png)
    except ValueError as error:
        return Outcome(str(error))
    content = jpg.read_bytes() if os.path.isfile(jpg) else b""
    is_new = not _is_readable(jpg, content)
    if is_new:
        buffer = io.BytesIO()
        Image.fromarray(original).save(buffer, "JPEG", quality=92, subsampling="4:2:0")
        content = buffer.getvalue()
    back = _read(jpg, content)
    if back.shape != original.shape:
        return Outcome(
            f"{jpg}: {back.shape[1]}x{back.shape[0]} pixels, unlike {png.name}. Delete the JPEG and run"
            " `monodepth prepare jpeg` again"
        )
    psnr = _psnr(original, back)
    if psnr < _LEAST_PSNR:
        return Outcome(
            f"{jpg} does not show what {png.name} shows (PSNR {psnr:.1f} dB). Delete the JPEG and run"
            " `monodepth prepare jpeg` again, or delete the PNG if that is the wrong one"
        )
    if is_new:
        store(jpg, content)
    sizes = png.stat().st_size, len(content)
    if remove:
        os.unlink(png)
    return Outcome(psnr=psnr, sizes=sizes)


def _is_readable(path: Path, content: bytes) -> bool:
    try:
        _read(path, content)
    except ValueError:
        return False
    return True


def _read(path: Path, content: bytes | None = None) -> NDArray[np.uint8]:
    """Decode a picture (h w 3), RGB. Raises ValueError naming the file."""
    try:
        source = io.BytesIO(read_file(path) if content is None else content)
        with Image.open(source, formats=("PNG", "JPEG")) as picture:  # not `open_picture`, which imports torch
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # decoders raise anything
        raise ValueError(f"{path} is not a readable picture ({error}). Copy it again") from error


def _psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of the grey values in dB: halved colour makes up most of what is lost otherwise."""
    grey, back = (np.asarray(Image.fromarray(picture).convert("L"), np.float64) for picture in (one, other))
    square = float(((grey - back) ** 2).mean())
    return math.inf if square == 0 else 10 * math.log10(255**2 / square)
