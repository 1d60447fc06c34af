"""Plugins: modules of the user that register losses, decoders, ..., imported before the configuration is read.

Only what the command line names is imported. What a checkpoint says about plugins is told, never run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from models_zoo.registry import NameTaken, did_you_mean
from trainer.runtime.errors import UserError

_OURS = tuple(str(Path(__file__).parents[2] / package) for package in ("trainer", "models_zoo", "launch"))
_LISTED = 12  # names that a message lists; of more, only the nearest is told


class _Module(NamedTuple):
    """Where the module of an argument is to be found."""

    name: str  # dotted
    folder: Path  # of the top-level module or package, looked into after Python's own path


def load_plugins(plugins: Sequence[str]) -> None:
    """Import plugins in order: each a dotted name, from the working directory or PYTHONPATH, or a path to a .py file.

    A folder that Python does not know yet is appended to its path, so that processes started later find the module
    under the same name. Raises UserError for a module that does not exist, cannot be imported, is hidden by another of
    its name, or registers a name that is taken.
    """
    for given in plugins:
        module = _find(given)
        if str(module.folder) not in sys.path:
            sys.path.append(str(module.folder))
        importlib.invalidate_caches()  # the file may be younger than what Python remembers of its folder
        _refuse_hidden(given, module)
        try:
            importlib.import_module(module.name)
        except (Exception, SystemExit) as error:
            raise UserError(f"--plugins {given}: {_why(error, module)}") from error


@contextmanager
def naming_plugins(hparams: Mapping[str, Any], source: Path | str) -> Iterator[None]:
    """Add to a UserError of this block which plugins a run was trained with, when they are not loaded.

    Args:
        hparams: what the run was made of, `plugins` among it.
        source: file that says so, for the message.
    """
    try:
        yield
    except UserError as error:
        missing = [str(given) for given in hparams.get("plugins") or () if not _is_loaded(str(given))]
        if not missing:
            raise
        raise UserError(
            f"{error}\n{source}: was trained with --plugins {' '.join(missing)}: give the same"
            " (in Python, trainer.config.plugins.load_plugins)"
        ) from error


def _is_loaded(given: str) -> bool:
    """True when the module is imported; one that cannot be found is not."""
    try:
        return _find(given).name in sys.modules
    except UserError:
        return False


def _find(given: str) -> _Module:
    """Say which module an argument means. Raises UserError for a missing file and for what is no name."""
    is_path = given.endswith(".py") or os.sep in given or "/" in given
    if not is_path:
        module = _Module(given, Path.cwd())
    else:
        path = Path(given).expanduser().absolute()
        if not (path.is_file() or (path / "__init__.py").is_file()):
            raise UserError(f"--plugins {given}: {_no_such_file(path)}")
        module = _module_of(path.parent if path.stem == "__init__" else path)
    if not all(part.isidentifier() for part in module.name.split(".")):
        raise UserError(
            f"--plugins {given}: {module.name!r} cannot name a module. Rename it: letters, digits and _ only,"
            " no digit first"
        )
    return module


def _module_of(path: Path) -> _Module:
    """The dotted name of a file or package folder: inside packages it has theirs in front."""
    name, folder = path.name.removesuffix(".py"), path.parent
    while (folder / "__init__.py").is_file():
        name, folder = f"{folder.name}.{name}", folder.parent
    return _Module(name, folder)


def _refuse_hidden(given: str, module: _Module) -> None:
    """Raise UserError when Python would import another module of the same name, from earlier on its path."""
    top = module.name.partition(".")[0]
    wanted = PathFinder.find_spec(top, [str(module.folder)])
    try:
        found = importlib.util.find_spec(top)
    except ValueError:  # a module without a specification, such as __main__
        return
    origins = [spec.origin for spec in (wanted, found) if spec is not None and spec.origin is not None]
    if len(origins) == 2 and os.path.realpath(origins[0]) != os.path.realpath(origins[1]):
        raise UserError(
            f"--plugins {given}: {origins[0]} is hidden by another module of this name, {origins[1]}. Rename yours"
        )


def _why(error: BaseException, module: _Module) -> str:
    """Say why a module could not be imported: in its own words and places, without frames of ours."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f"{module.name}.".startswith(f"{missing}."):
        return _no_such_module(module, missing)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
    places = [f"{f.filename}:{f.lineno}: {f.line}" for f in frames]
    if isinstance(error, NameTaken):
        return f"{error}. Choose another name\n  {places[-1]}"
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        places.append(f"{error.filename}:{error.lineno}: {(error.text or '').strip()}")
    return "\n  ".join(["cannot be imported", *places, said])


def _is_ours(file: str) -> bool:
    hidden = file.startswith(("<frozen importlib", str(Path(importlib.__file__).parent)))
    return hidden or file.startswith(tuple(f"{folder}{os.sep}" for folder in _OURS))


def _no_such_module(module: _Module, missing: str) -> str:
    """Say that `missing`, the module or a package of its name, does not exist, and what does."""
    package, _, name = missing.rpartition(".")
    if package:
        where = f"package {package}"
        folders = list(getattr(sys.modules[package], "__path__", []))
    else:
        where = f"{module.folder} or on PYTHONPATH"
        folders = [str(module.folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return f"no module {name!r} in {where}. {_nearest(name, (m.name for m in pkgutil.iter_modules(folders)))}"


def _no_such_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no such folder {path.parent}"
    return f"no such file. {_nearest(path.name, (p.name for p in path.parent.glob('*.py')))}"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    told = did_you_mean(name, names)
    return told if len(names) <= _LISTED else told.partition("Known:")[0].strip()
