"""Constructor options of a network as a mapping: what the config validator holds before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def with_defaults(entry: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Complete keywords with the defaults of the constructor of `entry`; unknown keywords are left out."""
    parameters = inspect.signature(entry).parameters
    return {name: kwargs.get(name, parameter.default) for name, parameter in parameters.items()}
