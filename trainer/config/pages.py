"""The pages (YAML files of cfg/) and launch files that come with the trainer, in a checkout or installed; their names.

An installation keeps both inside the package `trainer`, as pyproject.toml maps them.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from models_zoo.registry import did_you_mean
from trainer.config.foreign_names import instead_of_word
from trainer.runtime import files, yaml_text
from trainer.runtime.errors import UserError, listed

PACKAGE = Path(__file__).parents[1]
DEFAULT, SCHEMA = "default.yaml", "schema.json"
ENDINGS = (".yaml", ".yml")
LISTED = 12  # pages of a folder that a message names


def shipped(folder: str) -> Path:
    """Return a folder that comes with the trainer, "cfg" or "launch/accelerate": installed, else of the checkout."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def find_page(name: str | Path) -> Path:
    """Find the YAML file that a name means: a file of that name, else a page that comes with the trainer.

    `.yaml` may be left out; of a page that comes with the trainer `cfg/`, too. Returns a name without a file as it is:
    reading it reports the mistake.
    """
    path = Path(name)
    spelt = [path] if path.suffix in ENDINGS or not path.name else [path, path.with_name(f"{path.name}.yaml")]
    within = [] if path.is_absolute() or ".." in path.parts else [_within(p) for p in spelt]
    return next((found for found in (*spelt, *within) if os.path.isfile(found)), path)


def _within(path: Path) -> Path:
    return shipped("cfg") / (path.relative_to("cfg") if path.parts[:1] == ("cfg",) else path)


def default_beside(pages: Sequence[Path]) -> list[Path]:
    """List what pages build on where nothing else is said: the default.yaml beside the first, unless it is a page."""
    beside = pages[0].parent / DEFAULT
    is_page = any(os.path.isfile(page) and page.samefile(beside) for page in pages) if os.path.isfile(beside) else True
    return [] if is_page else [beside]


def experiment_of(pages: Sequence[Path]) -> Path:
    """Return the folder for runs of pages where none is named: models/<folder of the first page>."""
    return Path("models", pages[0].absolute().parent.name)


def read_page(name: Path, problems: list[str]) -> yaml_text.Layer | None:
    """Read the page that a name means, as `yaml_text.read_file` does; a name of nothing is one of the `problems`."""
    page = find_page(name)
    if inside := _pages_in(page):
        problems.append(f"{name}: is a folder of pages. Name one of them: {listed(inside, LISTED)}")
        return None
    if os.path.lexists(page) or (page.suffix in ENDINGS and any(page.parent.glob("*.y*ml"))):
        return yaml_text.read_file(page, problems)
    if "=" in str(name):
        problems.append(f"{name}: no such file. {instead_of_word(str(name))}")
    else:
        told = f"no such file, and no page of this name. {_nearest(name)}`monodepth cfg list` lists all"
        problems.append(f"{name}: {told}")
    return None


def _pages_in(name: Path) -> list[str]:
    """List the pages in the folder that a name means, of the user or with the trainer; [] for any other name."""
    if not name.name or os.path.isfile(name):
        return []
    is_own = name.is_absolute() or ".." in name.parts
    for folder in (name,) if is_own else (name, _within(name)):
        if os.path.isdir(folder) and (found := sorted(folder.glob("*.yaml"))):
            return [(name / path.stem).as_posix() for path in found]
    return []


def page_names() -> list[str]:
    """List the pages that come with the trainer: "benchmark/hrdepth_MS"."""
    root = shipped("cfg")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def select_pages(starts: Sequence[str]) -> list[str]:
    """List the pages whose names start with one of these texts, or all. Raises UserError for a text of none."""
    known = page_names()
    for start in starts:
        if not any(name.startswith(start) for name in known):
            raise UserError(
                f"{start}: no page is called so. {did_you_mean(start, {n.partition('/')[0] for n in known})}"
            )
    return [name for name in known if not starts or name.startswith(tuple(starts))]


def _nearest(name: Path) -> str:
    wanted, known = str(name.with_suffix("") if name.suffix in ENDINGS else name).removeprefix("cfg/"), page_names()
    near = [page for page in known if page.rpartition("/")[2] == wanted.rpartition("/")[2] != Path(DEFAULT).stem]
    near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, near))}? " if near else ""


def headline(path: Path) -> str:
    """Return the first sentence of the comment that a YAML file opens with, in one line."""
    head = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))
    lines = [line.removeprefix("#").strip() for line in (head[0] if head else "").splitlines()]
    text = " ".join(line for line in lines if not line.startswith("yaml-language-server"))
    return textwrap.shorten(re.split(r"\.(?= [A-Z]|$)", text)[0], 100, placeholder=" ...")


def copy_pages(names: Sequence[str], to: Path, replace: bool = False) -> list[Path]:
    """Copy pages, or folders of them, to a folder laid out like cfg/; return the files written.

    What a page builds on and the schema for editors go with it. A file that is there already stays, and is an error
    if it differs, unless `replace`. Raises UserError before anything is written.
    """
    root, chosen = shipped("cfg"), set[Path]()
    for name in names:
        folder, page = root / name, find_page(name)
        if os.path.isdir(folder) and ".." not in Path(name).parts:
            chosen |= {path for path in folder.rglob("*") if path.suffix in (*ENDINGS, ".json")}
        elif page.is_relative_to(root):
            chosen |= {page, *default_beside([page])}
        else:
            raise UserError(f"{name}: no such page or folder. {_nearest(Path(name))}`monodepth cfg list` lists all")
    places = {path: to / path.relative_to(root) for path in sorted({*chosen, root / SCHEMA})}
    changed = [place for path, place in places.items() if place.exists() and path.read_bytes() != place.read_bytes()]
    if changed and not replace:
        raise UserError("\n".join(f"{place}: exists and differs. --force replaces it" for place in changed))
    written = [(path, place) for path, place in places.items() if place in changed or not place.exists()]
    for path, place in written:
        files.make_folder(place.parent)
        files.write_text(place, path.read_text(encoding="utf-8"))
    return [place for _, place in written]
