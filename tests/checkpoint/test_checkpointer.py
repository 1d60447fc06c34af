"""A run is saved completely, falls back on the checkpoint before a damaged one, and is rebuilt from one file."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.world import ROOT, run_world
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
from trainer.checkpoint.resume import check_best, keep_order
from trainer.checkpoint.safefile import DamagedFile
from trainer.checkpoint.saved import WrongArchitecture
from trainer.checkpoint.state import Position, TrainState, WrongOptimizer
from trainer.config import load_config
from trainer.data.loaders import EpochBatches
from trainer.metrics.camera import LearnedCamera
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite
from trainer.runtime.rundir import RunDir

NET = {"depth": {"enc_name": "tiny", "width": 3}, "pose": {"enc_name": "tiny"}}
HPARAMS = {"name": "m", "version": "42", "seed": 42, "trainer_version": "0.1.0", "config": {"net": NET}}


class Tiny(nn.Module):
    """Stands in for an objective where only names and shapes matter."""

    def __init__(self, value: float = 0.0, width: int = 3, nets: tuple[str, ...] = ("depth", "pose")):
        super().__init__()
        self.networks = nn.ModuleDict({net: nn.Linear(width, 2) for net in nets})
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)

    @property
    def value(self) -> float:
        return next(self.parameters()).flatten()[0].item()


def save(checkpointer: Checkpointer, value: float, state: TrainState | None = None) -> None:
    objective = Tiny(value)
    optimizer = torch.optim.SGD(objective.parameters(), lr=value or 0.1)
    state = state or TrainState(Position(0, 0, int(value)))
    checkpointer.write_last(*checkpointer.pack_last(objective, optimizer, None, None, state))


def save_best(checkpointer: Checkpointer, objective: nn.Module, state: TrainState | None = None) -> None:
    checkpointer.write_best(*checkpointer.pack_best(objective, state or TrainState()))


@pytest.fixture
def checkpointer(tmp_path: Path) -> Checkpointer:
    return Checkpointer(tmp_path, HPARAMS, "AbsRel")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def steps(folder: Path) -> dict[str, str]:
    """The step of every file in a folder."""
    return {p.name: safefile.read_metadata(p)["step"] for p in sorted(folder.iterdir())}


def test_a_run_is_restored_completely(checkpointer: Checkpointer) -> None:
    assert checkpointer.load_last() is None
    state = TrainState(Position(3, 2, 17), best=0.115, best_epoch=2, metrics={"AbsRel": 0.12})
    save(checkpointer, 0.5, state)
    saved = checkpointer.load_last()
    assert saved is not None
    assert (saved.state, saved.hparams, saved.notes) == (state, HPARAMS, [])
    objective = Tiny()
    optimizer = torch.optim.SGD(objective.parameters(), lr=9.0)
    saved.restore(objective, optimizer)
    assert objective.value == 0.5
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_run_keeps_the_order_of_samples_that_it_began_with(tmp_path: Path) -> None:
    accelerator = SimpleNamespace(num_processes=1)

    def kept(num_items: int) -> tuple[dict[str, Any], int]:
        sampler = EpochBatches(num_items, 4, shuffle=True)
        return keep_order(accelerator, tmp_path, sampler), sampler.order

    assert kept(100) == ({}, 1)  # so that checkpoints of ordinary runs stay what they were
    assert kept(2_000_000) == ({"order": 2}, 2)
    for noted in ({}, {"order": 2}, {"order": 4}):
        save(Checkpointer(tmp_path, {**HPARAMS, **noted}, "AbsRel"), 0.5)
        if noted == {"order": 4}:
            with pytest.raises(UserError, match=r"begun with samples in the order 4\. Update the trainer"):
                kept(2_000_000)
        else:  # one of an earlier version notes none, and has the first
            assert kept(2_000_000) == (noted, noted.get("order", 1))
            damage(tmp_path / "last.safetensors")
            assert kept(100) == (noted, noted.get("order", 1))


def test_an_order_by_blocks_goes_on_with_its_window_and_is_refused_on_other_blocks(tmp_path: Path) -> None:
    accelerator = SimpleNamespace(num_processes=1)

    def kept(window: int | None, items_per_block: int) -> tuple[dict[str, Any], EpochBatches]:
        sampler = EpochBatches(20, 4, shuffle=True, blocks=np.arange(20) // items_per_block, window=window)
        return keep_order(accelerator, tmp_path, sampler), sampler

    noted, begun = kept(2, 5)
    assert (noted["order"], noted["window"]) == (3, 2)
    save(Checkpointer(tmp_path, {**HPARAMS, **noted}, "AbsRel"), 0.5)
    for window in (2, 4, None):
        again, sampler = kept(window, 5)
        assert (again, list(sampler)) == (noted, list(begun))
    with pytest.raises(UserError, match="begun on shards that are cut in another way"):
        kept(2, 4)


def _read_together(rank: int, world: int, folder: Path) -> None:
    accelerator = SimpleNamespace(num_processes=world, device=torch.device("cpu"))
    files_read, real = [], safefile.read
    safefile.read = lambda path: files_read.append(path.name) or real(path)  # type: ignore[func-returns-value]

    def load() -> Saved | None:
        files_read.clear()
        return Checkpointer(folder, HPARAMS, "AbsRel", is_main=rank == 0).load_last_together(accelerator)

    def change(*files: str) -> None:
        torch.distributed.barrier()
        for name in files if rank == 0 else ():
            damage(folder / name)
        torch.distributed.barrier()

    assert load() is None
    change()
    if rank == 0:
        writer = Checkpointer(folder, HPARAMS, "AbsRel")
        for step, value in enumerate((0.5, 0.25)):
            save(writer, value, TrainState(Position(0, 0, step), extra={"t": torch.arange(3)}))
    change()
    saved = load()
    assert files_read == (["last.safetensors"] if rank == 0 else [])
    assert saved.tensors["networks.depth.weight"].unique() == 0.25
    assert saved.state.extra["t"].equal(torch.arange(3))
    saved.restore(objective := Tiny(), torch.optim.SGD(objective.parameters(), lr=9.0))
    assert objective.value == 0.25
    ours = Checkpointer(folder, HPARAMS, "AbsRel")
    assert ours.checksum_here(saved) == saved.metadata["header_checksum"] == ours.checksum_here(None)
    assert Checkpointer(folder / "another_disk", HPARAMS, "AbsRel").checksum_here(saved) is None

    change("last.safetensors")
    saved = load()
    assert (saved.position.step, saved.path.name, len(saved.notes)) == (0, "last.prev.safetensors", 1)
    assert ours.checksum_here(saved) == saved.metadata["header_checksum"]
    change("last.prev.safetensors")
    with pytest.raises(DamagedFile, match="The one before is no better"):
        load()


def test_the_main_process_reads_and_verifies_for_all(tmp_path: Path) -> None:
    run_world(_read_together, 2, tmp_path, tmp_path)


@pytest.mark.parametrize(("version", "factor"), [(1, 0.01), (2, 1)])
def test_numbers_that_were_in_per_cent_are_fractions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, factor: float
) -> None:
    """What a run of an earlier version compares with: its best value, its early stopping, its plateau schedule."""
    hparams = {**HPARAMS, "config": {"net": NET, "scheduler": {"monitor": "Acc"}}}
    objective, checkpointer = Tiny(1.0), Checkpointer(tmp_path, hparams, "AbsRel")
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max")
    plateau.step(60.0)
    stopping = {"monitor": "LogSI", "best": 12.5, "best_epoch": 1, "reference": 12.75, "since": 1, "epoch": 2}
    metrics = {"loss": 0.5, "MAE": 2.0, "AbsRel": 48.5, "Acc": math.inf}
    state = TrainState(Position(3, 0, 17), 48.5, 2, metrics, {"stopping": stopping})
    monkeypatch.setattr(safefile, "FORMAT_VERSION", version)
    checkpointer.write_last(*checkpointer.pack_last(objective, optimizer, plateau, None, state))
    monkeypatch.undo()
    saved = checkpointer.load_last()
    assert saved is not None
    read = saved.state
    assert read.best == pytest.approx(factor * 48.5)
    assert read.metrics == pytest.approx({**metrics, "AbsRel": factor * 48.5})
    assert read.extra["stopping"] == pytest.approx({**stopping, "best": factor * 12.5, "reference": factor * 12.75})
    saved.restore(objective, optimizer, plateau)
    assert plateau.best == pytest.approx(factor * 60)
    assert [note.partition(" of this run")[0] for note in saved.notes] == (
        ["AbsRel, Acc, LogSI"] if version == 1 else []
    )


def test_the_loss_of_an_earlier_version_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safefile, "FORMAT_VERSION", 1)
    checkpointer = Checkpointer(tmp_path, HPARAMS, "loss")
    save(checkpointer, 0.5, TrainState(Position(3, 0, 17), 0.25, 2, {"loss": 0.25}))
    monkeypatch.undo()
    saved = checkpointer.load_last()
    assert saved is not None
    assert (saved.state.best, saved.state.metrics, saved.notes) == (0.25, {"loss": 0.25}, [])


def test_last_and_best_describe_themselves(checkpointer: Checkpointer) -> None:
    state = TrainState(Position(3, 0, 17), metrics={"AbsRel": 0.12})
    save(checkpointer, 0.5, state)
    save_best(checkpointer, Tiny(0.5), state)
    for name in ("last", "best"):
        metadata = safefile.read_metadata(checkpointer.folder / f"{name}.safetensors")
        assert (metadata["epoch"], metadata["step"], metadata["monitor"]) == ("3", "17", "AbsRel")
        assert json.loads(metadata["hparams"]) == HPARAMS
        assert json.loads(metadata["metrics"]) == {"AbsRel": 0.12}
        assert len(metadata["checksum"]) == 8
    best = {f"networks.{net}.{kind}" for net in ("depth", "pose") for kind in ("weight", "bias")}
    assert set(load_file(checkpointer.folder / "best.safetensors")) == best  # and nothing of the optimizer
    assert "optimizer" not in metadata


def test_the_checkpoint_before_is_kept(checkpointer: Checkpointer) -> None:
    for value in (1.0, 2.0, 3.0):
        save(checkpointer, value)
    assert steps(checkpointer.folder) == {"last.prev.safetensors": "2", "last.safetensors": "3"}


def test_a_damaged_last_falls_back_and_never_replaces_the_good_one(checkpointer: Checkpointer) -> None:
    for value in (1.0, 2.0):
        save(checkpointer, value)
    damage(checkpointer.folder / "last.safetensors")
    restarted = Checkpointer(checkpointer.folder, HPARAMS, "AbsRel")
    saved = restarted.load_last()
    assert saved is not None
    assert saved.state.position.step == 1
    assert len(saved.notes) == 1
    assert "last.safetensors: the tensors do not match" in saved.notes[0]
    assert (
        "at least one bit is wrong. Continuing from the checkpoint before it, last.prev.safetensors" in saved.notes[0]
    )

    save(restarted, 5.0)
    assert steps(checkpointer.folder)["last.prev.safetensors"] == "1"  # not the damaged one
    save(restarted, 6.0)
    assert steps(checkpointer.folder)["last.prev.safetensors"] == "5"


def test_a_missing_last_falls_back(checkpointer: Checkpointer) -> None:
    """So it is for a moment on file systems without hard links."""
    save(checkpointer, 1.0)
    (checkpointer.folder / "last.safetensors").rename(checkpointer.folder / "last.prev.safetensors")
    saved = checkpointer.load_last()
    assert saved is not None
    assert "last.safetensors is missing" in saved.notes[0]


def test_two_damaged_files_are_an_error(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1.0)
    damage(checkpointer.folder / "last.safetensors")
    with pytest.raises(DamagedFile, match=r"/last\.safetensors: the tensors"):
        checkpointer.load_last()
    shutil.copy(checkpointer.folder / "last.safetensors", checkpointer.folder / "last.prev.safetensors")
    with pytest.raises(DamagedFile, match=r"last\.safetensors.*no better: .*last\.prev\.safetensors"):
        checkpointer.load_last()


def test_a_failed_save_keeps_last_and_the_one_before(checkpointer: Checkpointer, monkeypatch: Any) -> None:
    for value in (1.0, 2.0):
        save(checkpointer, value)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(CannotWrite, match=r"last\.safetensors: cannot be written: No space left.*untouched"):
            save(checkpointer, 3.0)
    assert steps(checkpointer.folder) == {"last.prev.safetensors": "1", "last.safetensors": "2"}


def test_restoring_something_else_names_the_file(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1.0)
    saved = checkpointer.load_last()
    assert saved is not None
    objective = Tiny()
    with pytest.raises(WrongOptimizer, match=r"last\.safetensors: the file was trained with the optimizer SGD"):
        saved.restore(objective, torch.optim.Adam(objective.parameters()))
    with pytest.raises(WrongArchitecture, match="4 weights do not fit"):
        saved.restore(Tiny(nets=("depth", "pose", "extra")[::2]), None)


def test_networks_that_a_run_does_not_have_are_left_out(checkpointer: Checkpointer) -> None:
    """Stereo alone may start from a network that was trained on video and stereo."""
    save_best(checkpointer, Tiny(1.0))
    depth = Tiny(nets=("depth",))
    path = checkpointer.folder / "best.safetensors"
    assert read_pretrained(path).start(depth) == [f"{path}: net.pose: in the file, but this run has none"]
    assert depth.value == 1
    with pytest.raises(WrongArchitecture, match="6 weights do not fit"):
        read_pretrained(path).start(Tiny(nets=("extra",)))


def test_weights_that_do_not_fit_are_listed_with_the_likely_cause(checkpointer: Checkpointer) -> None:
    save_best(checkpointer, Tiny(1.0))
    path = checkpointer.folder / "best.safetensors"
    wide = Tiny(width=5, nets=("depth",))
    with pytest.raises(WrongArchitecture) as caught:
        read_pretrained(path).start(wide)
    assert wide.value == 0  # nothing was loaded
    assert str(caught.value).splitlines() == [
        f"{path}: 1 weights do not fit the networks:",
        "  networks.depth.weight: (2, 3) in the file, (2, 5) in the network",
        "The file was trained with net.depth: enc_name tiny, width 3. Ask for the same, or use another file",
    ]
    with pytest.raises(WrongArchitecture) as caught:
        read_pretrained(path).start(wide, asked={**NET, "depth": {"enc_name": "tiny", "width": 5, "pretrained": True}})
    assert str(caught.value).splitlines()[2] == (
        "The file was trained with net.depth: width 3. Ask for the same (--set net.depth.width=3), or use another file"
    )
    saved = Saved(path, *safefile.read(path))
    with pytest.raises(WrongArchitecture, match=r"\(file -> asked for\): net\.depth\.width: 3 -> 5"):
        saved.load_weights(wide, built={"net": {**NET, "depth": {"enc_name": "tiny", "width": 5}}})
    with pytest.raises(WrongArchitecture, match=r"code of the networks is newer \(file: 0\.1\.0\)"):
        saved.load_weights(wide, built={"net": NET})


def test_a_file_without_networks_or_settings_is_named(tmp_path: Path) -> None:
    safefile.write(tmp_path / "x.safetensors", {"conv.weight": torch.ones(1)}, {})
    with pytest.raises(WrongArchitecture, match="The file holds no network"):
        read_pretrained(tmp_path / "x.safetensors").start(Tiny())
    with pytest.raises(UserError, match=r"holds no settings. Give hparams="):
        load_objective(tmp_path / "x.safetensors")


def test_ten_wrong_weights_are_enough(checkpointer: Checkpointer) -> None:
    save_best(checkpointer, Tiny(nets=tuple("abcdefg")))
    with pytest.raises(WrongArchitecture, match="14 weights") as caught:
        read_pretrained(checkpointer.folder / "best.safetensors").start(Tiny(nets=()))
    assert str(caught.value).count("in the file") == 10
    assert "... and 4 more" in str(caught.value)


def test_weights_load_from_a_file_or_a_run_folder_best_first(tmp_path: Path) -> None:
    with RunDir(tmp_path, "m", "42") as run:
        checkpointer = Checkpointer(run.ckpts, HPARAMS, "AbsRel")
        with pytest.raises(UserError, match=r"holds no checkpoint. Looked for ckpts/best\.safetensors"):
            find_checkpoint(run.path)
        save(checkpointer, 1.0)
        assert find_checkpoint(run.path) == run.last_path
        save_best(checkpointer, Tiny(2.0))
        save(checkpointer, 1.0)
    for path, value in ((run.path, 2.0), (run.ckpts, 2.0), (run.best_path, 2.0), (run.last_path, 1.0)):
        objective = Tiny()
        read_pretrained(path).start(objective)
        assert objective.value == value
    with pytest.raises(UserError, match="no such file"):
        read_pretrained(run.path / "nothing.safetensors").start(Tiny())


def test_a_capsule_holds_the_step_that_failed(checkpointer: Checkpointer) -> None:
    path = checkpointer.folder / "capsules" / "step.safetensors"
    batch = {"target": torch.full((1, 3, 2, 2), float("nan")), "index": torch.tensor([7]), "note": "text"}
    other = Checkpointer(checkpointer.folder, HPARAMS, "AbsRel", is_main=False)  # any process may fail
    other.save_capsule(path, Tiny(3.0), batch, Position(1, 2, 30), micro_batch=2, seed=42, rank=1)
    capsule = load_capsule(path)
    assert capsule.batch.keys() == {"target", "index"}
    assert torch.equal(capsule.batch["target"].isnan(), torch.ones(1, 3, 2, 2, dtype=torch.bool))
    assert (capsule.position, capsule.micro_batch) == (Position(1, 2, 30), 2)
    assert (capsule.seed, capsule.rank) == (42, 1)
    objective = Tiny()
    read_pretrained(path).start(objective)
    assert objective.value == 3
    save(checkpointer, 1.0)
    with pytest.raises(UserError, match="is a checkpoint, not a capsule"):
        load_capsule(checkpointer.folder / "last.safetensors")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, RunDir]:
    """A small real objective and the folder of its run, whose settings ask for pretrained weights."""
    encoders = [f"net.{net}.enc_name=test_resnet" for net in ("depth", "pose")]
    cfg = load_config(ROOT / "cfg/synthetic/monodepth2_M.yaml", ROOT / "cfg/synthetic/default.yaml", encoders)
    objective = build_objective(cfg)
    hparams = {"name": "m", "version": "42", "seed": 42, "config": cfg.to_dict()}
    for net in hparams["config"]["net"].values():
        net["pretrained"] = True  # would need the internet
    with RunDir(tmp_path_factory.mktemp("models"), "m", "42") as run:
        run.write_hparams(hparams)
        save_best(Checkpointer(run.ckpts, hparams, "AbsRel"), objective, TrainState(Position(1, 0, 10)))
    return objective, run


def test_an_objective_is_rebuilt_from_one_file_without_downloads(real: tuple[Any, RunDir]) -> None:
    objective, run = real
    for path in (run.best_path, str(run.path)):
        loaded = load_objective(path)
        assert not any(module.training for module in loaded.modules())
        weights = loaded.state_dict()
        for name, tensor in objective.state_dict().items():
            assert torch.equal(weights[name], tensor), name
    assert loaded.weights == objective.weights
    images = torch.rand(1, 3, 64, 64)
    objective.eval()
    assert torch.equal(loaded.predict_disp(images)[0], objective.predict_disp(images)[0])
    assert all(key.startswith("networks.") for key in load_file(run.best_path))


def test_corrected_hparams_win_over_those_in_the_file(real: tuple[Any, RunDir], tmp_path: Path) -> None:
    _, run = real
    text = run.hparams_path.read_text()
    corrected = tmp_path / "hparams.yaml"
    corrected.write_text(text.replace("weight: 0.001", "weight: 0.5"))
    assert load_objective(run.best_path, corrected).weights["disp_smooth"] == 0.5
    assert load_objective(run.best_path, str(run.hparams_path)).weights["disp_smooth"] == 0.001
    corrected.write_text(text.replace("test_resnet", "resnet18", 1))
    with pytest.raises(WrongArchitecture, match=r"net\.depth\.enc_name: test_resnet -> resnet18"):
        load_objective(run.best_path, corrected)
    corrected.write_text(text.replace("disp_smooth", "disp_smoth"))
    with pytest.raises(UserError, match=r"hparams\.yaml.*disp_smoth"):
        load_objective(run.best_path, corrected)


def test_a_best_that_is_gone_or_damaged_is_noticed(checkpointer: Checkpointer) -> None:
    assert "there is no such file" in (checkpointer.fault_of_best() or "")
    save_best(checkpointer, Tiny())
    assert checkpointer.fault_of_best() is None
    damage(checkpointer.folder / "best.safetensors")
    assert "at least one bit is wrong" in (checkpointer.fault_of_best() or "")


def planned(seed: int = 42, max_epochs: int = 3) -> dict[str, Any]:
    return {**HPARAMS, "seed": seed, "config": {"net": NET, "trainer": {"max_epochs": max_epochs}}}


def train(folder: Path, hparams: dict[str, Any], better: tuple[int, ...] = (0, 2)) -> None:
    """Save in the order of a run of three epochs; `better` are those that `best` is kept of."""
    folder.mkdir(parents=True)
    checkpointer = Checkpointer(folder, hparams, "AbsRel")
    for epoch in range(3):
        save(checkpointer, epoch + 1.0, TrainState(Position(epoch, 4, 4 * epoch + 4)))
        after = TrainState(Position(epoch + 1, 0, 4 * epoch + 4))
        if epoch in better:
            save_best(checkpointer, Tiny(hparams["seed"] + epoch), after)
        save(checkpointer, epoch + 1.0, after)


def read_both(folder: Path) -> str | None:
    """What continuing and evaluating say about `best`; the name of the `last` that was read, None without any."""
    saved = Checkpointer(folder, planned(), "AbsRel").load_last()
    if saved is not None:
        check_best(saved, folder / "best.safetensors")
        find_checkpoint(folder)
    return saved and saved.path.name


def test_best_is_known_as_ones_own_at_every_moment_of_a_run(tmp_path: Path, monkeypatch: Any) -> None:
    """Whenever the process dies, between `best` and `last` too, and also when `last` is damaged after that."""
    moments: list[Path] = []

    def stopping(real: Any) -> Any:
        def moment() -> None:
            moments.append(tmp_path / f"{len(moments)}")
            shutil.copytree(tmp_path / "run", moments[-1])

        def change(*args: Any, **kwargs: Any) -> None:
            moment()
            real(*args, **kwargs)
            moment()

        return change

    with monkeypatch.context() as patch:
        for name in ("replace", "link"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        train(tmp_path / "run", planned())
    train(tmp_path / "other", planned(seed=43))
    ahead, read = 0, set()
    for folder in moments:
        last, best = folder / "last.safetensors", folder / "best.safetensors"
        read.add(read_both(folder))
        if not last.exists():
            continue
        if best.exists():
            known = safefile.read_metadata(last)["best_checksum"]
            ahead += known != safefile.read_metadata(best)["header_checksum"]
        shutil.copy(tmp_path / "other" / "best.safetensors", tmp_path / "foreign")
        own = best.read_bytes() if best.exists() else None
        shutil.copy(tmp_path / "foreign", best)
        with pytest.raises(UserError, match=r"not the `best` of this run, .*, but a file of m/42, seed 43, epoch 3\."):
            read_both(folder)
        best.unlink() if own is None else best.write_bytes(own)
        if (folder / "last.prev.safetensors").exists():
            damage(last)
            read.add(read_both(folder))
    assert read == {None, "last.safetensors", "last.prev.safetensors"}
    assert ahead >= 8  # from `best` renamed to `last` renamed, after two epochs


@pytest.mark.parametrize("copied", ["an earlier epoch", "another plan of the same run"])
def test_an_exchanged_best_of_the_same_settings_is_noticed(tmp_path: Path, copied: str) -> None:
    train(tmp_path / "run", planned())
    longer = copied == "another plan of the same run"
    train(tmp_path / "other", planned(max_epochs=9), better=(0, 2) if longer else (0,))
    shutil.copy(tmp_path / "other" / "best.safetensors", tmp_path / "run" / "best.safetensors")
    with pytest.raises(UserError, match=r"Restore the one that was there, or delete this one"):
        find_checkpoint(tmp_path / "run")


def test_a_last_that_names_no_best_takes_what_is_there(tmp_path: Path) -> None:
    """So wrote earlier versions; the next best is named."""
    train(tmp_path / "run", planned())
    train(tmp_path / "other", planned(seed=43))
    last = tmp_path / "run" / "last.safetensors"
    tensors, metadata = safefile.read(last)
    safefile.write(last, tensors, {key: text for key, text in metadata.items() if key != "best_checksum"})
    shutil.copy(tmp_path / "other" / "best.safetensors", tmp_path / "run")
    assert read_both(tmp_path / "run") == "last.safetensors"
    checkpointer = Checkpointer(last.parent, planned(), "AbsRel")
    checkpointer.load_last()
    save(checkpointer, 1.0)
    assert "best_checksum" not in safefile.read_metadata(last)
    save_best(checkpointer, Tiny())
    save(checkpointer, 1.0)
    assert len(safefile.read_metadata(last)["best_checksum"]) == 64


def test_a_learned_camera_is_in_both_files_and_survives_a_resume(checkpointer: Checkpointer) -> None:
    camera = LearnedCamera((0.5, 0.9, 0.5, 0.5), (0.1,) * 4, (90.0, 58.1), (8.0, 5.0), 4, 0.3)
    state = TrainState(camera=camera.to_dict())
    save(checkpointer, 1.0, state)
    save_best(checkpointer, Tiny(), state)
    for name in ("last", "best"):
        path = checkpointer.folder / f"{name}.safetensors"
        assert Saved(path, *safefile.read(path)).camera == camera
    saved = checkpointer.load_last()
    assert saved is not None
    assert saved.state.camera == state.camera
    odd = {**saved.metadata, "camera": json.dumps({**camera.to_dict(), "mean": [0, 1, 0.5, 0.5]})}
    with pytest.raises(DamagedFile, match="camera"):
        Saved(saved.path, {}, odd)
