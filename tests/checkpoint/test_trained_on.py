"""The training frames in a checkpoint: there and back, whatever else is in the file, and nothing odd."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trainer.checkpoint import Checkpointer, Saved, TrainedOn, safefile
from trainer.checkpoint.encoding import to_json
from trainer.checkpoint.publish import published
from trainer.checkpoint.safefile import DamagedFile
from trainer.checkpoint.state import Position, TrainState
from trainer.checkpoint.trained_on import KEY, PICTURES, read_trained_on
from trainer.data.files.frames import LEFT, RIGHT, SUPPORT, FrameList, Frames

FRAMES = Frames.of([("a", [1, 2, 3, 9], LEFT), ("a", [2], RIGHT), ("a", [0, 1, 4], SUPPORT), ("b", [5], SUPPORT)])
SEEN = TrainedOn((FrameList("alice/train", "0" * 64, 5),), FRAMES, np.array([-5, 3, 1 << 40], np.int64), is_whole=False)


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleDict({"depth": torch.nn.Linear(2, 1)})


def same(one: TrainedOn | None, two: TrainedOn) -> bool:
    assert one is not None
    tables = [{d: (n.tolist(), (r & 3).tolist()) for d, (n, r) in x.frames.drives.items()} for x in (one, two)]
    facts = [(x.lists, x.pictures.tolist(), x.is_whole, x.is_declared) for x in (one, two)]
    return tables[0] == tables[1] and facts[0] == facts[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`best` and `last` of a run."""
    checkpointer = Checkpointer(tmp_path, {"config": {"net": {}}}, "AbsRel")
    calls = []
    checkpointer.trained_on = lambda: calls.append(1) or SEEN
    model = Tiny()
    checkpointer.write_best(*checkpointer.pack_best(model, TrainState(Position(1, 0, 4))))
    optimizer = torch.optim.Adam(model.parameters())
    checkpointer.write_last(*checkpointer.pack_last(model, optimizer, None, None, TrainState(Position(1, 0, 4))))
    assert calls == [1]
    return tmp_path


@pytest.mark.parametrize("name", ["best", "last"])
def test_there_and_back(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    assert same(read_trained_on(path), SEEN)
    saved = Saved(path, *safefile.read(path))
    assert same(saved.trained_on, SEEN)
    assert set(saved.weights) == {"depth.weight", "depth.bias"}  # it is no network
    assert load_file(path)[PICTURES].tolist() == [-5, 3, 1 << 40]
    model = Tiny()
    saved.load_weights(model)
    if name == "last":
        saved.restore(model, torch.optim.Adam(model.parameters()))


def test_it_can_be_read_by_eye(folder: Path) -> None:
    data = json.loads(safefile.read_metadata(folder / "best.safetensors")[KEY])
    assert data["left"] == {"a": "1-3,9"}
    assert data["right"] == {"a": "2"}
    assert data["supports"] == {"a": "0,4", "b": "5"}  # those that are no targets


def test_files_of_earlier_versions_do_not_say(tmp_path: Path) -> None:
    safefile.write(tmp_path / "old.safetensors", {"networks.depth.a": torch.zeros(2)}, {"hparams": "{}"})
    assert read_trained_on(tmp_path / "old.safetensors") is None


def test_joining_a_training_with_itself_changes_nothing() -> None:
    assert same(SEEN | SEEN, SEEN)
    joined = TrainedOn((FrameList("n", "1" * 64, 1),), Frames.of([("b", [5, 6], RIGHT)])) | SEEN
    assert [entry.name for entry in joined.lists] == ["n", "alice/train"]
    assert not joined.is_whole
    assert len(joined.frames) == len(FRAMES) + 1
    packed = joined.pack()[1]
    assert (joined | joined).pack()[1] == packed


@pytest.mark.parametrize(
    "change",
    [
        {"left": {"a": "3-1"}},
        {"left": ["a"]},
        {"pictures": 4},
        {"lists": [{"name": "a"}]},
        {"left": None},
    ],
)
def test_odd_content_is_a_sentence(folder: Path, change: dict) -> None:
    path = folder / "best.safetensors"
    tensors, metadata = safefile.read(path)
    metadata[KEY] = json.dumps({**json.loads(metadata[KEY]), **change})
    safefile.write(path, tensors, metadata)
    with pytest.raises(DamagedFile, match="its list of training frames is not what this trainer writes"):
        read_trained_on(path)


def test_what_is_published_keeps_it_without_names_of_folders(folder: Path) -> None:
    path = folder / "best.safetensors"
    tensors, metadata = safefile.read(path)
    public, _ = published(Saved(path, tensors, metadata))
    assert same(public.trained_on, replace(SEEN, lists=(FrameList("train", "0" * 64, 5),)))
    assert "alice" not in json.dumps(public.metadata)
    without = {key: value for key, value in metadata.items() if key != KEY} | {"hparams": to_json({"config": {}})}
    assert published(Saved(path, tensors, without))[0].trained_on is None
