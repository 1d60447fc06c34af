"""Tracking: scalars, pictures, texts and hyperparameters of a run, sent to the trackers that Accelerate supports.

Every entry of training and validation carries the number of optimizer steps done, so one number, `first_step`, hides
what a resumed run writes again. A tracker that fails in mid-run (disk full, network down) is reported once and does not
stop the run; TensorBoard continues in another file when it can.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import flatten
from trainer.tracking import panels, viz

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

TAKES_TEXT = frozenset({"tensorboard", "wandb", "comet_ml"})  # the others accept numbers only
TAKES_ONE_PICTURE = frozenset({"aim", "clearml"})  # the others accept a batch
PICTURE_OPTIONS = {"tensorboard": {"dataformats": "NHWC"}}
GROUPS = {"tensorboard": ""}  # instead of the project: TensorBoard would open a subfolder of that name
FLUSH_SECONDS = 30  # pictures wait no longer than this for the disk
REOPEN_SECONDS = 60.0  # between attempts to open another file: on a full disk each leaves an empty one


def check_trackers(names: Iterable[str]) -> list[str]:
    """Return the names without repeats. Raises UserError for a name that is unknown or not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    missing = {str(name) for name in LoggerType} - {str(name) for name in get_available_trackers()}
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            hint = did_you_mean(name, LOGGER_TYPE_TO_CLASS)
            raise UserError(f"trainer.trackers: {name!r} is not a tracker. {hint}")
        if name in missing:
            raise UserError(
                f"trainer.trackers: {name!r} is not installed. pip install {name}, or take it out of the list"
            )
    return names


def start(
    accelerator: Accelerator,
    names: Sequence[str],
    run_dir: str | Path,
    *,
    project: str = "monodepth",
    first_step: int = 0,
    warn: Callable[[str], None] | None = None,
) -> Tracker:
    """Start the trackers called `names`, on the main process alone, and return the object that writes to all.

    Args:
        accelerator: its `log_with` and `trackers` are replaced.
        names: trackers of Accelerate; none = nothing is tracked.
        run_dir: TensorBoard writes one events file per start here; trackers with local files use subfolders.
        project: group of runs on hosted trackers; a run is named by the last two parts of run_dir.
        first_step: first optimizer step to be written: 0 for a new run, steps done + 1 after a resume. Entries of an
            earlier start from there on are hidden.
        warn: prints a warning; the `logging` module by default.

    Raises UserError for a tracker that is unknown, not installed or cannot start.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    run_dir = Path(run_dir)
    names = check_trackers(names)
    _silence_writers()
    trackers: list[GeneralTracker] = []
    if accelerator.is_main_process:
        options = _start_options(run_dir, first_step)
        for name in names:
            tracker = LOGGER_TYPE_TO_CLASS[name]
            folder = [str(run_dir)] if tracker.requires_logging_directory else []
            trackers.append(tracker(GROUPS.get(name, project), *folder, **options.get(name, {})))
    accelerator.log_with = trackers
    try:
        accelerator.init_trackers(project)
    except Exception as error:
        where = f"{', '.join(names)}: could not start in {run_dir}"
        raise UserError(f"trainer.trackers {where}: {type(error).__name__}: {error}") from error
    return Tracker(accelerator, first_step, warn or logging.getLogger(__name__).warning)


class Tracker:
    """Writes to every tracker that `start` started; without any, and off the main process, does nothing."""

    def __init__(self, accelerator: Accelerator, first_step: int, warn: Callable[[str], None]):
        self._accelerator = accelerator
        self._first_step = first_step
        self._warn = warn
        self._warned: set[str] = set()
        self._reopened_at = -math.inf

    @property
    def active(self) -> bool:
        """Whether anything is written."""
        return bool(self._accelerator.trackers)

    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Write scalars, fetched from their device in one transfer; NaN and infinity too."""
        if self.active:
            numbers = to_floats(values)
            self._each(lambda tracker: tracker.log(numbers, step=step))

    def images(self, images: Mapping[str, Tensor], step: int, prefix: str = "train_") -> None:
        """Write pictures {name: (b c h w)} as prefix + name, coloured by `viz.render`, the first ones of the batch."""
        if not self.active:
            return
        pictures: dict[str, np.ndarray] = {}
        for name, tensor in images.items():
            tag = prefix + name
            try:
                pictures[tag] = viz.to_uint8(viz.grid(viz.render(name, tensor[: viz.MAX_IMAGES])))
            except Exception as error:
                self._warn_once(f"picture {name}", error)
        self._each(lambda tracker: _log_pictures(tracker, pictures, step))

    def sheet(self, tag: str, rows: Sequence[Mapping[str, Any]], step: int, title: str = "", footer: str = "") -> None:
        """Write one picture of all rows, drawn by `viz.sheet`."""
        if self.active:
            try:
                picture, places = viz.sheet(rows, title, footer)
            except Exception as error:
                self._warn_once(f"picture {tag}", error)
                return
            self._each(lambda tracker: _log_sheet(tracker, tag, picture, places, step))

    def text(self, tag: str, text: str, step: int) -> None:
        """Write a text (Markdown in TensorBoard) to the trackers that take texts."""
        self._each(lambda tracker: tracker.log({tag: text}, step=step), only=TAKES_TEXT)

    def hparams(self, config: Mapping[str, Any], metrics: Sequence[str] = ()) -> None:
        """Write the configuration (plain YAML data) as a text and as hyperparameters.

        `metrics` are scalar tags to show beside them in TensorBoard's HPARAMS tab: "val/AbsRel".
        """
        if not self.active:
            return
        import yaml

        page = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self.text("hparams", f"```yaml\n{page}```", self._first_step)
        flat = storable(config)
        self._each(lambda tracker: _log_hparams(tracker, flat, metrics, self._first_step))

    def charts(self, layout: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Arrange charts in TensorBoard's tab CUSTOM SCALARS: {section: {chart: regular expressions of its tags}}."""

        def write(tracker: GeneralTracker) -> None:
            from torch.utils.tensorboard.summary import custom_scalars

            known = {name: {chart: ["Multiline", tags] for chart, tags in of.items()} for name, of in layout.items()}
            tracker.tracker.file_writer.add_summary(custom_scalars(known), self._first_step)

        self._each(write, only=frozenset({"tensorboard"}))

    def close(self) -> None:
        """Finish every tracker. A second call does nothing, nor does `Accelerator.end_training`."""
        self._each(lambda tracker: tracker.finish())
        self._accelerator.trackers.clear()

    def _each(self, write: Callable[[GeneralTracker], None], only: frozenset[str] | None = None) -> None:
        for tracker in self._accelerator.trackers:
            if only is None or tracker.name in only:
                try:
                    write(tracker)
                except Exception as error:
                    self._warn_once(f"tracker {tracker.name}", error)
                    self._reopen(tracker)

    def _reopen(self, tracker: GeneralTracker) -> None:
        """Let TensorBoard's writer open a new file at its next entry: the thread of the old one has ended."""
        now = time.monotonic()
        writer: Any = getattr(tracker, "writer", None)
        if hasattr(writer, "all_writers") and now - self._reopened_at > REOPEN_SECONDS:
            self._reopened_at = now
            writer.file_writer = writer.all_writers = None

    def _warn_once(self, what: str, error: Exception) -> None:
        """Warn of the first failure of `what`; none may end hours of training."""
        if what not in self._warned:
            self._warned.add(what)
            reason = f"{type(error).__name__}: {error}"
            self._warn(f"{what} failed, training goes on (further failures are not shown): {reason}")


@cache
def _silence_writers() -> None:
    """Hide the tracebacks of TensorBoard's writing threads: the next entry raises their errors again."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and issubclass(args.exc_type, OSError)):
            previous(args)

    threading.excepthook = hook


def to_floats(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Convert numbers and one-element tensors to floats, in order, with one transfer per device.

    Raises ValueError naming the tag of a tensor with more or fewer than one element.
    """
    by_device: dict[torch.device, list[str]] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"scalar {name!r} has shape {tuple(value.shape)}: expected one element")
            by_device.setdefault(value.device, []).append(name)
    fetched: dict[str, float] = {}
    for names in by_device.values():
        stacked = torch.stack([torch.as_tensor(values[name]).detach().reshape(()).float() for name in names])
        fetched |= zip(names, stacked.tolist(), strict=True)
    return {name: fetched[name] if name in fetched else float(value) for name, value in values.items()}


