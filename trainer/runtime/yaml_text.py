"""YAML with places: text becomes plain values, and every key keeps the file and line that set it.

The keys have no meaning here. Mistakes become lines of a report instead of exceptions, so that those of all files are
shown at once. Size, depth and numbers are bounded before anything is expanded, so no text can exhaust memory.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str, ...]  # a key and its ancestors: ("loss", "img_recon", "weight")

MAX_BYTES = 4_000_000  # of a file of settings
MAX_NODES = 10_000  # keys, values, lists and mappings of one text, aliases expanded
MAX_DEPTH = 50  # of lists and mappings in each other, aliases expanded
MAX_DIGITS = 18  # of a whole number
MAX_ROWS = 20_000_000  # nodes of a file that lists images

_TAG = "tag:yaml.org,2002:"
_OURS = {f"{_TAG}float", f"{_TAG}int", f"{_TAG}timestamp", f"{_TAG}value"}
_FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
_BREAKS = re.compile("[\x85\u2028\u2029]")
_INT = re.compile(r"[-+]?(?:0|[1-9][\d_]*|0x[0-9a-fA-F]+)$")


class _Unbounded(yaml.MarkedYAMLError):
    """Valid YAML that is larger, deeper or longer than anything this project reads."""


class _Bounds:
    """Count what YAML events expand to, aliases included, without expanding it.

    `count` raises _Unbounded at the event that goes beyond a bound.
    """

    def __init__(self, max_nodes: int):
        self._max_nodes = max_nodes
        self._nodes = 0
        self._open: list[tuple[str | None, int]] = []  # anchor of each open list or mapping, nodes before it
        self._heights = [0]  # of what is closed, for each open one
        self._anchors: dict[str, tuple[int, int]] = {}  # name -> nodes, height

    def count(self, event: yaml.Event) -> None:
        """Take note of the next event of a text."""
        nodes, height = 1, 0
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._nodes))
            self._heights.append(0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            nodes, height = 0, self._heights.pop() + 1
            if anchor is not None:
                self._anchors[anchor] = self._nodes - before, height
        elif isinstance(event, yaml.AliasEvent):
            nodes, height = self._anchors.get(str(event.anchor), (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            digits = len(event.value.lstrip("+-"))
            if digits > MAX_DIGITS and (event.implicit[0] or event.tag) and _INT.match(event.value):
                self._refuse(event, f"a whole number of {digits:,} digits; at most {MAX_DIGITS} are read")
            if event.anchor is not None:
                self._anchors[event.anchor] = 1, 0
        else:
            return
        self._nodes += nodes
        self._heights[-1] = max(self._heights[-1], height)
        if len(self._open) + height > MAX_DEPTH:
            self._refuse(event, f"lists and mappings in each other, more than {MAX_DEPTH} levels deep")
        if self._nodes > self._max_nodes:
            self._refuse(event, f"more than {self._max_nodes:,} keys and values, aliases and merge keys expanded")

    def _refuse(self, event: yaml.Event, text: str) -> None:
        mark: Any = event.start_mark  # of libyaml or of PyYAML
        raise _Unbounded(problem=text, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, and 2011_09_26, 2011-09-26, 007 and 1:30 as text; bounded.

    YAML 1.1 requires 1.0e-4 for a float and reads the others as integers, dates and base-60 numbers.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._bounds = _Bounds(MAX_NODES)

    def get_event(self) -> yaml.Event:
        event = super().get_event()
        self._bounds.count(event)
        return event


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
_Dumper.add_representer(  # PyYAML would write these as line breaks and read them back as spaces
    str, lambda dumper, data: dumper.represent_scalar(f"{_TAG}str", data, '"' if _BREAKS.search(data) else None)
)
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
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            problems.append(f"{path}: more than {MAX_BYTES / 1e6:g} MB, which is no file of settings")
            return None
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        folder = path.parent
        problems.append(f"{path}: no such {f'file. {_beside(path)}' if os.path.isdir(folder) else f'folder {folder}'}")
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
        kind = "refused" if isinstance(error, _Unbounded) else "not valid YAML"
        problems.append(f"{reader.at(mark)}: {kind}: {_syntax(error)}")
        return None
    except yaml.YAMLError as error:
        problems.append(f"{label}: not valid YAML: {' '.join(str(error).split())}")
        return None
    problems += reader.problems
    return Layer(data, reader.places, label=label)


def load(text: str, max_nodes: int = MAX_NODES) -> Any:
    """Parse the YAML of a data file (results, folders) by the common rules, fast. Raises YAMLError."""
    fast, bounds = getattr(yaml, "CSafeLoader", yaml.SafeLoader), _Bounds(max_nodes)
    try:
        for event in yaml.parse(text, Loader=fast):
            bounds.count(event)
        return yaml.load(text, Loader=fast)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a date 2011-13-45, a tag !!int abc
        raise yaml.YAMLError(f"a value that its type forbids: {error}") from error


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
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError):
            self._problem(node, f"{'.'.join(path) or 'the value'}: {node.value!r} is not what its tag {node.tag} says")
            return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":  # `<<: *base`: the mapping's own keys win, in any order
                for name, value in self._bases(value_node, path).items():
                    data.setdefault(name, value)
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag not in (f"{_TAG}str", f"{_TAG}int") or key is None:  # numbers of epochs, as text
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
