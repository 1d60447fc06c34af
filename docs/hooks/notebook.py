"""Show notebooks as pages of the site, with the outputs that are stored in them: a hook of MkDocs, named in mkdocs.yml.

A notebook becomes Markdown before MkDocs reads it. Pictures are written into the page: nothing is loaded from
elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def on_files(files: Any, config: Any) -> Any:
    """Replace every notebook among the files by a page of the same name; called by MkDocs."""
    from mkdocs.structure.files import File

    class Notebook(File):
        def is_documentation_page(self) -> bool:
            return True

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = to_markdown(json.loads(Path(file.abs_src_path).read_text(encoding="utf-8")))
        files.remove(file)
        files.append(Notebook.generated(config, file.src_uri, content=text))
    return files


def to_markdown(notebook: dict[str, Any]) -> str:
    """Write the cells of a notebook as Markdown: text as it is, code and printed output fenced, pictures inline."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield _fenced(source, "python")
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join(data["image/png"]).strip()
            yield f'<img alt="output of the code above" src="data:image/png;base64,{picture}">'
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            yield _fenced(text, "text")


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
