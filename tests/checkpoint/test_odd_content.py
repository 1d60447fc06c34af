"""Files with valid checksums and odd content: refused in a sentence, or harmless; nothing raises anything else.

Each example rewrites one place of the metadata of a good checkpoint, and its checksums with it.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.world import ROOT, SMALL
from trainer.build import build_objective
from trainer.checkpoint import (
    Checkpointer,
    Saved,
    find_checkpoint,
    load_capsule,
    load_objective,
    read_pretrained,
    safefile,
)
from trainer.checkpoint.foreign import convert
from trainer.checkpoint.matching import planned
from trainer.checkpoint.resume import check_best, check_resume
from trainer.checkpoint.safefile import DamagedFile
from trainer.checkpoint.state import Metadata, Position, Tensors, TrainState
from trainer.config import load_config
from trainer.evaluation.changes import Changes
from trainer.evaluation.subject import read_checkpoint
from trainer.runtime.errors import UserError, printable
from trainer.training.averages import Averages
from trainer.training.guard import StepGuard
from trainer.training.saver import Parts
from trainer.training.stopping import EarlyStopping

ODD: list[Any] = [
    *(None, True, -1, 0, 2**70, 1e308, "", "odd", "\x1b[31m\n", [], [[]], {}, {"odd": 1}, [3, "odd"]),
    *({"$tensor": "networks.depth.weight", "on": "cpu"}, {"$tensor": 3}, {"$dtype": "load"}, {"$dtype": "float16"}),
    *({"$tuple": 3}, {"$tuple": [1, 2]}, {"$float": "x"}, {"$float": "nan"}, {"$counter": 1}, {"$dict": [[[], 1]]}),
]
TEXTS = ["", "odd", "-1", "9" * 30, "null", "[]", "{}", '"odd"', "[" * 5000, "1e999", "NaN"]
FEW = settings(
    derandomize=True,
    max_examples=60,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested data."""
    yield place
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*place, key))


