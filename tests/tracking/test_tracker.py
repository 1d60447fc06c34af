"""Entries of the trackers can be read back: each step once, at the root of the run, in colour."""

from __future__ import annotations

import io
import itertools
import math
import resource
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator

from trainer.runtime.errors import UserError
from trainer.tracking import tracker as tracking

CONFIG = {"optim": {"lr": 1e-4, "type": "adamw"}, "trainer": {"benchmark": True, "scales": [0, 1], "seed": None}}


@pytest.fixture(autouse=True)
def _ordered_event_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real restarts are seconds apart; here every events file gets its own second, so that names sort."""
    seconds = itertools.count(1_700_000_000)
    clock = SimpleNamespace(time=lambda: next(seconds))
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", clock)


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def read(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def steps(events: list) -> list[int]:
    return [event.step for event in events]


def decode(event) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_scalars_come_back_with_their_step(accelerator: Accelerator, tmp_path: Path) -> None:
    tracker = tracking.start(accelerator, ["tensorboard"], tmp_path)
    values = {"loss": torch.tensor(0.25, requires_grad=True), "lr": np.float32(0.5), "epoch": 3, "norm": math.inf}
    tracker.scalars({**values, "nan": torch.tensor(math.nan)}, step=100)
    tracker.close()
    events = read(tmp_path)
    shown = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert math.isnan(shown.pop("nan"))
    assert shown == {"loss": 0.25, "lr": 0.5, "epoch": 3.0, "norm": math.inf}
    assert steps(events.Scalars("epoch")) == [100]


def test_a_start_leaves_one_file_at_the_root_and_no_folders(accelerator: Accelerator, tmp_path: Path) -> None:
    run_dir = tmp_path / "model" / "042"
    tracker = tracking.start(accelerator, ["tensorboard"], run_dir)
    tracker.scalars({"loss": 1.0}, step=1)
    tracker.images({"imgs/target": torch.rand(2, 3, 8, 16)}, step=1)
    tracker.text("items", "a - b", step=1)
    tracker.hparams(CONFIG, metrics=["val/AbsRel"])
    tracker.close()
    files = list(run_dir.iterdir())
    assert [file.name.startswith("events.out.tfevents.") for file in files] == [True]


def write_run(accelerator: Accelerator, run_dir: Path, first_step: int, last_step: int, value: float) -> None:
    """Every step a scalar; every 4 steps, the end of an "epoch", a picture, a text and a metric."""
    tracker = tracking.start(accelerator, ["tensorboard"], run_dir, first_step=first_step)
    for step in range(first_step or 1, last_step + 1):
        tracker.scalars({"train_losses/loss": value}, step)
        if step % 4 == 0:
            tracker.images({"imgs/target": torch.full((1, 3, 4, 4), value)}, step, prefix="val_")
            tracker.text("items", f"{value}", step)
            tracker.scalars({"val/AbsRel": value}, step)
    tracker.close()


@pytest.mark.parametrize("saved_at", [-1, 4, 6, 8])  # -1: a new run after one that saved nothing
def test_a_resumed_run_has_every_step_once(accelerator: Accelerator, tmp_path: Path, saved_at: int) -> None:
    """The first start dies at step 10; the second goes on from the checkpoint, and its values are shown."""
    write_run(accelerator, tmp_path, first_step=0, last_step=10, value=0.0)
    write_run(accelerator, tmp_path, first_step=saved_at + 1, last_step=12, value=1.0)
    events = read(tmp_path)
    shown = {event.step: event.value for event in events.Scalars("train_losses/loss")}
    assert steps(events.Scalars("train_losses/loss")) == list(range(1, 13))
    assert shown == {step: float(step > saved_at) for step in range(1, 13)}
    assert steps(events.Scalars("val/AbsRel")) == [4, 8, 12]
    pictures = events.Images("val_imgs/target")
    assert steps(pictures) == [4, 8, 12]
    assert [decode(event).max() for event in pictures] == [255 * (step > saved_at) for step in (4, 8, 12)]


def test_a_resumed_run_has_every_text_once(accelerator: Accelerator, tmp_path: Path) -> None:
    """TensorBoard itself reads texts with the accumulator of the plugins, which purges them too."""
    write_run(accelerator, tmp_path, first_step=0, last_step=10, value=0.0)
    write_run(accelerator, tmp_path, first_step=7, last_step=12, value=1.0)
    events = PluginAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    texts = events.Tensors("items/text_summary")
    written = [(e.step, e.tensor_proto.string_val[0].decode()) for e in texts]
    assert written == [(4, "0.0"), (8, "1.0"), (12, "1.0")]


def test_pictures_have_the_colours_of_their_values(accelerator: Accelerator, tmp_path: Path) -> None:
    disp = torch.zeros(1, 1, 4, 8)
    disp[..., 4:] = 1.0  # the near half: at the top of turbo, dark red; the far half at its bottom, dark violet
    tracker = tracking.start(accelerator, ["tensorboard"], tmp_path)
    images = {"disp/target_0": disp, "masks/automask": disp > 0, "imgs/target": torch.ones(12, 3, 10, 20)}
    tracker.images(images, step=7, prefix="val_")
    tracker.close()
    events = read(tmp_path)
    assert sorted(events.Tags()["images"]) == [f"val_{name}" for name in sorted(images)]
    (many,) = events.Images("val_imgs/target")
    assert (many.height, many.width) == (3 * 10 + 2 * 2, 2 * 20 + 2)  # six of them, two in a row
    colours = decode(events.Images("val_disp/target_0")[0])
    assert colours.shape == (4, 8, 3)
    assert colours[0, 0].tolist() == [48, 18, 59]
    assert colours[0, 7].tolist() == [122, 4, 3]
    mask = decode(events.Images("val_masks/automask")[0])
    assert mask[0, 0].tolist() == [0, 0, 0]
    assert mask[0, 7].tolist() == [255, 255, 255]


def test_a_sheet_is_one_picture_and_a_bad_one_a_warning(accelerator: Accelerator, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = tracking.start(accelerator, ["tensorboard"], tmp_path, warn=said.append)
    image, mask = np.full((64, 192, 3), 128, np.uint8), np.ones((64, 192), np.float32)
    tracker.sheet("val/overview", [{"input": image, "automask": mask}] * 4, step=3, title="t", footer="1: a   2: b")
    tracker.sheet("train/overview", [], step=3)
    tracker.close()
    events = read(tmp_path)
    assert events.Tags()["images"] == ["val/overview"]
    assert decode(events.Images("val/overview")[0]).shape[2] == 3
    assert len(said) == 1
    assert "nothing to show" in said[0]


def test_hyperparameters_are_a_readable_text_and_a_session(accelerator: Accelerator, tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    tracker = tracking.start(accelerator, ["tensorboard"], tmp_path)
    tracker.hparams(CONFIG, metrics=["val/AbsRel"])
    tracker.close()
    events = read(tmp_path)
    (text,) = events.Tensors("hparams/text_summary")
    page = text.tensor_proto.string_val[0].decode()
    assert page.startswith("```yaml\noptim:\n  lr: 0.0001\n")
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    session = metadata.parse_session_start_info_plugin_data(content)
    assert session.hparams["optim.lr"].number_value == 1e-4
    assert session.hparams["trainer.benchmark"].string_value == "true"
    assert session.hparams["trainer.scales"].string_value == "[0, 1]"
    content = events.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    assert [info.name.tag for info in experiment.metric_infos] == ["val/AbsRel"]


def test_no_trackers_write_nothing(accelerator: Accelerator, tmp_path: Path) -> None:
    tracker = tracking.start(accelerator, [], tmp_path)
    tracker.scalars({"loss": 1.0}, step=1)
    tracker.images({"imgs/target": torch.rand(1, 3, 4, 4)}, step=1)
    tracker.text("items", "a", step=1)
    tracker.hparams(CONFIG)
    tracker.close()
    assert not tracker.active
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_write_nothing_and_fetch_nothing(tmp_path: Path) -> None:
    """The value has no memory behind it: reading it would raise."""
    rank_1 = SimpleNamespace(is_main_process=False, trackers=[], init_trackers=lambda project: None)
    tracker = tracking.start(rank_1, ["tensorboard"], tmp_path)
    nothing = torch.empty((), device="meta")
    tracker.scalars({"loss": nothing}, step=1)
    tracker.images({"imgs/target": nothing}, step=1)
    tracker.hparams(CONFIG)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_or_missing_tracker_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'tensorbord' is not a tracker\. Did you mean 'tensorboard'\?.*wandb"):
        tracking.check_trackers(["tensorbord"])
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(UserError, match=r"'wandb' is not installed\. pip install wandb"):
        tracking.check_trackers(["wandb"])


def test_a_tracker_that_cannot_start_is_the_users_to_fix(accelerator: Accelerator, tmp_path: Path) -> None:
    (tmp_path / "042").write_text("a file where the run folder should be")
    with pytest.raises(UserError, match=r"tensorboard: could not start in .*042"):
        tracking.start(accelerator, ["tensorboard"], tmp_path / "042")
    accelerator.trackers.clear()


class Recorder(GeneralTracker):
    """A tracker beside TensorBoard that keeps what it is given."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self, project: str):
        super().__init__()
        self.project = project
        self.logged: list[tuple] = []

    @property
    def tracker(self) -> Recorder:
        return self

    def store_init_configuration(self, values: dict) -> None:
        self.logged.append(("hparams", values))

    def log(self, values: dict, step: int | None = None) -> None:
        self.logged.append((values, step))

    def log_images(self, values: dict, step: int | None = None) -> None:
        self.logged.append(({tag: (p.shape, p.dtype) for tag, p in values.items()}, step))


