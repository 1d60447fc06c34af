"""Panels: where the pictures of a sheet stand. Its PNG file holds them, so that each can be cut out again.

`trainer.tracking.viz` draws sheets and knows the places; nothing here guesses them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

CHUNK = "panels"  # name of the text in a PNG file
MOST = 1000  # rows that are read
Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels of the sheet


@dataclass(frozen=True)
class PanelRow:
    """One item of a sheet: its name, its AbsRel (a fraction) if known, and the box of each of its pictures by key."""

    name: str
    boxes: Mapping[str, Box]
    abs_rel: float | None = None
    pictures: Mapping[str, Image.Image] = field(default_factory=dict, compare=False)  # filled by `cut`


def as_text(rows: Sequence[PanelRow]) -> str:
    """Write rows as the text that a PNG file holds under the name CHUNK."""
    return json.dumps([{"name": row.name, "abs_rel": row.abs_rel, "boxes": row.boxes} for row in rows])


def encode(picture: np.ndarray, rows: Sequence[PanelRow]) -> bytes:
    """Encode a sheet (H W 3) uint8 as PNG that holds its rows."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt(CHUNK, as_text(rows))
    Image.fromarray(picture).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def cut(png: bytes) -> tuple[Image.Image, list[PanelRow]]:
    """Open a sheet; return it as RGB, and its rows with the pictures in them: none where the file holds no panels.

    Raises OSError, ValueError or SyntaxError when the bytes are no PNG file.
    """
    with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
        text, sheet = getattr(opened, "text", {}).get(CHUNK, ""), opened.convert("RGB")
    rows = []
    for row in _read(text):
        inside = {key: box for key, box in row.boxes.items() if _is_inside(box, sheet.size)}
        rows.append(PanelRow(row.name, inside, row.abs_rel, {key: sheet.crop(box) for key, box in inside.items()}))
    return sheet, rows


def _read(text: str) -> list[PanelRow]:
    """Read the text of a file that may be anybody's; what is no row in it is left out."""
    try:
        rows: list[Any] = json.loads(text)[:MOST]
        return [
            PanelRow(
                str(row["name"]),
                {str(key): (int(le), int(to), int(ri), int(bo)) for key, (le, to, ri, bo) in row["boxes"].items()},
                None if row.get("abs_rel") is None else float(row["abs_rel"]),
            )
            for row in rows
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return []


def _is_inside(box: Box, size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    return 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
