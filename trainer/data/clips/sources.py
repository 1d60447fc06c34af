"""Which films to decode: those that are named, and those in folders that are named; and how many at a time."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.clips.video import VIDEOS
from trainer.data.files.splits import counted
from trainer.runtime.environment import usable_cores
from trainer.runtime.errors import UserError, listed

_MOST_BYTES = 180  # of a name: file systems take 255, and the names of clips and of staged files are longer
_MEMORY = 0.5e9  # bytes for a process that decodes; measured: 0.33 GB for H.264 of 3840x2160, 0.16 for 1920x1080


class Source(NamedTuple):
    """A film to decode."""

    path: Path
    name: str  # what its clips are called
    given: Path  # what the user named: the film, or a folder that holds it


def find_films(given: Sequence[Path], out: Path) -> tuple[list[Source], Counter[str]]:
    """List the films that are named, and those at any depth in folders that are named, in the order of their paths.

    A film in a folder is called by its path there, with `_` between the parts. What is hidden, or in `out`, is left
    alone. Also counts, by suffix, the files in folders that are no films. Raises UserError for a path that does not
    exist, a folder without films, and films of the same name.
    """
    sources: list[Source] = []
    others: Counter[str] = Counter()
    for path in given:
        if os.path.isdir(path):
            names = sorted(_files_below(path, out))
            films = [name for name in names if name.suffix.lower() in VIDEOS]
            no_films = Counter(name.suffix.lower() or "no suffix" for name in names if name not in set(films))
            if not films:
                held = f"; it holds {named_counts(no_films)}" if no_films else ", and no files at all"
                raise UserError(
                    f"{path}: no films ({' '.join(VIDEOS)}) in it or in the folders in it{held}. Films with other"
                    " suffixes can be named one by one"
                )
            others += no_films
            sources += [Source(path / name, _short("_".join(name.with_suffix("").parts)), path) for name in films]
        elif os.path.exists(path):
            sources.append(Source(path, _short(path.stem), path))
        else:
            raise UserError(f"{path} does not exist. Name a film, or a folder of films")
    _refuse_twins(sources)
    return sources, others


def named_counts(counts: Counter[str]) -> str:
    """Name the commonest of what was counted: "12 .jpg, 3 .txt"."""
    return listed([f"{number} {what}" for what, number in counts.most_common()], 5)


def choose_workers(films: int) -> tuple[int, str]:
    """Choose how many films to decode at a time, at least 1; also return the reason."""
    import psutil  # Accelerate brings it along

    cores, available = usable_cores(), psutil.virtual_memory().available
    limits = [
        (films, counted(films, "film")),
        (cores, counted(cores, "core")),
        (int(available / _MEMORY), f"{available / 1e9:.1f} GB of memory, of which one takes up to {_MEMORY / 1e9:g}"),
    ]
    number, reason = min(limits, key=lambda limit: limit[0])
    return max(1, number), reason


def _files_below(folder: Path, out: Path) -> Iterator[Path]:
    """Yield the files below a folder as paths in it. Raises UserError when a folder cannot be listed."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}). Make it readable") from error

    avoided = out.resolve()
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(root, name).resolve() != avoided]
        yield from (Path(root, name).relative_to(folder) for name in files if not name.startswith("."))


def _short(name: str) -> str:
    """Cut a name that is too long for a folder; a digest tells it from others that begin alike."""
    content = os.fsencode(name)
    if len(content) <= _MOST_BYTES:
        return name
    return f"{content[: _MOST_BYTES - 13].decode(errors='ignore')}~{hashlib.sha256(content).hexdigest()[:12]}"


def _refuse_twins(sources: Iterable[Source]) -> None:
    paths: dict[str, list[str]] = {}
    for source in sources:
        paths.setdefault(source.name, []).append(str(source.path))
    if twins := [" and ".join(same) for same in paths.values() if len(same) > 1]:
        raise UserError(
            f"videos of the same name, whose frames would be mixed: {listed(twins)}. Rename one, or give each its own"
            " --out"
        )
