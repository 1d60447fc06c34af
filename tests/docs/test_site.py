"""The built site: no warnings, no broken links or anchors, nothing loaded from elsewhere. It is built here once."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.docs
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
NOT_LOADED = {"canonical", "next", "prev"}  # relations of `link` that name a page


class Resources(HTMLParser):
    """What a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADING and not set((given.get("rel") or "").split()) & NOT_LOADED:
            self.found.append(given.get(LOADING[tag]) or "")
            self.found += [part.split()[0] for part in (given.get("srcset") or "").split(",") if part.strip()]


def external(text: str) -> list[str]:
    page = Resources()
    page.feed(text)
    return [url for url in page.found if url.startswith(("http:", "https:", "//"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: `make docs` installs it")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    assert {str(page.relative_to(site)): found for page in pages if (found := external(page.read_text()))} == {}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not [piece[:60] for piece in styles.split("url(")[1:] if piece.lstrip("'\"").startswith(("http", "//"))]
    assert "@import" not in styles


def test_scripts_ask_elsewhere_only_for_what_no_page_has(site: Path) -> None:
    """The theme would load Mermaid for diagrams, and facts about a repository that the settings name."""
    text = "".join(page.read_text() for page in site.rglob("*.html"))
    assert 'class="mermaid"' not in text
    assert 'data-md-component="source"' not in text


def test_what_loads_is_seen() -> None:
    page = '<a href="https://x"></a><link rel="canonical" href="https://y"><script src="//z"></script>'
    assert external(page + '<img src="a.png" srcset="https://w/b.png 2x">') == ["//z", "https://w/b.png"]