def storable(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Flatten settings for trackers, with dotted keys; lists, None, NaN and inf become text."""
    flat = flatten(config)
    for key, value in flat.items():
        if not isinstance(value, (int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            flat[key] = str(value)
    return flat


def _start_options(run_dir: Path, first_step: int) -> dict[str, dict[str, Any]]:
    run_name = "/".join(run_dir.absolute().parts[-2:])  # <name>/<version>
    return {
        "tensorboard": {"purge_step": first_step, "flush_secs": FLUSH_SECONDS},
        "wandb": {"name": run_name, "dir": str(run_dir)},
        "trackio": {"name": run_name},
        "mlflow": {"run_name": run_name},
        "clearml": {"task_name": run_name},
        "dvclive": {"dir": str(run_dir / "dvclive"), "resume": first_step > 0},
        "swanlab": {"experiment_name": run_name, "logdir": str(run_dir / "swanlog")},
    }


def _log_pictures(tracker: GeneralTracker, pictures: Mapping[str, np.ndarray], step: int) -> None:
    """Write pictures (h w 3) uint8 in the tracker's format, if it accepts any."""
    log_images = getattr(tracker, "log_images", None)
    if log_images is None:
        return
    single = tracker.name in TAKES_ONE_PICTURE
    options = PICTURE_OPTIONS.get(tracker.name, {})
    log_images({tag: p if single else p[None] for tag, p in pictures.items()}, step=step, **options)


def _log_sheet(
    tracker: GeneralTracker, tag: str, picture: np.ndarray, places: Sequence[panels.PanelRow], step: int
) -> None:
    """Write a sheet; TensorBoard keeps PNG files as they are, and with them the places of the pictures."""
    if tracker.name != "tensorboard":
        _log_pictures(tracker, {tag: picture}, step)
        return
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, _ = picture.shape
    png = panels.encode(picture, places)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    tracker.tracker.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def _log_hparams(tracker: GeneralTracker, flat: Mapping[str, Any], metrics: Sequence[str], step: int) -> None:
    if tracker.name != "tensorboard":
        tracker.store_init_configuration(dict(flat))
        return
    # SummaryWriter.add_hparams opens a subfolder for each call; the same summaries in our file need none.
    from torch.utils.tensorboard.summary import hparams

    shown = {key: str(value).lower() if isinstance(value, bool) else value for key, value in flat.items()}
    for summary in hparams(shown, dict.fromkeys(metrics, 0.0)):
        tracker.tracker.file_writer.add_summary(summary, step)
