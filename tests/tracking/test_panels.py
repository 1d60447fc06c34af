"""Pictures of a sheet can be cut out of its PNG file, as they were drawn."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from trainer.tracking import panels, viz

RED, GREEN, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def plain(colour: tuple[int, int, int], h: int = 64, w: int = 192) -> np.ndarray:
    return np.full((h, w, 3), colour, np.uint8)


def test_every_picture_comes_back_whole_and_without_its_surroundings() -> None:
    """Pictures of one colour each, in two rows of different shapes: nothing of the white paper is cut out with them."""
    rows = [
        {"input": plain(RED), "prediction": plain(GREEN), "name": "first", "abs_rel": 0.25},
        {"input": plain(BLUE, 96), "prediction": None, "label": ""},
    ]
    picture, places = viz.sheet(rows, "Title", "footer")
    sheet, cut = panels.cut(panels.encode(picture, places))
    assert np.array_equal(np.asarray(sheet), picture)
    assert [(row.name, row.abs_rel, sorted(row.pictures)) for row in cut] == [
        ("first", 0.25, ["input", "prediction"]),
        ("2", None, ["input"]),
    ]
    drawn = [cut[0].pictures["input"], cut[0].pictures["prediction"], cut[1].pictures["input"]]
    for part, colour in zip(drawn, (RED, GREEN, BLUE), strict=True):
        assert part.getcolors() == [(part.width * part.height, colour)]
    assert drawn[0].width / drawn[0].height == pytest.approx(3, rel=0.02)
    assert drawn[2].width / drawn[2].height == pytest.approx(2, rel=0.02)


def test_a_file_of_evaluate_holds_its_places_too(tmp_path) -> None:
    viz.picture_sheet([{"input": plain(RED), "prediction": plain(GREEN)}], tmp_path / "sheet.png")
    _, (row,) = panels.cut((tmp_path / "sheet.png").read_bytes())
    assert row.pictures["prediction"].getpixel((5, 5)) == GREEN


HOSTILE = [
    *("", "[", "{}", "7", '[{"name": "a"}]', '[{"name": "a", "boxes": {"input": [0, 0, 1]}}]', "[" * 100_000),
    json.dumps([{"name": "a", "boxes": {"input": [0, 0, 1e400, 1]}}]),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_of_no_sense_is_a_sheet_without_places(text: str) -> None:
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt(panels.CHUNK, text)
    Image.new("RGB", (8, 4)).save(file, "PNG", pnginfo=info)
    sheet, rows = panels.cut(file.getvalue())
    assert (sheet.size, rows) == ((8, 4), [])


def test_boxes_outside_the_sheet_are_left_out() -> None:
    boxes = {"input": (0, 0, 4, 4), "truth": (-1, 0, 4, 4), "error": (0, 0, 10**9, 4), "warp": (3, 0, 3, 4)}
    _, (row,) = panels.cut(panels.encode(np.zeros((4, 8, 3), np.uint8), [panels.PanelRow("a", boxes)]))
    assert list(row.pictures) == ["input"]


def test_what_is_no_picture_is_an_error_that_can_be_caught() -> None:
    with pytest.raises((OSError, ValueError, SyntaxError)):
        panels.cut(b"\x89PNG\r\n\x1a\n" + bytes(40))
