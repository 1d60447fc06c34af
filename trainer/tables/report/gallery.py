"""The pictures of runs for a page: sheets cut into their pictures, grouped by item, encoded within a number of bytes.

Sheets are those that a run draws for TensorBoard (`val/overview`, `train/overview`) and files that `evaluate --sheet`
left in a run folder.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from trainer.runtime import files
from trainer.tables.events import SHEETS
from trainer.tables.report.runs import Run
from trainer.tracking import panels
from trainer.tracking.viz import SHEET_COLUMNS

SHARED = ("input", "truth")  # the same for all runs
WHOLE = "sheet"  # key of a sheet that is not cut
WIDEST, WIDEST_SHEET = 480, 1400  # pixels
QUALITY = 80  # of JPEG; colour maps need their colours in full


@dataclass(frozen=True)
class Panel:
    """One picture on the page."""

    key: str
    title: str  # what it shows
    run: str  # whose it is; "" = the same for all
    uri: str = field(repr=False)
    width: int
    height: int
    note: str = ""  # AbsRel


@dataclass
class Part:
    """The items of one kind of sheet, or whole sheets whose pictures have no known places."""

    title: str
    items: dict[str, list[Panel]] = field(default_factory=dict)  # name of an image -> pictures of all runs
    sheets: list[Panel] = field(default_factory=list)
    steps: dict[int, list[str]] = field(default_factory=dict)  # optimizer step -> runs whose pictures are of it


@dataclass
class Gallery:
    """All pictures of a page; `left_out` names the runs whose pictures did not fit or could not be read."""

    parts: list[Part] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def hang(runs: Sequence[Run], most_bytes: int, most_items: int) -> Gallery:
    """Take the sheets of runs until one does not fit, a first seed of every configuration before any second one."""
    gallery, left, parts = Gallery(), most_bytes, dict[str, Part]()
    for run in _in_turn(runs):
        for title, step, png in _sheets(run):
            try:
                part = parts.get(title) or Part(title)
                added = _cut(run, part, png, most_items, step is not None) if left > 0 else None
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                gallery.left_out.append(f"{run}, {title}: cannot be read ({error})")
                continue
            left -= sum(len(panel.uri) for _, panel in added) if added else 0
            if added is None or left < 0:
                gallery.left_out.append(f"{run}, {title}")
            elif added:
                _add(parts.setdefault(title, part), run, step, added)
    gallery.parts = list(parts.values())
    return gallery


def _add(part: Part, run: Run, step: int | None, added: Sequence[tuple[str, Panel]]) -> None:
    if step is not None:
        part.steps.setdefault(step, []).append(str(run))
    for name, panel in added:
        if panel.key == WHOLE:
            part.sheets.append(panel)
        else:
            part.items.setdefault(name, []).append(panel)


def _in_turn(runs: Sequence[Run]) -> list[Run]:
    """Sort runs by their place among the seeds of their configuration."""
    places: dict[str, int] = {}
    turns = []
    for run in runs:
        places[run.model] = places.get(run.model, -1) + 1
        turns.append((places[run.model], run))
    return [run for _, run in sorted(turns, key=lambda turn: turn[0])]


def _sheets(run: Run) -> Iterable[tuple[str, int | None, bytes]]:
    """Yield the title, the step if known, and the PNG file of each sheet of a run."""
    for tag in SHEETS:
        if tag in run.events.pictures:
            picture = run.events.pictures[tag]
            yield f"{tag.partition('/')[0]} items", picture.step, picture.encoded
    for path in sorted((*run.path.glob("*.png"), *run.path.glob("results/*.png"))):
        with suppress(OSError):
            yield f"{path.stem}, of monodepth evaluate", None, files.read_file(path)


def _cut(run: Run, part: Part, png: bytes, most_items: int, is_recorded: bool) -> list[tuple[str, Panel]]:
    """Cut a sheet into the pictures that `part` lacks, with the names of their images.

    Where places are unknown it is the whole sheet that the run recorded, but nothing of a file, which may be anything.
    """
    sheet, rows = panels.cut(png)
    if not rows:
        return [("", _panel(WHOLE, part.title, str(run), sheet, WIDEST_SHEET))] if is_recorded else []
    found: list[tuple[str, Panel]] = []
    for row in rows[:most_items]:
        known = {panel.key for panel in part.items.get(row.name, ()) if not panel.run}
        for key, picture in row.pictures.items():
            if key in SHEET_COLUMNS and key not in known:
                whose = "" if key in SHARED else str(run)
                note = f"AbsRel {row.abs_rel:.3f}" if key == "error" and row.abs_rel is not None else ""
                found.append((row.name, _panel(key, SHEET_COLUMNS[key][0], whose, picture, WIDEST, note)))
    return found


def _panel(key: str, title: str, run: str, picture: Image.Image, widest: int, note: str = "") -> Panel:
    picture.thumbnail((widest, 4 * widest))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    text = base64.b64encode(file.getvalue()).decode()
    return Panel(key, title, run, f"data:image/jpeg;base64,{text}", *picture.size, note)
