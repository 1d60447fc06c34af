"""YAML files in, one checked object out. `pages` finds the files, without what checking them needs, torch above all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config.config import Config, ConfigError, load_config, merge_settings
    from trainer.config.layers import override_conflict, refused
    from trainer.config.resolve import Registries
    from trainer.config.sections import OF_TRAINING, EvaluationSection

__all__ = [
    "OF_TRAINING",
    "Config",
    "ConfigError",
    "EvaluationSection",
    "Registries",
    "load_config",
    "merge_settings",
    "override_conflict",
    "refused",
]

_HOMES = {  # the others are in `config`
    "Registries": "resolve",
    "EvaluationSection": "sections",
    "OF_TRAINING": "sections",
    "override_conflict": "layers",
    "refused": "layers",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'config')}"), name)
