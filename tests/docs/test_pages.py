"""The commands of every page, run in order in a folder with the stand-ins: `make test-docs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import all_blocks
from tests.docs.standins import run_page
from tests.docs.test_blocks import name_of

PAGES = sorted({block.page for block in all_blocks() if block.is_executed})


@pytest.mark.docs
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_works_as_it_stands(page: Path, work: Path, standins: Path) -> None:
    run_page(page, work, standins)
