"""Published numbers as rows below a table of the same protocol, never ranked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models_zoo.registry import did_you_mean
from trainer.runtime import files, yaml_text
from trainer.runtime.errors import UserError
from trainer.tables.aggregate import PUBLISHED, Cell, Row, Table
from trainer.tables.columns import Column, registered

_PREFIX = "published_"


def references() -> dict[str, Path]:
    """Files of published numbers in the project, by name."""
    return {p.stem.removeprefix(_PREFIX): p for p in sorted(Path(__file__).parent.glob(f"{_PREFIX}*.yaml"))}


def add_references(tables: list[Table], name: str) -> None:
    """Add to each table the published rows of its protocol, or a note that there are none.

    `name` is one of `references()` or a YAML file of the same form. Raises UserError for another name or form.
    """
    known = references()
    path = known.get(name, Path(name))
    if name not in known and not os.path.isfile(path):
        raise UserError(f"--reference {name}: {did_you_mean(name, known)}; or a YAML file of the same form")
    try:
        data = yaml_text.load(files.read_file(path).decode())
        for table in tables:
            _add(table, data)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{path}: is no file of published numbers ({reason}). For the form see {known['benchmark']}"
        ) from error


def _add(table: Table, data: Mapping[str, Any]) -> None:
    if "pixels" in table.protocol:  # nothing published is about depth edges alone
        return
    wrong, used = [], []
    for protocol, wanted in data["protocols"].items():
        differences = _differences(table, wanted)
        if differences:
            if not any(d.startswith("dataset ") for d in differences):
                wrong.append(f"{protocol} has {', '.join(differences)}")
            continue
        for method, numbers in data["methods"].items():
            alignment = str(wanted.get("alignment", numbers["scale"]))
            if table.protocol.get("alignment", alignment) != alignment:
                continue
            cells = _cells(table, numbers.get(protocol, {}), data)
            if cells:
                shown = {"alignment": alignment} if "alignment" not in table.protocol else {}
                table.references.append(Row(f"{method}{PUBLISHED}", cells, shown=shown))
                used.append(protocol)
    reason = "; ".join(wrong) or "none of this data set, alignment and these metrics"
    published = f"published rows: {data['source']}, protocol {', '.join(dict.fromkeys(used))}; not ranked"
    table.notes.append(published if used else f"no published rows: {reason}")


def _differences(table: Table, wanted: Mapping[str, Any]) -> list[str]:
    """List the differences of a published protocol from that of the table, among the fields that the table has."""
    return [
        f"{key} {value}, not {table.protocol[key]}"
        for key, value in wanted.items()
        if key in table.protocol and not _agrees(str(value), table.protocol[key])
    ]


def _agrees(wanted: str, value: str) -> bool:
    """True when `value` has all words; earlier code joined the words of a data set by underscores."""
    words = f" {value} {value.replace('_', ' ')} ".replace(",", " ")
    return all(f" {word} " in words or f" {word.replace('_', ' ')} " in words for word in wanted.split())


def _cells(table: Table, numbers: Mapping[str, Any], data: Mapping[str, Any]) -> dict[Column, Cell]:
    values = {key: (float(mean), float(sd)) for key, (mean, sd) in numbers.items()}
    for key, rule in (data.get("derived") or {}).items():
        if rule["of"] in values:
            mean, sd = values[rule["of"]]
            values[key] = mean * rule["times"], sd * rule["times"]
    legacy = {key: getattr(metric, "legacy", "") for key, metric in registered().items()}
    cells = {}
    for column in table.columns:
        by_legacy = [] if column.unit else [key for key in values if legacy.get(key) == column.key]
        key = (by_legacy or [column.key])[0]
        if key in values:
            cells[column] = Cell(*values[key], n=int(data["seeds"]))
    return cells
