"""Render a template as one page that holds all it shows, asks for nothing, and trusts no text from a file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.runtime.errors import printable

MOST_BYTES = 10_000_000  # of a page
LONG = 3000  # characters of a text from a file that are shown


def render(template: str, *, styles: Sequence[str], scripts: Sequence[str] = (), **facts: Any) -> str:
    """Fill a template of this folder with facts; styles and scripts are files of it, one after another.

    The template also gets `version`, of this program, and `style`, `script` and `policy`, which go into its head.
    """
    import jinja2
    from markupsafe import Markup

    def presentable(value: Any) -> Any:
        """Write a text from a file without what is invisible or endless; Jinja escapes it afterwards."""
        if isinstance(value, (Markup, int, float, jinja2.Undefined)):
            return value
        text = printable(value, keep="\n\t")
        return text if len(text) <= LONG else f"{text[:LONG]} ..."

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=presentable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ("".join((here / name).read_text(encoding="utf-8") for name in part) for part in (styles, scripts))
    return environment.get_template(template).render(
        **facts, version=__version__, policy=_policy(style, script), style=Markup(style), script=Markup(script)
    )


def _policy(style: str, script: str) -> str:
    """The page runs its own script, has its own style and pictures inside it, and may load nothing at all."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {digest(style)}; script-src {digest(script)};"
        " base-uri 'none'; form-action 'none'"
    )
