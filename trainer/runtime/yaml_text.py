"""YAML with places: text becomes plain values, and every key keeps the file and line that set it.

The keys have no meaning here. Mistakes become lines of a report instead of exceptions, so that those of all files are
shown at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str, ...]  # a key and its ancestors: ("loss", "img_recon", "weight")

_TAG = "tag:yaml.org,2002:"
_OURS = {f"{_TAG}float", f"{_TAG}int", f"{_TAG}timestamp", f"{_TAG}value"}
_FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(?:0|[1-9][\d_]*|0x[0-9a-fA-F]+)$")


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, and 2011_09_26, 2011-09-26, 007 and 1:30 as text.

    YAML 1.1 requires 1.0e-4 for a float and reads the others as integers, dates and base-60 numbers.
    """


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
# The text "1e-4" must be quoted, or the loader above would read a number.
_Dumper.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence(f"{_TAG}seq", data, flow_style=True))


@dataclass
class Layer:
    """One source of settings, or several merged ones.

    `places`: where a key was set last, "cfg/x.yaml:12" or "--set loss.x=3". `removed`: keys that a later source set to
    null. `outdated`: keys beside a `type` that a later source replaced.
    """

    data: Any = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    removed: set[KeyPath] = field(default_factory=set)
    outdated: set[KeyPath] = field(default_factory=set)
    label: str = ""  # name of the source

    def place(self, path: KeyPath) -> str:
        """Return where `path` was set; for a missing key, where its nearest ancestor was."""
        depth, node = 0, self.data
        while depth < len(path) and isinstance(node, Mapping) and path[depth] in node:
            node = node[path[depth]]
            depth += 1
        for length in range(depth, 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.label


def _beside(path: Path) -> str:
    """Name the YAML files of the folder, the one with the most similar name first."""
    names = sorted(p.name for p in path.parent.glob("*.y*ml"))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"{f'Did you mean {near[0]!r}? ' if near else ''}Known: {', '.join(names) or 'none'}"


def read_file(path: Path, problems: list[str]) -> Layer | None:
    """Read a YAML file with a mapping at its top. Mistakes are added to `problems`; None = unusable."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        folder = path.parent
        problems.append(f"{path}: no such {f'file. {_beside(path)}' if folder.is_dir() else f'folder {folder}'}")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
    else:
        layer = read_text(text, str(path), problems)
        if layer is None or isinstance(layer.data, dict):
            return layer
        holds = {type(None): "nothing", list: "a list"}.get(type(layer.data), repr(layer.data))
        problems.append(f"{path}: holds {holds}; expected a mapping of sections (net, loss, dataset, ...)")
    return None


def read_text(text: str, label: str, problems: list[str], *, lines: bool = True) -> Layer | None:
    """Parse YAML text. Places are "label:line", or `label` without `lines`. None = not YAML, see `problems`."""
    reader = _Reader(text, label, lines)
    try:
        data = reader.read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.append(f"{reader.at(mark)}: not valid YAML: {_syntax(error)}")
        return None
    except yaml.YAMLError as error:
        problems.append(f"{label}: not valid YAML: {' '.join(str(error).split())}")
        return None
    problems += reader.problems
    return Layer(data, reader.places, label=label)


def dump(data: Mapping[str, Any]) -> str:
    """Write plain data as readable YAML: keys in order, lists on one line. `read_text` returns the same data."""
    style: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 120, "default_flow_style": False}
    return str(yaml.dump(data, Dumper=_Dumper, **style))


class _Reader:
    def __init__(self, text: str, label: str, lines: bool):
        self.label, self.lines = label, lines
        self.places: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self._text = text
        self._open: list[yaml.Node] = []  # ancestors of the node at hand, to notice an alias to one of them

    def read(self) -> Any:
        self._loader = _Loader(self._text)
        node = self._loader.get_single_node()
        return None if node is None else self._value(node, ())

    def at(self, mark: Any) -> str:
        return f"{self.label}:{mark.line + 1}" if self.lines and mark else self.label

    def _problem(self, node: yaml.Node, text: str) -> None:
        self.problems.append(f"{self.at(node.start_mark)}: {text}")

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if node in self._open:
            self._problem(node, f"{'.'.join(path)}: an alias may not hold itself")
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, path) for item in node.value]
            return self._scalar(node, path)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag.removeprefix(_TAG) not in ("null", "bool", "int", "float", "str"):
            self._problem(node, f"{'.'.join(path) or 'the value'}: tag {node.tag} is not supported; remove it")
            return None
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":  # `<<: *base`: the mapping's own keys win, in any order
                for name, value in self._bases(value_node, path).items():
                    data.setdefault(name, value)
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag != f"{_TAG}str" or key is None:
                shown = "a list or mapping" if key is None else f"{key!r} ({key_node.tag.removeprefix(_TAG)})"
                self._problem(key_node, f"{shown} is no key: keys are text; quote it")
                continue
            if key in first_line:
                where, before = ".".join((*path, key)), f"first on line {first_line[key]}"
                self._problem(key_node, f"{where} is given twice, {before}. Remove one")
            first_line[key] = key_node.start_mark.line + 1
            here = (*path, key)
            self.places[here] = self.at(key_node.start_mark)
            data[key] = self._value(value_node, here)
        return data

    def _bases(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        bases: dict[str, Any] = {}
        for base in nodes:
            if not isinstance(base, yaml.MappingNode):
                self._problem(base, "<< takes a mapping, as in <<: *name")
                continue
            kept = dict(self.places)
            bases = {**self._value(base, path), **bases}
            self.places = {**self.places, **kept}
        return bases


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or error.context or "").strip()
    if "'\\t'" in problem:
        return "a tab in the indentation. Indent with spaces"
    return f"{problem} ({error.context})" if error.context and error.context != problem else problem
