"""The Python reference names things that exist, and leaves out no loss and no data set."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from models_zoo.registry import Registry
from tests.docs.blocks import ROOT
from trainer.data import DATASETS
from trainer.losses import LOSSES

PAGES = sorted((ROOT / "docs" / "reference" / "api").glob("*.md"))


def identifiers(page: Path) -> list[str]:
    return re.findall(r"^::: (\S+)$", page.read_text(), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    names = identifiers(page)
    package, *parts = names
    assert import_module(package).__doc__
    assert f"# `{package}`" in page.read_text()
    for name in parts:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute).__doc__, name


@pytest.mark.parametrize(("registry", "page"), [(LOSSES, "losses"), (DATASETS, "data")])
def test_all_entries_of_a_registry_are_there(registry: Registry, page: str) -> None:
    listed = identifiers(ROOT / "docs" / "reference" / "api" / f"{page}.md")
    entries = {name: registry.get(name) for name in registry.names()}
    own = {f"{e.__module__}.{e.__qualname__}" for e in entries.values() if e.__module__.startswith("trainer.")}
    assert own - set(listed) == set()