def replaced(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Nested data with another value at a place; with Ellipsis the place is removed."""
    if not place:
        return {} if value is ... else value
    changed, (*above, last) = copy.deepcopy(data), place
    inner = changed
    for key in above:
        inner = inner[key]
    inner[last] = value
    if value is ...:
        del inner[last]
    return changed


@st.composite
def odd_metadata(draw: Any, good: Metadata) -> Metadata:
    """The metadata of a file with one odd place."""
    key = draw(st.sampled_from(sorted(good)))
    if draw(st.integers(0, 5)) == 0:
        text = draw(st.sampled_from([*TEXTS, ...]))
        return {k: t for k, t in {**good, key: text}.items() if t is not ...}
    data = json.loads(good[key]) if good[key][:1] in "[{" else good[key]
    place = draw(st.sampled_from(list(places(data))))
    odd = replaced(data, place, draw(st.sampled_from([*ODD, ...])))
    return {**good, key: json.dumps(odd)}


CAMERA = {"mean": [0.5] * 4, "sd": [0.1] * 4, "fov": [90.0, 90.0], "fov_sd": [8.0, 8.0], "images": 4, "bend": 0.3}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({"depth": nn.Linear(2, 1), "pose": nn.Linear(2, 1)})


HPARAMS = {
    "name": "m",
    "version": "1",
    "seed": 1,
    "config": {"net": {"depth": {"mean": [0.5]}}, "trainer": {"max_epochs": 9}},
}


class Run:
    """A training as far as `last` knows it, with every part that it may have."""

    def __init__(self, folder: Path):
        accelerator = SimpleNamespace(scaler=None, num_processes=1, process_index=0, device=torch.device("cpu"))
        objective = Tiny()
        self.checkpointer = Checkpointer(folder, HPARAMS, "AbsRel")
        self.optimizer = torch.optim.Adam(objective.parameters())
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [3, 5])
        self.parts = Parts(
            *(
                objective,
                self.optimizer,
                self.scheduler,
                TrainState(Position(2, 1, 9), 0.5, 1, {"AbsRel": 0.5}, camera=CAMERA),
            ),
            *(StepGuard(accelerator, objective, self.checkpointer, None), Averages(), EarlyStopping("AbsRel", 3)),
        )

    def step(self) -> None:
        """Everything that reads what was restored."""
        parts = self.parts
        for parameter in parts.objective.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        self.scheduler.step()
        parts.guard.begin(parts.state.position.epoch)
        assert parts.stopping is not None
        parts.stopping.update(0.4, parts.state.position.epoch)
        assert parts.stopping.reason

    def save(self) -> None:
        parts = self.parts
        parts.state.extra = {name: part.state_dict() for name, part in parts.stateful().items()}
        packed = self.checkpointer.pack_last(parts.objective, self.optimizer, self.scheduler, None, parts.state)
        self.checkpointer.write_last(*packed)

    def go_on(self) -> None:
        saved = self.checkpointer.load_last()
        assert saved is not None
        check_resume(saved, HPARAMS, allowed=True)
        check_best(saved, self.checkpointer.folder / "best.safetensors")
        saved.restore(self.parts.objective, self.optimizer, self.scheduler)
        self.parts.state = saved.state
        self.parts.restore()
        self.step()
        self.save()


def saved_run(folder: Path) -> tuple[Tensors, Metadata]:
    run = Run(folder)
    run.step()
    run.checkpointer.write_best(*run.checkpointer.pack_best(run.parts.objective, run.parts.state))
    run.save()
    return safefile.read(folder / "last.safetensors")


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors, Metadata]:
    folder = tmp_path_factory.mktemp("run")
    return folder, *saved_run(folder)


def refuses_or_is_fine(do: Callable[[], object]) -> None:
    """Run `do`; the one error that it may raise is a sentence that a terminal can print."""
    try:
        do()
    except UserError as error:
        told = str(error)
    else:
        return
    assert "\x1b" not in told
    assert len(told) < 2000


@FEW
@given(data=st.data())
def test_continuing(last: Any, data: Any) -> None:
    folder, tensors, metadata = last
    for name in ("last.prev.safetensors", "last.safetensors"):
        (folder / name).unlink(missing_ok=True)
    safefile.write(folder / "last.safetensors", tensors, data.draw(odd_metadata(metadata)))
    refuses_or_is_fine(Run(folder).go_on)
    refuses_or_is_fine(lambda: find_checkpoint(folder))
    refuses_or_is_fine(lambda: load_capsule(folder / "last.safetensors"))


def test_continuing_what_is_not_odd(tmp_path: Path) -> None:
    saved_run(tmp_path)
    Run(tmp_path).go_on()


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors, Metadata]:
    """A checkpoint of real networks."""
    folder = tmp_path_factory.mktemp("real")
    page = ROOT / "cfg" / "synthetic"
    small = (*SMALL, "net.pose=~", "dataset.supp_idxs=[0]")
    cfg = load_config(page / "monodepth2_MS.yaml", page / "default.yaml", small)
    objective = build_objective(cfg, given=cfg.net)
    checkpointer = Checkpointer(folder, {"name": "m", "version": "1", "seed": 1, "config": cfg.to_dict()}, "AbsRel")
    checkpointer.write_best(*checkpointer.pack_best(objective, TrainState(Position(1, 0, 4))))
    path = folder / "best.safetensors"
    return path, *safefile.read(path)


@settings(FEW, max_examples=20)
@given(data=st.data())
def test_loading_and_evaluating(best: Any, data: Any) -> None:
    path, tensors, metadata = best
    safefile.write(path, tensors, data.draw(odd_metadata(metadata)))
    refuses_or_is_fine(lambda: load_objective(path))
    refuses_or_is_fine(lambda: read_checkpoint(path, None, Changes(), "test"))


def sealed(path: Path, tensors: list[Any], metadata: dict[str, str], data: bytes = b"") -> Path:
    """Write a header as it is given, with the checksums that fit it."""
    header = safefile._Header(tensors, {"format_version": "1", **metadata})
    checksum = header.new_checksum()
    checksum.update(data)
    header.metadata["checksum"] = checksum.hexdigest()
    header.metadata["header_checksum"] = header.header_checksum()
    path.write_bytes(header.to_bytes() + data)
    return path


@pytest.mark.parametrize("version", ["", "-1", "one", "1.0", "9" * 5000])
def test_a_format_version_that_is_no_number(tmp_path: Path, version: str) -> None:
    path = sealed(tmp_path / "x.safetensors", [], {"format_version": version})
    with pytest.raises(DamagedFile, match="the format_version is"):
        safefile.read_metadata(path)


@pytest.mark.parametrize("shape", [[0, 2**70], [2**62, 0], [0, 2**31, 2**31], [True, 0]])
def test_shapes_that_torch_could_not_build(tmp_path: Path, shape: list[int]) -> None:
    path = sealed(tmp_path / "x.safetensors", [("\x1b[2Jt", "F32", shape)], {})
    with pytest.raises(DamagedFile, match=r"\\x1b\[2Jt has the shape"):
        safefile.read(path)


def test_names_are_printed_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    """An escape sequence, a second line, a direction mark, half a character of a file name."""
    assert printable("Zürich 東京\t\x1b[31m\x9b\r\n\u202e\udcff") == r"Zürich 東京\t\x1b[31m\x9b\r\n\u202e\udcff"
    assert str(UserError("two\nlines\x1b[2J")) == "two\nlines\\x1b[2J"
    tensors: list[Any] = [("networks.depth.\x1b[31m\nerror: lie", "F32", [1])]
    path = sealed(tmp_path / "\x1b[2Jx.safetensors", tensors, {"epoch": "1", "batch": "0", "step": "1"}, bytes(4))
    with pytest.raises(UserError) as caught:
        Saved(path, *safefile.read(path)).load_weights(Tiny())
    assert r"\x1b[2Jx.safetensors: 5 weights do not fit" in str(caught.value)
    assert r"  networks.depth.\x1b[31m\nerror: lie: (1,) in the file" in str(caught.value)
    with pytest.raises(UserError, match=r"is a folder|no such file") as caught:
        safefile.read(tmp_path / "\x1b]0;title\x07")
    assert "\x1b" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_devices_and_names_that_are_too_long(tmp_path: Path) -> None:
    """Nothing waits for the writer of a pipe."""
    pipe, long = tmp_path / "best.safetensors", tmp_path / ("x" * 300)
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(UserError, match=r"best\.safetensors: cannot be read: A pipe or device, not a file"):
            read_pretrained(path)
    with pytest.raises(UserError, match="A pipe or device, not a file"):
        safefile.read(Path(os.devnull))
    for read in (safefile.read_metadata, load_objective, read_pretrained, convert):
        with pytest.raises(UserError, match=r"x{300}: (cannot be read: File name too long|no such file)"):
            read(long)
    with pytest.raises(UserError, match="best"):
        convert(pipe)
    with pytest.raises(UserError, match="null byte"):
        load_objective("x\0y")


@pytest.mark.parametrize("enc_name", ["vit_giant_patch16_gap_224", "vit_giant_patch14_dinov2"])
def test_a_giant_that_the_file_does_not_hold_is_never_built(best: Any, enc_name: str, monkeypatch: Any) -> None:
    """Networks are compared as names and shapes first; here every number of one would be noticed."""
    path, tensors, metadata = best
    hparams = json.loads(metadata["hparams"])
    hparams["config"]["net"]["depth"]["enc_name"] = enc_name
    safefile.write(path, tensors, {**metadata, "hparams": json.dumps(hparams)})
    made = []
    real = nn.Parameter.__new__

    def counting(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        made.append(data.device.type)
        return real(cls, data, requires_grad)

    monkeypatch.setattr(nn.Parameter, "__new__", counting)
    with pytest.raises(UserError, match=r"weights do not fit the networks|its patches are 14 x 14"):
        load_objective(path)
    assert set(made) == {"meta"}


def test_a_network_that_needs_its_numbers_is_not_planned() -> None:
    def build() -> nn.Module:
        return nn.Linear(2, int(torch.ones(1).item()))

    assert planned(build) is None
    with pytest.raises(ZeroDivisionError):
        planned(lambda: nn.Linear(2, 1 // 0))
    assert planned(Tiny) is not None
