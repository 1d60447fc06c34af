"""Read the weights that a new run starts from (`trainer.load_ckpt`): those of another run, or published ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

from models_zoo.weights import is_foreign, read_foreign
from models_zoo.weights.base import MissingSettings, UnreadableWeights
from trainer.checkpoint.encoding import to_json
from trainer.checkpoint.loading import read
from trainer.checkpoint.saved import Saved
from trainer.runtime.errors import UserError


def read_pretrained(path: Path | str) -> Saved:
    """Read weights to start from; `Saved.start` loads them.

    path: what `load_objective` takes, or anything `models_zoo.weights` recognises.
    Raises DamagedFile, or UserError when the file is missing or cannot be read.
    """
    path = Path(os.path.expanduser(path))
    if not is_foreign(path):
        return read(path)
    try:
        foreign = read_foreign(path)
    except MissingSettings as error:
        raise UserError(
            f"{error}: turn it into a checkpoint: monodepth convert {path} DST.safetensors -c hparams.yaml"
        ) from error
    except UnreadableWeights as error:
        raise UserError(str(error)) from error
    tensors = {f"networks.{name}": tensor for name, tensor in foreign.tensors.items()}
    hparams = {"config": {"net": foreign.net}}  # for messages and image statistics
    return Saved(path, tensors, {"hparams": to_json(hparams), "parts": json.dumps(foreign.parts)})
