"""YAML files in, one checked object out."""

from trainer.config.config import Config, ConfigError, load_config

__all__ = ["Config", "ConfigError", "load_config"]
