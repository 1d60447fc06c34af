"""The error for a user's mistake, lists in messages, and names of others made safe to print."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """A mistake of the user: shown as its message alone, without a traceback, exit code 2."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n\t")


def printable(text: object, keep: str = "") -> str:
    """Escape what a terminal would obey and nobody would see: controls, direction marks, halves of characters.

    Names of tensors, items and files come from others. keep: characters that stay as they are.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text)
    )


def listed(items: Sequence[object], limit: int = 3) -> str:
    """Name the first items and count the others: "a, b, c and 4 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more


def first_lines(lines: Sequence[str], limit: int = 10) -> list[str]:
    """Indent the first lines, and count the others in one more: "  ... and 4 more"."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"  {line}" for line in (*lines[:limit], *more)]
