"""Packages that only some metric sets want: imported when they are needed, missing ones told with the remedy."""

from __future__ import annotations

import importlib
from typing import Any

from trainer.types import UserError


def need(module: str, package: str, purpose: str) -> Any:
    """Import a module of the extra `eval`. Raises UserError naming package, purpose and the command to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f'{purpose} needs {package}, which cannot be imported ({error}): pip install -e ".[eval]"'
        ) from error
