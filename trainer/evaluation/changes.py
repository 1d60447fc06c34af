"""What `--cfg-file` and `--set` change in the configuration of a checkpoint before it is evaluated."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.config import OF_TRAINING, Config, load_config, merge_settings
from trainer.data.base import DepthDataset
from trainer.runtime.processes import is_first_process
from trainer.runtime.streams import say


@dataclass(frozen=True)
class Changes:
    """YAML files, then "key=value" texts, later ones winning."""

    files: Sequence[Path] = ()
    overrides: Sequence[str] = ()

    @cached_property
    def dataset(self) -> Mapping[str, Any]:
        """The keys of `dataset` that are changed, unchecked."""
        section = merge_settings(self.files, self.overrides).get("dataset")
        return section if isinstance(section, Mapping) else {}

    @property
    def dataset_type(self) -> str | None:
        """The `dataset.type` that is asked for."""
        return self.dataset.get("type")

    def sets(self, key: str, mode: str) -> bool:
        """Whether `dataset.<key>` or `dataset.<mode>.<key>` is set."""
        return any(section.get(key) is not None for section in (self.dataset, _section(self.dataset, mode)))

    def starts_afresh(self, config: Mapping[str, Any]) -> bool:
        """Whether the data set becomes one of another type."""
        return self.dataset_type not in (None, config["dataset"].get("type"))

    def tell_unread(self) -> None:
        """Report on stderr the settings of a training: networks are built as they were trained."""
        keys = dict.fromkeys(text.partition("=")[0].strip() for text in self.overrides)
        unread = [key for key in keys if key.partition(".")[0] in OF_TRAINING]
        if unread and is_first_process():
            verb = "changes" if len(unread) == 1 else "change"
            say(f"note: {', '.join(unread)} {verb} nothing here, where --set is about dataset and evaluation")

    def apply(self, config: Mapping[str, Any], name: str) -> Config:
        """Lay the changes over a resolved configuration, called `name` in errors.

        Another `dataset.type` starts afresh: only the arguments that every data set has (size, supports) stay, and
        the section `evaluation`, which was meant for other data, is dropped.
        """
        base = dict(config)
        if self.starts_afresh(config):
            shared = inspect.signature(DepthDataset).parameters.keys() - {"mode"}
            kept = {key: value for key, value in config["dataset"].items() if key in shared}
            base = {**base, "dataset": {"type": self.dataset_type, **kept}, "evaluation": None}
        return load_config(self.files, overrides=self.overrides, base=base, base_name=name, training=False)

    def without_split_file(self, config: Mapping[str, Any], mode: str) -> dict[str, Any]:
        """Drop the split file of a mode from a configuration where the changes name a split alone.

        A data set prefers a split file to a split, so that of the training would stay in force. Reports on stderr what
        is dropped.
        """
        data = config["dataset"]
        part = _section(data, mode)
        dropped = {f"{mode}.split_file": part.get("split_file"), "split_file": data.get("split_file")}
        if not _section(self.dataset, mode).get("split"):
            dropped = {f"{mode}.split": part.get("split"), **dropped}
        dropped = {key: value for key, value in dropped.items() if value}
        asked = self.sets("split", mode) and not self.sets("split_file", mode)
        if not asked or not dropped or self.starts_afresh(config):
            return dict(config)
        part = {key: value for key, value in part.items() if f"{mode}.{key}" not in dropped}
        if "split_file" in dropped:
            part["split_file"] = None
        if is_first_process():
            named = ", ".join(f"dataset.{key} {value}" for key, value in dropped.items())
            print(f"dataset ({mode}): a split is asked for, so the checkpoint's {named} is left out", file=sys.stderr)
        return {**config, "dataset": {**data, mode: part}}


def _section(data: Mapping[str, Any], mode: str) -> Mapping[str, Any]:
    part = data.get(mode)
    return part if isinstance(part, Mapping) else {}
