"""One HTML page about films and what was kept of them, with pictures. It holds all it shows and asks for nothing.

`films.html.j2` is the page, `page.css` and `films.css` its looks. The same folder gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from trainer.data.clips.films import Finished, pictures_of
from trainer.data.clips.motion import WIDTH
from trainer.data.clips.survey import Survey, lasting, too_few
from trainer.tables.report.rendering import MOST_BYTES, render

TEMPLATE = "films.html.j2"
PICTURE = (240, 180)  # pixels at most
_PICTURE_BYTES = 12_000  # of one on the page, about
_MOST_PICTURES = 8  # of a film
_MOST_FILMS = 400  # with a section of their own
_MOST_ROWS = 2000
POINTS = 160  # of a curve
BAR = 600  # width of a bar; curves are as wide and so high:
HEIGHT = 60


class Part(NamedTuple):
    """A part of a bar: how many frames went where."""

    name: str
    frames: int
    start: float
    width: float


class Curve(NamedTuple):
    """A measurement over the frames that were kept."""

    title: str
    path: str  # of an SVG of BAR x HEIGHT
    top: str  # value at its upper edge; the lower one is 0


def make_page(out: Path, films: Sequence[Finished], left_out: Sequence[str]) -> str:
    """Make the page of a folder of frames as HTML text.

    left_out: which films are left out, and why. Of very many films the first ones have pictures and curves.
    """
    shown = films[:_MOST_FILMS]
    each = min(_MOST_PICTURES, max(1, int(0.6 * MOST_BYTES / _PICTURE_BYTES / max(1, len(shown)))))
    surveys = [film.survey for film in films]
    return render(
        TEMPLATE,
        styles=("page.css", "films.css"),
        title=out.absolute().name,
        totals=_totals(surveys),
        bar=_bar(surveys),
        rows=[_row(film, len(films) == 1) for film in films[:_MOST_ROWS]],
        films=[_section(out, film, each, len(films) == 1) for film in shown],
        too_few=too_few(surveys) if len(films) > 1 else "",
        num_films=len(films),
        left_out=left_out,
        size=(BAR, HEIGHT),
    )


def _totals(surveys: Sequence[Survey]) -> dict[str, str]:
    read, kept = sum(s.read for s in surveys), sum(s.kept for s in surveys)
    levels = [level for s in surveys for level in s.levels]
    return {
        "length": lasting(sum(s.seconds for s in surveys)),
        "frames read": f"{read:,}",
        "kept": f"{kept:,} ({kept / max(read, 1):.0%})",
        "clips": f"{sum(len(s.clips) for s in surveys):,}",
        "cuts": f"{sum(s.cuts for s in surveys):,}",
        "shift": _percent([shift for s in surveys for shift in s.shifts]),
        "brightness": f"{np.mean(levels) / 255:.0%}" if levels else "-",
    }


def _row(film: Finished, alone: bool) -> dict[str, Any]:
    survey = film.survey
    return {
        "name": film.name,
        "length": lasting(survey.seconds),
        "size": f"{survey.size[0]}x{survey.size[1]}",
        "fps": f"{survey.fps:.3g}",
        "read": f"{survey.read:,}",
        "kept": f"{survey.kept:,}",
        "share": f"{survey.kept / max(survey.read, 1):.0%}",
        "clips": f"{len(survey.clips):,}",
        "cuts": f"{survey.cuts:,}",
        "shift": _percent(survey.shifts),
        "parallax": _percent(survey.parallaxes),
        "brightness": f"{survey.brightness / 255:.0%}" if survey.levels else "-",
        "blurred": f"{survey.blurred:.0%}",
        "gap": survey.frame_gap if survey.kept else "-",
        "warnings": len(survey.warnings(alone)),
    }


def _section(out: Path, film: Finished, most: int, alone: bool) -> dict[str, Any]:
    survey = film.survey
    pictures = [(clip, uri) for clip, path in pictures_of(out, film, most) if (uri := _picture(path))]
    curves = (
        _curve("motion between neighbours, of the width", survey.shifts, WIDTH),
        _curve("brightness, of white", survey.levels, 255),
        _curve("sharpness, of the sharpest", survey.sharp, max(survey.sharp, default=1) or 1),
    )
    return {
        **_row(film, alone),
        "heading": _place(film),
        "bar": _bar([survey]),
        "pictures": pictures,
        "curves": [curve for curve in curves if curve],
        "marks": [f"{BAR * end / survey.kept:.1f}" for end in list(accumulate(survey.clips))[:-1][:POINTS]],
        "texts": survey.warnings(alone),
    }


def _place(film: Finished) -> str:
    """The path of a film within the folder that was given, else its file name."""
    video, given = Path(film.facts["video"]), Path(film.facts.get("given") or film.facts["video"])
    return str(video.relative_to(given)) if given in video.parents else video.name


def _bar(surveys: Sequence[Survey]) -> list[Part]:
    """Divide the frames of films into those kept and those dropped, by reason."""
    counts = {"kept": sum(s.kept for s in surveys)}
    for survey in surveys:
        for reason, count in survey.dropped().items():
            counts[reason] = counts.get(reason, 0) + count
    counts["passed over by --every"] = sum(s.read for s in surveys) - sum(counts.values())
    counts["not decodable"] = sum(max(0, s.announced - s.read) for s in surveys)
    total = max(1, sum(counts.values()))
    starts = accumulate(counts.values(), initial=0)
    return [
        Part(name, count, round(BAR * start / total, 2), round(BAR * count / total, 2))
        for (name, count), start in zip(counts.items(), starts, strict=False)
    ]


def _curve(title: str, values: Sequence[float], unit: float) -> Curve | None:
    """Draw the medians of at most POINTS stretches of equal length."""
    if len(values) < 2:
        return None
    stretches = np.array_split(np.asarray(values, np.float64) / unit, min(POINTS, len(values)))
    points = np.array([np.median(stretch) for stretch in stretches])
    top = float(points.max()) or 1.0
    places = np.linspace(0, BAR, len(points))
    path = "L".join(f"{x:.1f} {HEIGHT - 2 - (HEIGHT - 4) * y / top:.1f}" for x, y in zip(places, points, strict=True))
    return Curve(title, f"M{path}", f"{top:.1%}" if top < 0.1 else f"{top:.0%}")


def _picture(path: Path) -> str:
    """Return a frame as a small picture in an address; "" where there is none any more."""
    try:
        with Image.open(path, formats=["JPEG"]) as picture:
            picture.draft("RGB", PICTURE)
            picture.thumbnail(PICTURE)
            file = io.BytesIO()
            picture.convert("RGB").save(file, "JPEG", quality=72)
    except (OSError, SyntaxError, ValueError):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _percent(values: Sequence[float]) -> str:
    """The median of distances in pixels of 320 as a share of the width."""
    return f"{np.median(values) / WIDTH:.2%}" if values else "-"
