"""The photographs of frost of the package `imagecorruptions`, from where the user has them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.pictures import read_rgb
from trainer.runtime.errors import DataError, UserError

FILES = re.compile(r"frost\d\.(?:png|jpe?g)", re.I)
USED = 5  # of its six


def read_frost(folder: Path) -> list[NDArray[np.uint8]]:
    """Read the pictures of frost of the package `imagecorruptions` from a folder: the first five in order of name.

    Raises UserError when there are none, or one is not readable.
    """
    files = sorted(path for path in folder.glob("*") if FILES.fullmatch(path.name))[:USED]
    if len(files) < USED:
        raise UserError(
            f"{folder}: holds {len(files)} of the pictures of frost, frost1.png to frost5.jpg of the package"
            " imagecorruptions (its folder `frost`). Name the folder that has them, or leave out --frost-pictures"
        )
    try:
        return [read_rgb(path) for path in files]
    except DataError as error:
        raise UserError(f"{error}") from error
