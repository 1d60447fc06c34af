"""The error that a user's mistake raises."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user: shown as its message alone, without a traceback, exit code 2."""
