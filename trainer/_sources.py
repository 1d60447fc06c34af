"""What docstrings say about ideas: in one sentence what it is, and where it was published."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

_WHO = r"(?:[A-Z][\w'-]*\.?(?: (?:et al\.|&|and|[A-Z][\w'-]*\.?))*,? \(?)?"
_WHERE = r"(?:arXiv:\d{4}\.\d{4,5}|[A-Z][a-z]*[A-Z]\w* (?:19|20)\d\d|10\.\d{4,}/\S+\w|https?://\S+\w)"
_CITATION = re.compile(f"({_WHO})({_WHERE})")
_NOBODY = re.compile(r"^(?:The|See|In|As|From|After|Following) ")
_SOURCE = re.compile(r"^Source: (.+?)$", re.M)


def summary_of(entry: Any) -> str:
    """The first paragraph of a docstring, without a citation at its end."""
    paragraph = " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
    sentences = re.split(r"(?<=[.;]) (?=[A-Za-z])", paragraph)
    while len(sentences) > 1 and _CITATION.sub("", sentences[-1]).strip(" .;(),") == "":
        sentences.pop()
    return " ".join(sentences).rstrip(";")


def source_of(entry: Any) -> str:
    """Where an idea was published: the line `Source: ...` or the citations of its docstring, else of its module.

    Bases of the class in that module are asked next. Arguments are not: they may cite what is not the idea itself.
    Empty when none knows.
    """
    bases = [c for c in getattr(entry, "__mro__", ())[1:] if c.__module__ == entry.__module__]
    texts = [_head(inspect.getdoc(thing) or "") for thing in (entry, sys.modules[entry.__module__], *bases)]
    for text in texts:
        if said := _SOURCE.search(text):
            return said[1].rstrip(".")
        if found := cited(text):
            better = cited("\n".join(texts))
            return "; ".join(better[where] if found[where] == where else found[where] for where in found)
    return ""


def cited(text: str) -> dict[str, str]:
    """Read the citations of a docstring, in order: {"arXiv:1806.01260": "Monodepth2, arXiv:1806.01260"}."""
    found: dict[str, str] = {}
    for who, where in _CITATION.findall(" ".join(text.split())):
        name = _NOBODY.sub("", who.rstrip(" (,"))
        named = f"{name}, {where}" if name else where
        if found.get(where, where) == where:
            found[where] = named
    return found


def _head(doc: str) -> str:
    """A docstring up to its list of arguments."""
    return re.split(r"^Args:", doc, maxsplit=1, flags=re.M)[0]
