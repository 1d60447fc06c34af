"""Records of a run: means over processes, scalars of the loop, warnings, unreadable items."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.test_train import scalars
from tests.world import fork, run_world
from trainer.metrics.validation import VALIDATION_METRICS
from trainer.training import recorder as recording
from trainer.training.recorder import Recorder
from trainer.training.validation import ValidationResult
from trainer.types import StepOutput


class Heard:
    """A tracker and a progress display that keep their input."""

    def __init__(self) -> None:
        self.written: list[tuple[dict, int]] = []
        self.said: list[str] = []

    def scalars(self, values: dict, step: int) -> None:
        self.written.append((dict(values), step))

    def message(self, text: str) -> None:
        self.said.append(text)

    def advance(self, info: dict | None = None) -> None:
        self.shown = info

    def end_epoch(self, info: dict | None = None) -> None:
        self.shown = info


def recorder_of(world: int = 1, rank: int = 0) -> tuple[Recorder, Heard]:
    heard = Heard()
    accelerator = SimpleNamespace(num_processes=world, process_index=rank, device=torch.device("cpu"))
    return Recorder(accelerator, heard, heard), heard


def step_output(term: float, disp: float = 0.5) -> StepOutput:
    """A step whose picture has a near half and a far one, unless disp says that all of it is equal."""
    maps = torch.full((1, 1, 64, 64), disp)
    maps[..., :32] = 0.5
    losses = {"img_recon": torch.tensor(term), "disp_smooth": torch.tensor(2 * term)}
    return StepOutput(torch.tensor(term), losses, {"disp": {0: maps}, "depth": {0: 1 / maps}})


def _each_brings_its_own(rank: int, world: int) -> None:
    recorder, heard = recorder_of(world, rank)
    calls = []
    recording.total = lambda accelerator, x: calls.append(x.shape) or _total(accelerator, x)
    truth = torch.full((1, 1, 64, 64), 4.0 if rank else 0.0)  # the first process has no truth
    output = step_output(0.1 * (1 + rank), disp=0.25 if rank else 0.5)
    recorder.extra = {"train_safety/skipped": 3.0}
    recorder.step(output, {"depth": truth}, 0.7, {"epoch": 2}, step=10, due=True)
    ((written, step),) = heard.written
    assert step == 10
    assert len(calls) == 1  # everything travels together
    assert written["train_losses/loss"] == 0.7
    assert written["train_losses/loss_img_recon"] == pytest.approx(0.15)
    assert written["train_losses/loss_disp_smooth"] == pytest.approx(0.3)
    assert {tag for tag in written if tag.startswith("train/")} == {f"train/{k}" for k in VALIDATION_METRICS}
    assert written["train/Acc"] == pytest.approx(0.5)  # of the one item with truth: its depth is 2 and 4
    std = 0.125 * (32 * 32 / (32 * 32 - 1)) ** 0.5  # of 0.25 and 0.5 in equal parts of a quarter, mean 0.375
    variation = std / 0.375 / 2  # constant on the other process
    assert written["train_health/disp_variation"] == pytest.approx(variation)
    assert written["train_safety/skipped"] == 3
    assert written["epoch"] == 2


_total = recording.total


def _one_is_slower(rank: int, world: int) -> None:
    """A step is 10 s of work on one process and 40 s on the other; what each waits for the other is left out."""
    recorder, heard = recorder_of(world, rank)
    clock = SimpleNamespace(wall=0.0, busy=0.0)
    recording.time = SimpleNamespace(perf_counter=lambda: clock.wall, thread_time=lambda: clock.busy)
    for step in range(1, 9):
        for _ in recorder.timed([[{"target": torch.zeros(1, 3, 1, 1)}]]):
            with recorder.part("Forward"):
                clock.wall += 100.0  # for the slower one, or in vain
                clock.busy += 2.0
            with recorder.part("Verdict"):
                clock.wall += 100.0
                clock.busy += 100.0  # it may wait busily
            clock.wall += 38.0 if rank else 8.0
            recorder.step(step_output(0.1), {}, 0.1, {}, step=step, due=step % 2 == 0)
    for written, _ in heard.written:
        found = {tag.rpartition("/")[2]: written[tag] for tag in written if tag.startswith("train_timer/Process/")}
        assert found == pytest.approx({"mean": 25e3, "slowest": 40e3, "slowest_process": 1})
    (text,) = [text for text in heard.said if "process" in text]
    assert text.startswith("warning: process 1 holds up the others: a step takes it 40000 ms by itself")
    assert "and the others 10000 ms" in text


def _both(rank: int, world: int) -> None:
    _each_brings_its_own(rank, world)
    recording.total = _total
    _each_meets_two(rank, world)
    _one_is_slower(rank, world)


def test_two_processes_average_a_step_in_one_reduction_and_count_an_unreadable_item_once(tmp_path: Path) -> None:
    run_world(_both, 2, tmp_path)


def test_a_step_that_is_not_due_writes_nothing() -> None:
    recorder, heard = recorder_of()
    recorder.step(step_output(0.1), {}, 0.1, {}, step=1, due=False)
    assert heard.written == []


def test_every_step_shows_its_own_loss_and_the_latest_of_the_rest() -> None:
    """The loss is on the host, as the verdict needs it: nothing is fetched for a step whose scalars are not written."""
    recorder, heard = recorder_of()
    shown = []
    for step, loss in enumerate((0.4, 0.3, 0.2, float("nan")), start=1):
        due = step == 2
        recorder.norms = {"total": torch.tensor(5.0)} if due else recorder.norms
        output = step_output(loss) if due else None  # not looked at
        recorder.step(output, {}, loss, {}, step=step, due=due)  # type: ignore[arg-type]
        shown.append(heard.shown)
    assert shown[:3] == [{"train loss": 0.4}, {"train loss": 0.3, "grad": 5.0}, {"train loss": 0.2, "grad": 5.0}]
    assert math.isnan(shown[3]["train loss"])


def test_a_failing_run_is_reported_once_by_training_or_validation() -> None:
    recorder, heard = recorder_of()
    for step in range(100, 160, 10):
        recorder.step(step_output(0.1), {}, 0.1, {}, step=step, due=True)  # disparity 0.5 everywhere
    (text,) = heard.said
    assert "the disparity is constant (std / mean 0.0e+00)" in text
    result = ValidationResult(losses={"loss": 0.1}, num_items=4, disp_variation=1e-5)
    recorder.validation(result, [], "loss", None, step=160)
    assert heard.said == [text]
    other, heard = recorder_of()
    other.validation(result, [], "loss", None, step=140)
    other.validation(result, [], "loss", None, step=280)
    assert len(heard.said) == 1


def test_the_constant_is_written_beside_the_validation() -> None:
    recorder, heard = recorder_of()
    result = ValidationResult(metrics={"AbsRel": 0.2}, num_items=4, num_with_depth=4, constant=0.4)
    recorder.validation(result, [], "AbsRel", None, step=100)
    ((written, _),) = heard.written
    assert written == {"val/AbsRel": 0.2, "baseline/constant_AbsRel": 0.4}
    assert list(heard.shown or ()) == ["Abs Rel"]


def test_time_spent_waiting_is_measured_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, heard = recorder_of()
    clock = [0.0]
    monkeypatch.setattr(recording, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow_loader():
        for _ in range(5):
            clock[0] += 6.0
            yield [{"target": torch.zeros(2, 3, 1, 1)}, {"target": torch.zeros(1, 3, 1, 1)}]

    for number, _ in enumerate(recorder.timed(slow_loader())):
        recorder.step(step_output(0.1, disp=0.1), {}, 0.1, {}, step=number, due=True)
        clock[0] += 4.0
    shares = [written["train_health/waiting_share"] for written, _ in heard.written]
    assert shares == pytest.approx([6 / 6, 12 / 16, 18 / 26, 24 / 36, 30 / 46])
    speeds = [written["train_speed/images_per_second"] for written, _ in heard.written]
    assert speeds == pytest.approx([3 / 6, *4 * [3 / 10]])
    assert "train_speed/device_memory_mb" not in heard.written[0][0]  # a CPU counts none
    assert heard.said[0].startswith("warning: 67% of the time is spent waiting for data (24 s of 36 s")
    assert len(heard.said) == 1


def _each_meets_two(rank: int, world: int) -> None:
    recorder, heard = recorder_of(world)
    marks = torch.zeros(8, dtype=torch.bool)
    sets = {"train": SimpleNamespace(unreadable=marks), "val": SimpleNamespace(unreadable=None)}
    recorder.unreadable(sets, step=4)
    marks[[1, 2 + rank]] = True  # item 1 was met by both
    recorder.unreadable(sets, step=8)
    recorder.unreadable(sets, step=12)
    tag = "train_data/unreadable"
    assert heard.written == [({tag: 0}, 4), ({tag: 3}, 8), ({tag: 3}, 12)]
    assert [text[:20] for text in heard.said] == ["warning: 3 of 8 trai"]


def test_a_run_counts_what_turns_out_damaged(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    for number, picture in enumerate(noise):
        Image.fromarray(picture).save(frames / f"{number:03}.png")
    whole = bytearray((frames / "004.png").read_bytes())
    whole[1000:7000] = bytes(6000)  # its beginning and its end are whole: only decoding shows it
    (frames / "004.png").write_bytes(whole)
    run = fork(
        *("launch/train.py", "-c", "cfg/real/folder.yaml", "-d", "cfg/real/default.yaml"),
        *("-o", tmp_path / "models", "-n", "run", "-v", "1", "--progress", "plain", "--set"),
        *(f"dataset.path={frames}", "dataset.size=[64,64]", "net.depth={enc_name: test_resnet, out_scales: [0]}"),
        *("net.pose.enc_name=test_resnet", "trainer={max_epochs: 1, log_images: false, log_every_n_steps: 2}"),
        "loader={batch_size: 2, train: {num_workers: 1}, val: {num_workers: 0}}",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "items could not be read so far" in run.stdout
    assert "004.png" in run.stdout + run.stderr
    assert f"monodepth predict {tmp_path}/models/run/1 PICTURE" in run.stdout  # there is no truth to evaluate with
    written = scalars(tmp_path / "models/run/1")
    assert written["train_data/unreadable"][-1][1] >= 1
    watched = {tag.split("/")[1] for tag in written if tag.startswith("train_health/")}
    assert watched >= {"disp_variation", "depth_median", "holes", "pose_parallax", "waiting_share"}


@pytest.mark.parametrize(
    ("monitor", "why"), [("AbsRel", ": no item has a true depth between 0.1 and 100 m."), ("loss", "")]
)
def test_a_validation_without_any_truth_in_range_says_why_there_is_no_best(monitor: str, why: str) -> None:
    recorder, heard = recorder_of()
    recorder.validation(ValidationResult(losses={"loss": float("nan")}, num_items=4), [], monitor, None, 8)
    (said,) = heard.said
    assert said.startswith(f"warning: {monitor} could not be computed, so `best` stays as it is{why}")
