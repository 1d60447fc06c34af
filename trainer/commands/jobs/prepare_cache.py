"""`monodepth prepare cache`: the pictures of a data set, decoded and resized once, for `dataset.decoded_root`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trainer.build import build_dataset
from trainer.commands.jobs.preparing import ahead, open_page, print_problems, root_in, training
from trainer.config import Config
from trainer.data.base import DepthDataset
from trainer.data.files.decoded import DecodedPictures, Picture, Source, write_decoded
from trainer.data.files.paths import expanded
from trainer.data.files.pictures import read_image
from trainer.data.options import PLAIN
from trainer.runtime.errors import DataError, UserError
from trainer.tracking.progress import counting


class Folder(NamedTuple):
    """What one folder of decoded pictures holds."""

    size: tuple[int, int]  # (w, h)
    pictures: dict[Source, tuple[Any, str]]  # the data set that reads each, and its place


def run(**values: Any) -> int:
    """Decode what has not been decoded yet; return 1 when pictures are broken."""
    args = argparse.Namespace(**values)
    cfg, modes, page = open_page(args)
    out = args.out or root_in(cfg, "decoded_root", "the pictures")
    problems = []
    for root, folder in _folders(cfg, modes, out).items():
        new, broken = _write(root, folder, args.jobs)
        problems += broken
        print(f"{root}: {len(folder.pictures) - len(broken)} pictures of {folder.size[0]}x{folder.size[1]}, {new} new")
    print_problems(problems, "pictures are broken and left out", "picture is broken and left out")
    print(f"train on them: {training(page, [*args.set, f'dataset.decoded_root={out}'], args.plugins)}")
    return int(bool(problems))


def _folders(cfg: Config, modes: list[str], out: Path) -> dict[Path, Folder]:
    """List what each folder will hold. Raises UserError for problems of the data sets, and sizes that differ."""
    folders: dict[Path, Folder] = {}
    problems = []
    for mode in modes:
        for name, dataset in build_dataset(cfg, mode, **PLAIN, use_depth=False).labelled().items():
            if not dataset.reads_pictures:
                raise UserError("this data set has no picture files: there is nothing to decode")
            problems += [f"dataset ({mode}): {line}" for line in dataset.check()]
            root = expanded(dataset.decoded_root) if name and dataset.decoded_root else out / name
            folder = folders.setdefault(root, Folder(dataset.size, {}))
            if folder.size != dataset.size:
                raise UserError(
                    f"{mode} has pictures of {list(dataset.size)}, others of {list(folder.size)}: one folder holds one"
                    " size. Choose --mode, and dataset.<mode>.decoded_root for each"
                )
            folder.pictures.update(_pictures(dataset))
    if problems:
        raise UserError("\n".join(problems))
    return folders


def _pictures(dataset: Any) -> dict[Source, tuple[DepthDataset, str]]:
    return {source: (dataset, place) for source, place in dataset.picture_sources().items()}


def _write(root: Path, folder: Folder, jobs: int) -> tuple[int, list[str]]:
    """Write a folder; what it holds already is copied, not decoded. Returns the number of new ones and the problems."""
    sources, old = list(folder.pictures), None
    with suppress(UserError):
        old = DecodedPictures(root)
    if old is not None and not old.problems(sources, folder.size):
        return 0, [f"{name} could not be decoded" for name in sorted(old.broken)]
    known = old if old is not None and old.size == folder.size else None
    new = sum(known is None or not known.has(source) for source in sources)

    def read(source: Source) -> Picture | str:
        dataset, place = folder.pictures[source]
        try:
            ready = known.read(source.name) if known and known.has(source) else None
            return read_image(dataset.open_picture(place), folder.size) if ready is None else ready
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(jobs) as pool:

        def decoded(first: int) -> Iterator[Picture | str]:
            with counting("decoded", len(sources), done=first, unit="picture") as count:
                for found in ahead(pool, read, sources[first:], 2 * jobs):
                    yield found
                    count()

        try:
            return new, write_decoded(root, sources, folder.size, decoded)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
