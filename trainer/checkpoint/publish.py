"""A checkpoint as it is published: weights, settings and where the training stood, without what is private."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from models_zoo.adapters import merged_state
from trainer.checkpoint.encoding import to_json
from trainer.checkpoint.hub import as_hub_name
from trainer.checkpoint.saved import KEPT, PREFIX, Saved
from trainer.data.kitti_raw.lists import title_of

# Of the settings. Not the command line, nor anything about machine or user, whatever versions to come may store.
KEPT_SETTINGS = ("name", "version", "seed", "trainer_version", "plugins", "imported", "pseudo", "config")
KEPT_OF_IMPORTED = ("source", "format")
START = "config.trainer.load_ckpt"  # may name a model on the Hub
UNNAMED = "data"  # stands for a home folder, whose name is that of a user
_SEPARATORS = re.compile(r"[/\\]+")


def published(saved: Saved) -> tuple[Saved, list[str]]:
    """Return what `best` holds of a checkpoint, to be written, and the keys of settings that lost a folder.

    The tensors are those of the source, with adapters folded into the weights and taken out of the settings;
    `format: pt` lets transformers open the file.
    """
    hparams, shortened = public_hparams(saved.hparams)
    tensors = {name: tensor for name, tensor in saved.tensors.items() if name.startswith(PREFIX)}
    seen, lists = _public_frames(saved)
    depth = hparams["config"].get("net", {}).get("depth", {})
    if adapter := depth.get("adapter"):
        tensors, depth["adapter"] = merged_state(tensors, adapter), None
    metadata = {key: saved.metadata[key] for key in KEPT if key in saved.metadata}
    metadata |= {**lists, "hparams": to_json(hparams), "format": "pt"}
    return Saved(saved.path, tensors | seen, metadata), shortened


def _public_frames(saved: Saved) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Pack the training frames: a list that nobody else knows loses the folder in its name."""
    trained = saved.trained_on
    if trained is None:
        return {}, {}
    lists = (e if title_of(e.digest) else replace(e, name=e.name.rpartition("/")[2]) for e in trained.lists)
    return replace(trained, lists=tuple(lists)).pack()


def public_hparams(hparams: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Copy settings without what is private: of every path only its last part remains.

    Names of models on the Hub stay. Returns the copy, and the dotted keys of the paths that were cut short.
    """
    kept = {key: hparams[key] for key in KEPT_SETTINGS if key in hparams}
    if isinstance(kept.get("imported"), Mapping):
        kept["imported"] = {key: kept["imported"][key] for key in KEPT_OF_IMPORTED if key in kept["imported"]}
    shortened: list[str] = []
    return _without_folders(kept, "", shortened), shortened


def _without_folders(value: Any, key: str, shortened: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_folders(v, f"{key}.{k}".lstrip("."), shortened) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(v, key, shortened) for v in value]
    if not isinstance(value, str) or key == "imported.format" or (_may_be_hub(key) and as_hub_name(value)):
        return value
    if (last := _last_part(value)) != value:
        shortened.append(key)
    return last


def _may_be_hub(key: str) -> bool:
    return key == START or key.startswith("pseudo.")


def _last_part(text: str) -> str:
    """Return the last part of a path, UNNAMED for a home folder or the root; other texts have one part only."""
    parts = [part for part in _SEPARATORS.split(text) if part not in ("", ".", "..")]
    if text in ("", *parts) and not text.startswith("~"):
        return text
    is_home = Path(os.path.expanduser(text)) == Path.home() or parts[-2:-1] in (["home"], ["Users"])
    if not parts or is_home or parts[-1].startswith("~"):
        return UNNAMED
    return parts[-1]
