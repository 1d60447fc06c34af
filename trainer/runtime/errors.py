"""The error for a user's mistake, and lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """A mistake of the user: shown as its message alone, without a traceback, exit code 2."""


def listed(items: Sequence[object], limit: int = 3) -> str:
    """Name the first items and count the others: "a, b, c and 4 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more


def first_lines(lines: Sequence[str], limit: int = 10) -> list[str]:
    """Indent the first lines, and count the others in one more: "  ... and 4 more"."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"  {line}" for line in (*lines[:limit], *more)]
