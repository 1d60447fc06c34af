"""Fields: the type, default and meaning of a key. Pydantic checks the values, and the messages are our own.

Fields come from the signatures of registry entries and from the models of `trainer.config.sections`.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from models_zoo.registry import did_you_mean, keywords_of
from trainer.config.foreign_names import use_instead
from trainer.runtime.yaml_text import KeyPath, Layer

REQUIRED: Any = inspect.Parameter.empty  # as a default: the key must be given

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts", bool: "true/false values"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
# Not `pydantic.create_model` per entry: one wrong key would hide the values of the others, which later checks need, and
# its messages name every member of a union instead of "expected ..., got ...", so all words below would stay.


@dataclass(frozen=True)
class Field:
    """The type, default and meaning of a key."""

    annotation: Any
    default: Any = REQUIRED
    doc: str = ""
    nearest: Callable[[Sequence[int]], Sequence[int]] = list  # what to suggest for two numbers that are no list

    def adapter(self) -> TypeAdapter[Any]:
        """The pydantic validator of the type; classes that YAML cannot express are allowed and match nothing."""
        try:
            return TypeAdapter(self.annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # the type brings its own configuration (a model, a dataclass)
            return TypeAdapter(self.annotation)

    def parse(self, value: Any) -> Any:
        """Check plain data against the type. Raises ValueError naming the expected type and the value."""
        try:
            text = json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError(f"expected {self.expected()}, got {value}, which is not finite") from None
        try:
            return self.adapter().validate_json(text, strict=True)  # lists become tuples, but "3" is no number
        except ValidationError as error:
            own = [e["ctx"]["error"] for e in error.errors() if e["type"] == "value_error"]
            if own:
                raise ValueError(str(own[0])) from None
        choices = [choice for choice in choices_of(self.annotation) if isinstance(choice, str)]
        near = did_you_mean(value, choices).partition("Known:")[0] if isinstance(value, str) else ""
        near = near or self._as_list(value)
        raise ValueError(f"expected {self.expected()}, got {show(value)}{near and f'. {near.strip()}'}")

    def _as_list(self, value: Any) -> str:
        """Suggest [256,128] for the text 256x128, or what is allowed and near it."""
        text = value if isinstance(value, str) else ""
        sides = re.fullmatch(r"(\d+)\s*[x, ]\s*(\d+)", text, re.ASCII | re.IGNORECASE)
        if not sides or "a list of 2 " not in self.expected():
            return ""
        first, second = self.nearest([int(side) for side in sides.groups()])
        return f"Did you mean [{first},{second}]?"

    def model(self) -> type[BaseModel] | None:
        """The model of a nested section, else None."""
        return next((kind for kind in _members(self.annotation) if _is_a(kind, (BaseModel,))), None)

    def expected(self) -> str:
        """The type in words: "a whole number >= 1 or null"."""
        return _describe(self.annotation)


Fields = Mapping[str, Field]


class Report:
    """All mistakes in a configuration, one line each: place, key, expectation."""

    def __init__(self, layer: Layer, lines: Iterable[str] = ()):
        self.layer = layer
        self.lines = list(lines)
        self.dropped: dict[KeyPath, str] = {}  # keys of a replaced `type` -> warning

    def wrong(self, path: KeyPath, text: str) -> None:
        self.add(path, f"{'.'.join(path)}: {text}")

    def drop(self, path: KeyPath, what: str) -> None:
        """Warn that a key is left out because a later source chose another `type`."""
        self.dropped[path] = (
            f"{self.layer.place(path)}: {'.'.join(path)} is left out: it is not {what}, which replaces the earlier type"
        )

    def unknown(self, path: KeyPath, what: str, known: Iterable[str]) -> None:
        """Report an unknown key, with our name of another program's, or the nearest one and all choices."""
        key = ".".join(path)
        ours = use_instead(path[-1], key)
        self.add(path, f"{key} is not {what}. {f'Use {ours}' if ours else did_you_mean(path[-1], known)}")

    def add(self, path: KeyPath, text: str) -> None:
        """Report a sentence at the place of a key, once."""
        place = self.layer.place(path)
        line = f"{place}: {text}" if place else text
        if line not in self.lines:
            self.lines.append(line)


def fields_of_model(model: type[BaseModel]) -> dict[str, Field]:
    """Fields of a pydantic model, in order, constraints included."""
    fields = {}
    for name, info in model.model_fields.items():
        parts = (info.annotation, *info.metadata)
        annotation = Annotated[parts] if info.metadata else info.annotation
        default = REQUIRED if info.is_required() else info.get_default(call_default_factory=True)
        fields[name] = Field(annotation, default, info.description or "")
    return fields


def fields_of_parameters(parameters: Mapping[str, inspect.Parameter], doc: str | None = None) -> dict[str, Field]:
    """Fields of a signature; a parameter without annotation takes anything. `doc` may have `name: meaning` lines."""
    docs = _argument_docs(doc or "", parameters)
    return {
        name: Field(Any if p.annotation is REQUIRED else p.annotation, p.default, docs.get(name, ""))
        for name, p in parameters.items()
    }