class Broken(Recorder):
    name = "broken"

    def log(self, values: dict, step: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    log_images = log

    def finish(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.fixture
def _more_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.LOGGER_TYPE_TO_CLASS", LOGGER_TYPE_TO_CLASS)
    for tracker in (Recorder, Broken):
        monkeypatch.delitem(LOGGER_TYPE_TO_CLASS, tracker.name, raising=False)
        register_tracker_class(tracker)


@pytest.mark.usefixtures("_more_trackers")
def test_every_tracker_gets_scalars_pictures_and_hyperparameters(accelerator: Accelerator, tmp_path: Path) -> None:
    tracker = tracking.start(accelerator, ["tensorboard", "recorder"], tmp_path, project="depth")
    recorder = accelerator.get_tracker("recorder", unwrap=True)
    tracker.scalars({"loss": torch.tensor(2.0)}, step=5)
    tracker.images({"disp/target_0": torch.rand(3, 1, 4, 8)}, step=5)
    tracker.text("items", "only for trackers of texts", step=5)
    tracker.hparams(CONFIG)
    tracker.close()
    assert recorder.project == "depth"
    assert recorder.logged[:2] == [
        ({"loss": 2.0}, 5),
        ({"train_disp/target_0": ((1, 10, 18, 3), np.dtype("uint8"))}, 5),
    ]
    assert recorder.logged[2][1]["optim.type"] == "adamw"
    assert len(recorder.logged) == 3


@pytest.mark.usefixtures("_more_trackers")
def test_a_failing_tracker_warns_once_and_the_others_go_on(accelerator: Accelerator, tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = tracking.start(accelerator, ["broken", "tensorboard"], tmp_path, warn=warnings.append)
    for step in (1, 2):
        tracker.scalars({"loss": 1.0}, step)
        tracker.images({"imgs/target": torch.rand(1, 3, 4, 4)}, step)
    tracker.close()
    assert len(warnings) == 1
    assert "tracker broken failed, training goes on" in warnings[0]
    assert "No space left on device" in warnings[0]
    assert steps(read(tmp_path).Scalars("loss")) == [1, 2]


def test_a_full_disk_does_not_stop_the_run(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system refuses to let the events file grow beyond 64 kB, as a full disk would.

    TensorBoard's writing thread dies of it, without a word; when there is room again, another file is begun.
    """
    warnings: list[str] = []
    monkeypatch.setattr(tracking, "REOPEN_SECONDS", -1.0)
    others = set(threading.enumerate())
    tracker = tracking.start(accelerator, ["tensorboard"], tmp_path, warn=warnings.append)
    noise = torch.rand(6, 3, 128, 128)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        for step in range(1, 6):
            tracker.images({"imgs/target": noise}, step)
            tracker.scalars({"loss": 1.0}, step)
            time.sleep(0.1)  # the thread writes when it likes
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for step in (6, 7, 8):
        tracker.scalars({"loss": 2.0}, step)
        time.sleep(0.1)
    tracker.close()
    for thread in set(threading.enumerate()) - others:
        thread.join()
    assert len(warnings) == 1
    assert "tracker tensorboard failed" in warnings[0]
    assert steps(read(tmp_path).Scalars("loss"))[-2:] == [7, 8]


def test_a_picture_that_cannot_be_drawn_is_left_out(accelerator: Accelerator, tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = tracking.start(accelerator, ["tensorboard"], tmp_path, warn=warnings.append)
    for step in (1, 2):
        tracker.images({"imgs/flat": torch.rand(4, 4), "imgs/target": torch.rand(1, 3, 4, 4)}, step)
    tracker.close()
    assert read(tmp_path).Tags()["images"] == ["train_imgs/target"]
    assert warnings == [
        "picture imgs/flat failed, training goes on (further failures are not shown): "
        "ValueError: image 'imgs/flat' has shape (4, 4): expected (b c h w)"
    ]


def test_repeated_names_start_one_tracker_and_closing_twice_is_closing(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    tracker = tracking.start(accelerator, ["tensorboard", "tensorboard"], tmp_path)
    assert len(accelerator.trackers) == 1
    tracker.close()
    tracker.close()
    assert accelerator.trackers == []


def test_scalars_of_one_device_are_fetched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    fetches: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: fetches.append(x.numel()) or tolist(x))
    monkeypatch.setattr(torch.Tensor, "item", lambda x: pytest.fail("one transfer per value"))
    values = {"a": torch.tensor(1.0), "b": 2, "c": torch.tensor([3], dtype=torch.int64)}
    assert list(tracking.to_floats(values).items()) == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert fetches == [2]


def test_a_tensor_with_many_elements_is_not_a_scalar() -> None:
    with pytest.raises(ValueError, match=r"'train_losses/loss' has shape \(2,\)"):
        tracking.to_floats({"train_losses/loss": torch.ones(2)})


def test_settings_are_flattened_to_what_trackers_store() -> None:
    nested = {"a": {"b": {"c": 1}, "d": {}}, "e": [1, 2], "f": None, "g": float("nan"), "h": True}
    flat = {"a.b.c": 1, "a.d": "{}", "e": "[1, 2]", "f": "None", "g": "nan", "h": True}
    assert tracking.storable(nested) == flat
