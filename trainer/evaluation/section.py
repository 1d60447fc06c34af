"""The section `evaluation` of a configuration file: read, checked, and blanked for those who know no such section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models_zoo.registry import did_you_mean
from trainer.metrics.protocol import choose
from trainer.runtime.errors import UserError

SECTION = "evaluation"
NAMED = {"metrics": "metric set", "alignment": "alignment", "crop": "crop"}  # option: kind of its names

Metres = Annotated[float, Field(gt=0)]
Names = Annotated[list[str], Field(min_length=1)] | str


class Settings(BaseModel):
    """The section `evaluation` of a configuration file; null = not said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: Names | None = None  # metric sets
    alignment: Names | None = None  # one or several, see `trainer.metrics.align`
    crop: str | None = None  # see `trainer.metrics.crop`
    min_depth: Metres | None = None
    max_depth: Metres | None = None
    flip: bool | None = None  # blend with the prediction for the mirrored image


def read_settings(files: Sequence[Path]) -> Settings:
    """Merge the sections `evaluation` of files, later ones winning. Raises UserError with file, line, key, choices."""
    merged: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in files:
        section = of_file(path, SECTION)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise UserError(f"{path}: {SECTION} must be a mapping of keys to values")
        lines = _lines(path)
        _check(section, {key: f"{path}:{lines.get(key, 1)}: {SECTION}.{key}" for key in map(str, section)})
        places |= {key: f"{path}:{lines.get(key, 1)}" for key in section}
        merged |= section
    settings = Settings(**merged)
    if settings.min_depth and settings.max_depth and settings.min_depth >= settings.max_depth:
        raise UserError(
            f"{places['max_depth']}: {SECTION}.max_depth {settings.max_depth:g} must be above min_depth"
            f" {settings.min_depth:g} ({places['min_depth']})"
        )
    return settings


def of_file(path: Path, name: str) -> Any:
    """A section of a YAML file; None where there is none. What is wrong with the file, `load_config` tells."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return data.get(name) if isinstance(data, dict) else None


def without_settings(path: Path, staged: Path) -> Path | None:
    """Write a copy of a file whose section `evaluation` is blank, lines numbered as before.

    Returns the file itself where it has no such section, None where it has no other.
    """
    if of_file(path, SECTION) is None:
        return path
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    if len(root.value) == 1:
        return None
    starts = [key.start_mark.line for key, _ in root.value] + [len(lines)]
    for (key, _), start, end in zip(root.value, starts, starts[1:], strict=False):
        if key.value == SECTION:
            lines[start:end] = [""] * (end - start)
    if root.flow_style:  # sections share lines
        lines = [yaml.safe_dump({k: v for k, v in yaml.safe_load(text).items() if k != SECTION})]
    staged.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return staged


def listed(value: list[str] | str) -> list[str]:
    """One or several, as a list."""
    return [value] if isinstance(value, str) else list(value)


def _check(section: dict[str, Any], places: dict[str, str]) -> None:
    """Raise UserError for keys, types and names that are none, all of them at once."""
    problems = [
        f"{places[str(key)]} is not an option. {did_you_mean(str(key), Settings.model_fields)}"
        for key in section
        if key not in Settings.model_fields
    ]
    if problems:
        raise UserError("\n".join(problems))
    try:
        settings = Settings(**section)
    except ValidationError as error:
        lines = [f"{places[str(e['loc'][0])]}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
        raise UserError("\n".join(lines)) from error
    problems = [
        f"{places[key]}: {problem}"
        for key, kind in NAMED.items()
        for name in listed(getattr(settings, key) or [])
        if (problem := _problem(kind, name))
    ]
    if problems:
        raise UserError("\n".join(problems))


def _problem(kind: str, name: str) -> str:
    """Why a name is none, "" when it is one."""
    try:
        choose(kind, name)
    except UserError as error:
        return str(error)
    return ""


def _lines(path: Path) -> dict[str, int]:
    """Line of each key of the section, from 1."""
    root: Any = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    section = next(value for key, value in root.value if key.value == SECTION)
    return {key.value: key.start_mark.line + 1 for key, _ in getattr(section, "value", [])}
