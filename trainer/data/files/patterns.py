"""File names with named wildcards: `{scene}/rgb/{stem}.png`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path

from trainer.runtime.errors import listed

Words = Mapping[str, str]

INDEX = "index"  # the word for the position of an item, from 0
_WORD = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_INDEX = re.compile(rf"{INDEX}(?::(0?\d+))?")


class Pattern:
    """A path below a folder, or a line of text, in which a word in braces stands for some part of a name.

    `{stem}` is any text without a slash, the same wherever the word occurs. `{index}` is the position of an item in
    its data set, from 0; `{index:03}` has three digits at least.

    Args:
        text: the pattern, with `/` between folders.
        of_line: of a line of text: words hold neither spaces nor commas.

    Raises ValueError with a sentence for a pattern that has no meaning.
    """

    def __init__(self, text: str, of_line: bool = False):
        self.text = text
        self._pieces = _WORD.split(text)  # literal, word, literal, ..., literal
        self._check(of_line)
        names = [word.partition(":")[0] for word in self._raw]
        self.words = tuple(dict.fromkeys(names))
        any_text, expression = (r"[^/\s,]+" if of_line else "[^/]+"), re.escape(self._pieces[0])
        for i, (name, literal) in enumerate(zip(names, self._pieces[2::2], strict=True)):
            expression += f"(?P={name})" if name in names[:i] else f"(?P<{name}>{any_text})"
            expression += re.escape(literal)
        self._expression = re.compile(expression)

    def __str__(self) -> str:
        return self.text

    def match(self, text: str) -> dict[str, str] | None:
        """Return the words of a path or line of this form; None for another one."""
        found = self._expression.fullmatch(text)
        return None if found is None else found.groupdict()

    def fill(self, words: Words) -> str:
        """Put words into their places. Raises KeyError when one is missing."""
        filled = (
            words[w] if not (n := _INDEX.fullmatch(w)) else f"{int(words[INDEX]):{n[1] or ''}}" for w in self._raw
        )
        return "".join(part for pair in zip(self._pieces[::2], (*filled, ""), strict=True) for part in pair)

    def find(self, folder: Path) -> dict[str, dict[str, str]]:
        """Map the files below a folder that have this form to their words, in no order; hidden ones are left out."""
        names = (path.relative_to(folder).as_posix() for path in folder.glob(self._glob(self.text)))
        found = {name: self.match(name) for name in names if not re.search(r"(^|/)\.", name)}
        return {name: words for name, words in found.items() if words is not None}

    def found(self, folder: Path) -> str:
        """Say what there is where files of this form would be: `test/rgb holds 0.jpg, 1.jpg and 3 more`."""
        if not os.path.isdir(folder):
            return f"{folder} does not exist"
        parts = self.text.split("/")
        for count in range(len(parts) - 1, -1, -1):
            above = sorted(folder.glob(self._glob("/".join(parts[:count])))) if count else [folder]
            if place := next(filter(os.path.isdir, above), None):
                names = sorted(name for name in os.listdir(place) if not name.startswith("."))
                what = f"holds {listed(names)}" if names else "is empty"
                return f"{place.relative_to(folder).as_posix() if count else folder} {what}"
        return f"{folder} is empty"

    @property
    def _raw(self) -> list[str]:
        return self._pieces[1::2]

    @staticmethod
    def _glob(text: str) -> str:
        return "".join("*" if i % 2 else glob.escape(piece) for i, piece in enumerate(_WORD.split(text)))

    def _check(self, of_line: bool) -> None:
        text, literals = self.text, self._pieces[::2]
        if not text.strip():
            raise ValueError("is empty")
        if any(set("{}") & set(literal) for literal in literals):
            raise ValueError(f"{text!r} has a brace without its partner")
        if not of_line and (text.startswith("/") or {"..", "."} & set(text.split("/")) or "\\" in text):
            raise ValueError(f"{text!r} must be a path below the folder of the data, with / between folders")
        if any("*" in literal or "?" in literal for literal in literals):
            raise ValueError(f"{text!r}: wildcards have names here, e.g. {{stem}} instead of *")
        if "" in literals[1:-1]:
            raise ValueError(f"{text!r}: two words touch, so nobody can tell where one ends")
        for word in self._raw:
            if not (_INDEX.fullmatch(word) or _NAME.fullmatch(word)):
                raise ValueError(f"{text!r}: {{{word}}} is no word: letters, digits and _, or {{index:03}}")