def fields_of_callable(entry: Callable[..., Any], without: Sequence[str] = ()) -> dict[str, Field]:
    """Fields of the keyword arguments of a class of torch or timm, except those named in `without`."""
    try:
        signature = inspect.signature(entry, eval_str=True)
    except NameError:  # annotations for type checkers only
        signature = inspect.signature(entry)
        blank = [p.replace(annotation=REQUIRED) for p in signature.parameters.values()]
        signature = signature.replace(parameters=blank)
    keywords = keywords_of(signature)
    return fields_of_parameters({name: p for name, p in keywords.items() if name not in without})


def check(
    fields: Fields,
    data: Any,
    path: KeyPath,
    owner: str,
    report: Report,
    *,
    paths: Mapping[str, KeyPath] | None = None,
    also: Iterable[str] = (),
    partial: bool = False,
) -> dict[str, Any]:
    """Check the mapping at `path` against its fields and fill in defaults.

    Args:
        owner: of the keys, for messages ("an argument of loss 'disp_smooth'", "a key of trainer").
        paths: places of single keys that are not directly below `path`.
        also: other valid keys, handled elsewhere, for messages.
        partial: skip missing keys, instead of filling in defaults and reporting required ones.

    Returns the valid values, in the order of `data`, then the defaults. Unknown keys of an earlier source are dropped
    when a later one sets them to null or chooses another `type`.
    """
    if not isinstance(data, Mapping):
        report.wrong(path, f"expected a mapping of keys, got {show(data)}")
        return {}
    values = {}
    for key, value in data.items():
        place = (paths or {}).get(key, (*path, key))
        if key not in fields:
            if place in report.layer.outdated:
                report.drop(place, owner)
            elif not (value is None and place in report.layer.removed):
                report.unknown(place, owner, (*fields, *also))
            continue
        if (model := fields[key].model()) and isinstance(value, Mapping):
            values[key] = check(fields_of_model(model), value, place, f"a key of {'.'.join(place)}", report)
            continue
        try:
            values[key] = fields[key].parse(value)
        except ValueError as error:
            report.wrong(place, str(error))
    for key, field in fields.items():
        if key in data or partial:
            continue
        if field.default is REQUIRED:
            report.wrong((*path, key), f"missing; expected {field.expected()}")
        else:
            values[key] = copy.deepcopy(field.default)
    return values


def show(value: Any) -> str:
    """Write a value as in YAML, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def choices_of(annotation: Any) -> list[Any]:
    """List the values of a bool or Literal, also inside a union."""
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for arg in get_args(annotation) for choice in choices_of(arg)]


def _describe(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{_describe(args[0])}{_bounds(args[1:])}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(arg) for arg in args if _is_plain(arg)))
    if origin is Literal:
        shown = [show(choice) for choice in args]
        return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)} {_plural(args[0]) if len(set(args)) == 1 else 'values'}"
    if annotation in (list, tuple) or _is_a(origin, (Sequence, set, frozenset)):
        return f"a list of {_plural(args[0])}" if args else "a list"
    if annotation is dict or _is_a(origin, (Mapping,)) or _is_a(annotation, (BaseModel,)):
        return "a mapping"
    if annotation is Any:
        return "any value"
    return _WORDS.get(annotation, "text" if _is_a(annotation, (PurePath,)) else str(annotation))


def _plural(annotation: Any) -> str:
    return _PLURALS.get(annotation) or f"values, each {_describe(annotation)}"


def _is_a(annotation: Any, kinds: tuple[type, ...]) -> bool:
    is_class = (
        isinstance(annotation, type) and get_origin(annotation) is None
    )  # Python 3.10 calls dict[str, int] a type
    return is_class and issubclass(annotation, kinds)


def _bounds(metadata: Iterable[Any]) -> str:
    bounds = [b for item in metadata for b in getattr(item, "metadata", [item])]  # pydantic.Field keeps a list of them
    named = [(sign, getattr(b, name)) for name, sign in _BOUNDS.items() for b in bounds if hasattr(b, name)]
    return " and".join(f" {sign} {_number(value)}" for sign, value in named)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _is_plain(annotation: Any) -> bool:
    """Return whether YAML can express the type: not for the Tensor of `float | Tensor`."""
    known = annotation is Any or annotation in _WORDS or get_origin(annotation) is not None
    return known or _is_a(annotation, (list, tuple, dict, BaseModel, PurePath))


def _members(annotation: Any) -> list[Any]:
    """The members of a union, without annotations."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin not in (Annotated, Union, types.UnionType):
        return [annotation]
    return [member for arg in (args[:1] if origin is Annotated else args) for member in _members(arg)]


def _argument_docs(doc: str, names: Iterable[str]) -> dict[str, str]:
    """Read `name: meaning` and `a, b: meaning` lines of a docstring; indented lines continue the meaning."""
    known, found = set(names), dict[str, str]()
    current: list[str] = []
    depth = 0
    for line in doc.splitlines():
        indent = len(line) - len(line.lstrip())
        head, colon, meaning = line.strip().partition(": ")
        listed = [name.strip() for name in head.split(",")]
        if colon and known.issuperset(listed):
            current, depth = [name for name in listed if name not in found], indent
            found |= dict.fromkeys(current, meaning.strip())
        elif current and line.strip() and indent > depth:
            found |= {name: f"{found[name]} {line.strip()}" for name in current}
        else:
            current = []
    return found
