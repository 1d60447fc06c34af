"""What is published of a checkpoint: all weights, no optimizer, and nothing that names a user or a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import Saved, safefile
from trainer.checkpoint.publish import public_hparams, published

PRIVATE = {
    "name": "net",
    "seed": 1,
    "machine": "node7",
    "command": ["train", "-o", "/home/alice/models"],
    "plugins": ["/home/alice/code/my_losses.py", "package.module"],
    "imported": {"source": "/home/alice/mono_640x192", "format": "a/b", "notes": ["/home/alice is mentioned"]},
    "pseudo": {"model": "alice/teacher", "sha256": "ab"},
    "config": {
        "dataset": {
            "type": "kitti",
            "root": "/data/alice/kitti_raw",
            "split_file": "../lists/train_files.txt",
            "train": {"hints_root": "~/hints/"},
            "datasets": {"a": {"type": "folder", "path": "C:\\Users\\alice\\video"}},
            "size": [640, 192],
        },
        "trainer": {"load_ckpt": "alice/net@v1", "max_epochs": 3},
    },
}


def test_of_paths_only_the_last_part_is_published() -> None:
    public, shortened = public_hparams(PRIVATE)
    assert public == {
        "name": "net",
        "seed": 1,
        "plugins": ["my_losses.py", "package.module"],
        "imported": {"source": "mono_640x192", "format": "a/b"},
        "pseudo": {"model": "alice/teacher", "sha256": "ab"},
        "config": {
            "dataset": {
                "type": "kitti",
                "root": "kitti_raw",
                "split_file": "train_files.txt",
                "train": {"hints_root": "hints"},
                "datasets": {"a": {"type": "folder", "path": "video"}},
                "size": [640, 192],
            },
            "trainer": {"load_ckpt": "alice/net@v1", "max_epochs": 3},
        },
    }
    names = ("root", "split_file", "train.hints_root", "datasets.a.path")
    assert shortened == ["plugins", "imported.source", *(f"config.dataset.{name}" for name in names)]


@pytest.mark.parametrize("home", ["/home/alice", "/Users/alice/", "~", "~alice", "~/", "C:\\Users\\alice", "/", ".."])
def test_a_home_folder_has_no_name(home: str) -> None:
    assert public_hparams({"config": {"dataset": {"root": home}}})[0] == {"config": {"dataset": {"root": "data"}}}


def test_weights_are_published_bit_by_bit_and_the_rest_of_last_is_not(tmp_path: Path) -> None:
    weight, momentum = torch.tensor([1.0, float("nan"), -0.0]), torch.ones(3)
    about = {
        "hparams": json.dumps(PRIVATE),
        "epoch": "2",
        "step": "7",
        "monitor": "AbsRel",
        "metrics": '{"AbsRel": 0.1}',
    }
    state = {"optimizer": '{"class": "Adam", "groups": [], "state": {}}', "best": '{"value": 0.1, "epoch": 1}'}
    tensors = {"networks.depth.weight": weight, "optim.networks.depth.weight.exp_avg": momentum}
    safefile.write(tmp_path / "last.safetensors", tensors, about | state)

    last = tmp_path / "last.safetensors"
    public, _ = published(Saved(last, *safefile.read(last)))
    safefile.write(tmp_path / "x", public.tensors, public.metadata)

    weights, metadata = safefile.read(tmp_path / "x")  # verifies both checksums
    assert weights.keys() == {"networks.depth.weight"}
    assert weights["networks.depth.weight"].numpy().tobytes() == weight.numpy().tobytes()
    checked = {"format_version", "checksum", "header_checksum"}
    assert metadata.keys() == {"epoch", "step", "monitor", "metrics", "hparams", "format"} | checked
    assert metadata["format"] == "pt"  # transformers asks for it
    content = (tmp_path / "x").read_bytes()
    assert b"home" not in content
    assert b"node7" not in content
