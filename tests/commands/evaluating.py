"""Runs with an untrained network, and `evaluate` in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.world import ROOT
from trainer.build import build_objective
from trainer.checkpoint.safefile import read_metadata, write
from trainer.commands.evaluate import main
from trainer.config import load_config

SMALL = {
    "dataset.size": [96, 64],
    "dataset.items_per_scene": 2,
    "dataset.test.num_items": 4,
    "dataset.val.num_items": 3,
    "net.depth.enc_name": "test_resnet",
    "net.pose.enc_name": "test_resnet",
}


def write_run(folder: Path, supp_idxs: list[int], **changes: Any) -> Path:
    """Write a run folder with an untrained network and return it."""
    cfg_files = [ROOT / "cfg/synthetic/default.yaml", ROOT / "cfg/synthetic/monodepth2_M.yaml"]
    cfg = load_config(cfg_files, overrides=[{**SMALL, "dataset.supp_idxs": supp_idxs, **changes}])
    torch.manual_seed(0)
    tensors = dict(build_objective(cfg).state_dict())
    hparams = {"name": "md2", "version": "42", "seed": 1, "trainer_version": "0", "config": cfg.to_dict()}
    facts = {"epoch": "3", "batch": "0", "step": "120", "monitor": "AbsRel", "metrics": "{}"}
    (folder / "ckpts").mkdir(parents=True)
    write(folder / "ckpts" / "best.safetensors", tensors, {"hparams": json.dumps(hparams), **facts})
    return folder


def hparams_of(run: Path) -> dict[str, Any]:
    """The settings in the checkpoint of a run."""
    return json.loads(read_metadata(run / "ckpts" / "best.safetensors")["hparams"])


def evaluate(*words: str | Path) -> int:
    """Run `evaluate`; each text may hold several words."""
    return main([word for text in words for word in str(text).split()])


def saved(path: Path) -> dict[str, Any]:
    """Read a result file."""
    return yaml.safe_load(path.read_text())


def refused(capsys: Any, *words: str | Path) -> str:
    """Return the message with which `evaluate` refuses, one that has no traceback."""
    assert evaluate(*words) == 2
    message = capsys.readouterr().err
    assert "error: " in (message[:7], message.splitlines()[-1][:7])
    assert "Traceback" not in message
    return message
