"""YAML files in, one checked object out."""

from trainer.config.config import Config, ConfigError, load_config, merge_settings
from trainer.config.resolve import Registries
from trainer.config.sections import EvaluationSection

__all__ = ["Config", "ConfigError", "EvaluationSection", "Registries", "load_config", "merge_settings"]
