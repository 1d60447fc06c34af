"""Optional packages, imported when needed."""

from __future__ import annotations

import importlib
from typing import Any

from trainer.runtime.errors import UserError


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a package. Raises UserError naming the `purpose` and the extra to install when it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f'{purpose} needs the package {module}: pip install -e ".[{extra}]" ({error})') from error
