"""Plugins: modules of the user that register losses, decoders, ..., imported before the configuration is read.

Only plugins on the command line are imported; those that a checkpoint names are reported, never run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
import shlex
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
_LISTED = 12  # most names in a message; of more, it only gives the nearest


class _Module(NamedTuple):
    """A module and the folder of its top-level package, which is searched after Python's own path."""

    name: str  # dotted
    folder: Path


def load_plugins(plugins: Sequence[str]) -> None:
    """Import plugins in order: each a dotted name, from the working directory or PYTHONPATH, or a path to a .py file.

    Raises UserError for a module that does not exist, cannot be imported, is hidden by another of its name, or
    registers a name that is taken.
    """
    for given in plugins:
        module = _find(given)
        # Not `spec_from_file_location`: workers that DataLoader spawns unpickle by module name and get only `sys.path`
        # (ModuleNotFoundError, measured), and modules of a package import their siblings.
        if str(module.folder) not in sys.path:
            sys.path.append(str(module.folder))
        importlib.invalidate_caches()  # the file may be newer than Python's listing of its folder
        _refuse_hidden(given, module)
        try:
            importlib.import_module(module.name)
        except (Exception, SystemExit) as error:
            raise UserError(f"--plugins {given}: {_why(error, module)}") from error


@contextmanager
def naming_plugins(hparams: Mapping[str, Any], source: Path | str) -> Iterator[None]:
    """Begin a UserError of this block with the plugins of a run that are not loaded.

    Args:
        hparams: settings of the run, including `plugins`.
        source: file of `hparams`, for the message.
    """
    try:
        yield
    except UserError as error:
        missing = [str(given) for given in hparams.get("plugins") or () if not _is_loaded(str(given))]
        if not missing:
            raise
        in_python = f"trainer.config.plugins.load_plugins({json.dumps(missing, ensure_ascii=False)})"
        raise UserError(
            f"{source}: was trained with --plugins {' '.join(missing)}: give the same"
            f" (in Python, first {in_python}). Without:\n{error}"
        ) from None  # its words are in this one


def with_plugins(command: str, plugins: Sequence[str]) -> str:
    """Append `--plugins` to a command that is printed for the user to copy."""
    return f"{command} --plugins {shlex.join(plugins)}" if plugins else command


def _is_loaded(given: str) -> bool:
    try:
        return _find(given).name in sys.modules
    except UserError:
        return False


def _find(given: str) -> _Module:
    """Find the module of an argument. Raises UserError for a missing file or an invalid name."""
    module = _Module(given, Path.cwd())
    if given.endswith(".py") or os.sep in given or "/" in given:
        path = Path(given).expanduser().absolute()
        if not (os.path.isfile(path) or os.path.isfile(path / "__init__.py")):
            raise UserError(f"--plugins {given}: {_no_such_file(path)}")
        module = _module_of(path.parent if path.stem == "__init__" else path)
    if not all(part.isidentifier() for part in module.name.split(".")):
        rule = "letters, digits and _ only, no digit first"
        raise UserError(f"--plugins {given}: {module.name!r} cannot name a module. Rename it: {rule}")
    return module


def _module_of(path: Path) -> _Module:
    """Return the dotted name of a file or package folder, with those of the packages around it."""
    name, folder = path.name.removesuffix(".py"), path.parent
    while os.path.isfile(folder / "__init__.py"):
        name, folder = f"{folder.name}.{name}", folder.parent
    return _Module(name, folder)


def _refuse_hidden(given: str, module: _Module) -> None:
    """Raise UserError when Python would import another module of this name, from earlier on its path."""
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
    """Describe why a module could not be imported: its error and traceback, without frames of this project."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f"{module.name}.".startswith(f"{missing}."):
        return _no_such_module(module, missing)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
    places = [f"{f.filename}:{f.lineno}: {f.line}" for f in frames]
    if isinstance(error, NameTaken):
        return f"{error}. Choose another name\n  {places[-1]}"
    message = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        places.append(f"{error.filename}:{error.lineno}: {(error.text or '').strip()}")
    return "\n  ".join(["cannot be imported", *places, message])


def _is_ours(file: str) -> bool:
    hidden = file.startswith(("<frozen importlib", str(Path(importlib.__file__).parent)))
    return hidden or file.startswith(tuple(f"{folder}{os.sep}" for folder in _OURS))


def _no_such_module(module: _Module, missing: str) -> str:
    """Report that `missing`, the module or one of its packages, does not exist, and list its neighbours."""
    package, _, name = missing.rpartition(".")
    if package:
        where = f"package {package}"
        folders = list(getattr(sys.modules[package], "__path__", []))
    else:
        where = f"{module.folder} or on PYTHONPATH"
        folders = [str(module.folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return f"no module {name!r} in {where}. {_nearest(name, (m.name for m in pkgutil.iter_modules(folders)))}"


def _no_such_file(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f"no such folder {path.parent}"
    return f"no such file. {_nearest(path.name, (p.name for p in path.parent.glob('*.py')))}"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = did_you_mean(name, names)
    return hint if len(names) <= _LISTED else hint.partition("Known:")[0].strip()
