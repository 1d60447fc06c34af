"""Registries: a name in a YAML file becomes a class. The one place that turns names into objects.

A registry finds its entries in one package: at the first look-up it imports every module of that package whose name
does not start with `_`. So adding an entry is one new file, and importing the package stays free. Modules from
elsewhere (plugins) register in the same way; the entries of the package come first.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name and list all of them: "Did you mean 'a'? Known: a, b"."""
    choices = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(choices) or 'none'}"


class UnknownName(KeyError):
    """An unknown name; the message suggests the nearest entry and lists all."""

    def __str__(self) -> str:
        return str(self.args[0])


class NameTaken(ValueError):
    """A name that another entry has already."""


class Registry:
    """Map names to classes or factories of one kind.

    Args:
        kind: name of one entry in messages ("loss", "decoder").
        package: dotted name of the package whose modules register entries when imported.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, Callable[..., Any]] = {}
        self._discovered = False

    def __repr__(self) -> str:
        """`Registry(loss: autoenc_recon, depth_regr, ...)`, with all names."""
        return f"Registry({self.kind}: {', '.join(self.names())})"

    def register(self, *names: str) -> Callable[[T], T]:
        """Register the decorated class or factory under `names`. Raises NameTaken for the name of another entry.

        A class whose module is loaded again replaces itself.
        """

        def decorate(entry: T) -> T:
            if not entry.__module__.startswith(f"{self.package}."):
                self._discover()  # so that the plugin is refused, not the entry whose name it takes
            for name in names:
                taken = self._entries.get(name)
                if taken is not None and _place(taken) != _place(entry):
                    raise NameTaken(f"{self.kind} {name!r} is registered twice: {_place(taken)} and {_place(entry)}")
            self._entries |= dict.fromkeys(names, entry)
            return entry

        return decorate

    def get(self, name: str) -> Callable[..., Any]:
        """Return the entry called `name`. Raises UnknownName with the nearest match and all choices."""
        self._discover()
        if name not in self._entries:
            raise UnknownName(f"{name!r} is not a {self.kind}. {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def create(self, name: str, /, **kwargs: Any) -> Any:
        """Build the entry called `name`. Raises UnknownName, or TypeError naming an unknown keyword and the nearest."""
        known = self.parameters(name)
        for key in kwargs:
            if key not in known:
                raise TypeError(f"{self.kind} {name!r} has no argument {key!r}. {did_you_mean(key, known)}")
        return self.get(name)(**kwargs)

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Keyword arguments of the entry called `name`, in order, with annotations resolved to types."""
        return keywords_of(inspect.signature(self.get(name), eval_str=True))

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # before the imports: modules may look entries up while they load
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ())):  # none in a copy of the file alone
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")


def keywords_of(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    """Return the parameters of a signature without *args and **kwargs."""
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in signature.parameters.items() if p.kind not in variadic}


def _place(entry: Callable[..., Any]) -> str:
    return f"{entry.__module__}.{getattr(entry, '__qualname__', entry)}"


def problems_of(entry: Callable[..., Any], judge: Callable[..., list[str]], kwargs: Mapping[str, Any]) -> list[str]:
    """Call `judge` with those keywords of the constructor of `entry` that it takes, defaults filled in."""
    parameters = inspect.signature(entry).parameters
    names = inspect.signature(judge).parameters
    return judge(**{name: kwargs.get(name, parameters[name].default) for name in names})
