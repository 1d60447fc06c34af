"""Layers of settings: files, overrides and mappings merge into one, later ones winning. Nothing is mutated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trainer.config.fields import fields_of_model
from trainer.config.foreign_names import SCORING
from trainer.config.sections import OF_TRAINING, SECTIONS
from trainer.runtime.rundir import plain
from trainer.runtime.yaml_text import MAX_DEPTH, KeyPath, Layer, read_text

_SHOWN = 100  # characters of an override in messages


def read_override(text: str, problems: list[str]) -> Layer | None:
    """Parse `a.b=value` with a YAML value. Any other form is added to `problems`."""
    label = f"--set {text if len(text) <= _SHOWN else f'{text[:_SHOWN]} ...'}"
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path) or len(path) > MAX_DEPTH:
        problems.append(f"{label}: expected key=value with a dotted key, such as --set trainer.max_epochs=1")
        return None
    several = re.search(r"\s+(?=[A-Za-z]\w*(\.\w+)*=)", value)  # --set 'a.b=1 c.d=2'
    if several and not value.lstrip().startswith(("'", '"', "[", "{")):
        words = f"{key}={value[: several.start()]} {value[several.end() :]}"
        problems.append(f"{label}: each KEY=VALUE is a word of its own, without quotes around both: --set {words}")
        return None
    layer = read_text(value, label, problems, lines=False)
    return layer and _nest(path, layer.data, label)


def override_conflict(earlier: str, later: str) -> str:
    """Say that a later override takes back what an earlier one sets, "" where it does not.

    `a=~ a={...}` begins an entry anew on purpose, `a=true a.b=1` switches it on, and `a={b: 1}` may be
    refined by `a.b=2` or `a={b: 2}`.
    """
    first, second = (text.partition("=")[0].strip().split(".") for text in (earlier, later))
    if any(a != b for a, b in zip(first, second, strict=False)):
        return ""
    before, after = (read_override(text, []) for text in (earlier, later))
    if before is None or after is None:
        return ""  # reported when the configuration is read
    merged, key = merge([before, after]).data, ".".join(first)
    if all(_value_at(merged, path) == value for path, value in _leaves(before.data)):
        return ""
    value = _value_at(before.data, first)
    is_refined = isinstance(_value_at(merged, first), Mapping)
    if is_refined and isinstance(value, Mapping):
        return ""
    if is_refined and (value is None or value is True):
        anew = f"--set {later} after --set {earlier}: {key} begins anew, without what pages say of it"
        return anew if value is None and len(second) > len(first) else ""
    return f"--set {later} takes back --set {earlier} before it: the later one holds"


def read_mapping(data: Mapping[Any, Any], label: str, problems: list[str]) -> Layer:
    """Copy a mapping of settings; dotted keys ("trainer.max_epochs") reach into sections, tuples become lists."""
    layers = [Layer({}, label=label)]
    for key, value in data.items():
        path = tuple(str(key).split("."))
        if len(path) > MAX_DEPTH or _is_deeper(value, MAX_DEPTH):
            problems.append(
                f"{label}: {str(key)[:_SHOWN]}: lists and mappings in each other, more than {MAX_DEPTH} levels deep"
            )
            continue
        try:
            layers.append(_nest(path, plain(value), label))
        except TypeError as error:
            problems.append(f"{label}: {key}: {error}")
    merged = merge(layers)
    merged.label = label
    return merged


def merge(layers: Iterable[Layer]) -> Layer:
    """Merge sources, later ones winning: mappings key by key, everything else as a whole."""
    merged = Layer()
    for layer in layers:
        merged.outdated |= set(_of_replaced_types(merged, layer))
        merged.outdated -= layer.places.keys()
        merged.data = _merged(merged.data, layer.data, (), merged.removed)
        merged.places.update(layer.places)
        merged.label = layer.label
    return merged


def _of_replaced_types(base: Layer, over: Layer) -> Iterator[KeyPath]:
    """Yield the keys that `base` set in a section whose `type` changes in `over`."""
    for section, settings in over.data.items() if isinstance(over.data, Mapping) else ():
        before = base.data.get(section)
        if not isinstance(settings, Mapping) or not isinstance(before, Mapping):
            continue
        if settings.get("type") and before.get("type") not in (None, settings["type"]):
            yield from (path for path in base.places if path[0] == section)


def _merged(base: Any, over: Any, path: KeyPath, removed: set[KeyPath]) -> Any:
    if not isinstance(over, Mapping):
        if over is None and base is not None:
            removed.add(path)
        return plain(over)
    result = dict(base) if isinstance(base, Mapping) else {}
    for key, value in over.items():
        result[key] = _merged(result.get(key), value, (*path, key), removed)
    return result


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves(item, (*path, key))


def _value_at(value: Any, path: Iterable[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _nest(path: KeyPath, value: Any, label: str) -> Layer:
    layer = Layer({}, {path[:length]: label for length in range(1, len(path) + 1)}, label=label)
    _note_places(value, path, layer.places, label)
    for key in reversed(path):
        value = {key: value}
    layer.data = value
    return layer


def _is_deeper(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return levels < 0 or any(_is_deeper(item, levels - 1) for item in inside)


def _note_places(value: Any, path: KeyPath, places: dict[KeyPath, str], label: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            here = (*path, key)
            places[here] = label
            _note_places(item, here, places, label)


def refused(setting: str, command: str) -> str:
    """Say what a key takes where it refuses the value given here, or that a command does not read it; "" otherwise."""
    (section, _, name), value = setting.partition("=")[0].partition("."), setting.partition("=")[2]
    if command in SCORING and section in OF_TRAINING:
        return f"not here: {section}.{name} is about training"
    field = fields_of_model(SECTIONS[section]).get(name) if section in SECTIONS else None
    layer = read_override(setting, []) if field else None
    try:
        if field and layer:
            field.parse(layer.data[section][name])
    except ValueError:
        return f"use {section}.{name}, {field.expected()}, not {value}" if field else ""
    return ""
