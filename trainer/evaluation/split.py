"""Which list of items an evaluation is about, where its files name a split and the checkpoint a split file of its own.

A data set takes a split file before a split, so what a network was trained on would stay in force unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.evaluation.section import of_file
from trainer.runtime.processes import is_first_process

KEYS = ("split", "split_file")


def told_sections(files: Sequence[Path], overrides: Sequence[str]) -> list[Mapping[str, Any]]:
    """What files and overrides say in the section `dataset`, in the order in which they win."""
    sections = [of_file(path, "dataset") for path in files] + [_of_override(text) for text in overrides]
    return [section for section in sections if isinstance(section, Mapping)]


def told_keys(sections: Sequence[Mapping[str, Any]], mode: str) -> set[str]:
    """The keys that sections set for all parts of a data set, `split`, and for the part `mode`, `test.split`."""
    keys = {str(key) for section in sections for key, value in section.items() if value is not None}
    parts = [part for section in sections if isinstance(part := section.get(mode), Mapping)]
    return keys | {f"{mode}.{key}" for part in parts for key, value in part.items() if value is not None}


def of_the_split_asked_for(
    embedded: Mapping[str, Any], files: Sequence[Path], overrides: Sequence[str], mode: str
) -> dict[str, Any]:
    """A configuration without the split file of its part `mode`, where files or overrides name a split alone.

    Says so on stderr.
    """
    sections = told_sections(files, overrides)
    told = told_keys(sections, mode)
    data = dict(embedded["dataset"])
    part = dict(data.get(mode) or {})
    places = {f"{mode}.{key}": part.get(key) for key in KEYS} | {"split_file": data.get("split_file")}
    if f"{mode}.split" in told or "split" not in told:
        del places[f"{mode}.split"]  # is replaced, or stays
    left_out = {key: value for key, value in places.items() if value}
    new_type = [section["type"] for section in sections if section.get("type")][-1:]
    starts_afresh = new_type not in ([], [data["type"]])  # nothing of the embedded data set counts
    if starts_afresh or not left_out or not {"split", f"{mode}.split"} & told:
        return dict(embedded)
    if {"split_file", f"{mode}.split_file"} & told:
        return dict(embedded)
    data[mode] = {key: value for key, value in part.items() if f"{mode}.{key}" not in left_out}
    if "split_file" in left_out:
        data[mode]["split_file"] = None
    if is_first_process():
        named = ", ".join(f"dataset.{key} {value}" for key, value in left_out.items())
        print(
            f"dataset ({mode}): a split is asked for, so the checkpoint's {named} is left out",
            file=sys.stderr,
        )
    return {**embedded, "dataset": data}


def _of_override(text: str) -> Any:
    """The section `dataset` that "dataset.key=value" stands for; None where it is about another, or is not YAML."""
    key, _, value = text.partition("=")
    section, *path = key.strip().split(".")
    try:
        told = yaml.safe_load(value)
    except yaml.YAMLError:
        return None
    for name in reversed(path):
        told = {name: told}
    return told if section == "dataset" else None
