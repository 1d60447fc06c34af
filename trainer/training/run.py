"""Build a run from a configuration: checked, set up, restored from `last`, and ready for its first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from trainer.build import build_dataset, build_loader, build_objective, depth_limits, has_free_depth
from trainer.checkpoint import Checkpointer, TrainedOn, read_pretrained
from trainer.checkpoint.resume import check_best, check_resume, keep_order, other_validation, to_digest
from trainer.checkpoint.state import Position, TrainState
from trainer.config import Config
from trainer.data.aspect import AspectRatios
from trainer.data.base import DepthDataset
from trainer.data.loaders import equal_parts
from trainer.losses import LOSSES
from trainer.metrics.validation import VALIDATION_METRICS, monitor_problem
from trainer.objective import Objective, freezing
from trainer.objective.compiling import CompiledFormulas
from trainer.runtime import processes
from trainer.runtime.environment import environment
from trainer.runtime.errors import UserError, printable
from trainer.runtime.files import require_space
from trainer.runtime.rundir import BEST, RunDir
from trainer.runtime.seeding import INITIALISATION, seed_everything
from trainer.tracking import tracker as tracking
from trainer.tracking.health import learned
from trainer.tracking.progress import Kind, make_progress
from trainer.training import setup
from trainer.training.loop import Loop, Settings
from trainer.training.recorder import Recorder
from trainer.training.saver import Parts
from trainer.training.seen import SeenFrames
from trainer.training.wrapping import notes_on_parts, wrap

COPIES = 4  # times the weights that one save needs at least: weights, Adam's two moments, and `best`
# TensorBoard sorts groups of tags by name; here validation comes first, and training is drawn beside it.
CHARTS = {
    "validation": {name: [f"^val/{name}$"] for name in ("AbsRel", "Acc", "RMSE", "MAE", "LogSI")},
    "training and validation": {
        "loss": ["^train_losses/loss$", "^val_losses/loss$"],
        "AbsRel": ["^train/AbsRel$", "^val/AbsRel$"],
    },
    "learning rates": {"lr": ["^lr/"]},
}


@dataclass
class Run:
    """A run that is ready: its loop, its folder, and notes to print before it starts."""

    loop: Loop
    folder: RunDir
    notes: list[str] = field(default_factory=list)


def build_run(
    cfg: Config,
    folder: RunDir,
    *,
    seed: int,
    hparams: Mapping[str, Any],
    command: Sequence[str] = (),
    progress: Kind = "auto",
    lap: Callable[[str], None] = lambda name: None,
) -> Run:
    """Check and build everything, restore `last` if it exists, and return a loop ready for `fit`.

    Checks that need no other process come before the processes meet, so that each problem is printed once. Raises
    UserError for anything wrong before the first batch. lap: called with the name of each part once it is done.
    """
    setup.set_backends(cfg)
    datasets, seen, notes = _checked_data(cfg, seed)
    lap("data checked")
    objective, start = _with_first_weights(cfg, folder, seed, notes)
    lap("networks built")

    accelerator = setup.build_accelerator(cfg, folder.path)
    lap("Accelerator and process group")
    hparams = {**hparams, **_facts(accelerator, datasets)}
    train_loader, val_loader = _loaders(cfg, datasets, seed, accelerator)
    hparams = {**hparams, **keep_order(accelerator, folder.ckpts, train_loader.batch_sampler)}
    folder.open()  # takes the lock: from here on no other run writes here
    _require_space(cfg, folder, objective, accelerator)
    notes += setup.place(cfg, objective, accelerator)
    optimizer = setup.build_optimizer(cfg, objective)
    settings = _settings(cfg, seed, accelerator.num_processes)
    schedule = setup.build_schedule(cfg, optimizer, settings.steps_per_epoch(train_loader), notes)
    trained = objective, optimizer, schedule
    may_vary = "plugins" in hparams or datasets["train"].groups is not None
    model, prepared = _wrapped(cfg, accelerator, objective, optimizer, train_loader, may_vary, settings.parts, notes)
    lap("optimizer, networks in place")

    checkpointer = Checkpointer(folder.ckpts, hparams, cfg.trainer.monitor, is_main=accelerator.is_main_process)
    state, last = _restore(cfg, checkpointer, accelerator, hparams, trained, notes)
    parts = setup.make_parts(cfg, accelerator, checkpointer, folder, seed, trained, state)
    notes += freezing.without_statistics(objective)
    lap("restored")
    recorder = _start_recorder(cfg, accelerator, folder, parts, progress, settings, train_loader)
    _remember_frames(cfg, seen, start or last, checkpointer, recorder)
    folder.write_hparams({**hparams, "environment": environment(accelerator)}, command)
    folder.write_state("running", state.position, *learned(state.judged, state.position.step))
    lap("trackers")
    loop = Loop(
        accelerator=accelerator,
        parts=parts,
        model=model,
        optimizer=optimizer if accelerator.scaler is None else prepared,  # the wrapper costs 0.2 ms a step
        train_loader=train_loader,
        val_loader=val_loader,
        saver=setup.make_saver(cfg, accelerator, checkpointer, parts, recorder.progress.message),
        run=folder,
        recorder=recorder,
        settings=settings,
    )
    return Run(loop, folder, notes)


def _checked_datasets(cfg: Config, seed: int) -> tuple[dict[str, DepthDataset], list[str]]:
    """Return the datasets, and notes on settings and data. Raises UserError listing every problem of every dataset."""
    modes = ("train", "val") if cfg.trainer.limit_val_batches else ("train",)
    datasets = {mode: build_dataset(cfg, mode, seed) for mode in modes}
    problems = [
        f"dataset ({mode}): {line}"
        for mode, dataset in datasets.items()
        for line in (*dataset.check(), *dataset.label_problems())
    ]
    if problems:
        raise UserError("\n".join(problems))
    said: dict[str, list[str]] = {}  # what several say is printed once
    for mode, dataset in datasets.items():
        for note in (*dataset.left_out(), *dataset.notes()):
            said.setdefault(note, []).append(mode)
    return datasets, [*cfg.warnings, *(f"dataset ({', '.join(by)}): {note}" for note, by in said.items())]


def _checked_data(cfg: Config, seed: int) -> tuple[dict[str, DepthDataset], SeenFrames | None, list[str]]:
    """Return the datasets, on the first process what is seen of them, and notes. Raises UserError, as the checks do."""
    datasets, notes = _checked_datasets(cfg, seed)
    _check_watched(cfg, datasets.get("val"))
    seen = SeenFrames(datasets) if processes.is_first_process() else None
    return datasets, seen, notes + (seen.notes if seen else [])


def _remember_frames(
    cfg: Config, seen: SeenFrames | None, before: TrainedOn | None, checkpointer: Checkpointer, recorder: Recorder
) -> None:
    """Let checkpoints store the frames of this training, and of the one before; weights may not say what they saw."""
    if seen:
        from_files = any(isinstance(options.get("pretrained"), str) for options in cfg.net.values())
        earlier = before or TrainedOn(is_whole=not (cfg.trainer.load_ckpt or from_files))
        checkpointer.trained_on = partial(seen.trained_on, earlier)
        seen.warn = recorder.progress.message


def _check_watched(cfg: Config, val: DepthDataset | None) -> None:
    """Raise UserError for monitors that validation on `val` does not compute, and for trackers that are not there."""
    validated = [name for name in cfg.loss if "views" not in getattr(LOSSES.get(name), "needs", ())]
    check_monitors(_monitors(cfg), validated, val)
    tracking.check_trackers(cfg.trainer.trackers or ())


def check_monitors(monitors: Mapping[str, str | None], loss_names: Iterable[str], val: DepthDataset | None) -> None:
    """Raise UserError when validation on `val` does not compute a number that `monitors` {key: name} names."""
    known = {} if val is None else {"has_depth": val.use_depth, "has_supports": bool(val.supp_idxs)}
    found = {key: monitor_problem(name, loss_names, **known) for key, name in monitors.items() if name}
    if problems := [f"{key}: {problem}" for key, problem in found.items() if problem]:
        raise UserError("\n".join(problems))


def _monitors(cfg: Config) -> dict[str, str | None]:
    stopping = cfg.trainer.early_stopping
    return {
        "trainer.monitor": cfg.trainer.monitor,
        "scheduler.monitor": (cfg.scheduler or {}).get("monitor"),
        "trainer.early_stopping.monitor": None if stopping is None else stopping.monitor,
    }


def _with_first_weights(cfg: Config, folder: RunDir, seed: int, notes: list[str]) -> tuple[Objective, TrainedOn | None]:
    """Build the objective; a new run with `load_ckpt` starts from those weights. Adds to `notes` their file and gaps.

    Returns it, and the frames that the weights were trained on where they are known.
    """
    seed_everything(seed, INITIALISATION)
    if folder.last_path.exists():
        return build_objective(cfg, given=cfg.net), None  # all weights will come from `last`
    if not cfg.trainer.load_ckpt:
        return build_objective(cfg), None
    start = read_pretrained(cfg.trainer.load_ckpt)
    objective = build_objective(cfg, given=start.networks)
    notes += [f"the first weights are those of {start.path}", *start.start(objective, asked=cfg.net)]
    return objective, start.trained_on


def _facts(accelerator: Accelerator, datasets: Mapping[str, DepthDataset]) -> dict[str, Any]:
    """Return what checkpoints keep about the data: what they are known by, and the teacher of their labels."""
    teacher = datasets["train"].label_record()
    known = {mode: _known(accelerator, mode, data) for mode, data in datasets.items()}
    return {"data": known, **({"pseudo": teacher} if teacher else {})}


def _known(accelerator: Accelerator, mode: str, data: DepthDataset) -> dict[str, int | str]:
    """Return what a data set is known by when a run continues. UserError when processes see different ones."""
    number, names = processes.check_same_items(accelerator, len(data), data.describe, f"dataset ({mode})")
    return {"items": number, "first": printable(data.describe(0)) if number else "", "names": f"{names:08x}"}


def _loaders(
    cfg: Config, datasets: Mapping[str, DepthDataset], seed: int, accelerator: Accelerator
) -> tuple[DataLoader, DataLoader | None]:
    place = seed, accelerator.process_index, accelerator.num_processes
    device, limit = accelerator.device.type, cfg.trainer.limit_val_batches
    train = build_loader(cfg, "train", datasets["train"], *place, device=device)
    return train, build_loader(cfg, "val", datasets["val"], *place, limit, device) if limit else None


def _require_space(cfg: Config, folder: RunDir, objective: Objective, accelerator: Accelerator) -> None:
    copies = COPIES + (cfg.trainer.ema is not None) + (cfg.trainer.swa is not None)
    num_bytes = copies * sum(p.numel() * p.element_size() for p in objective.parameters())
    if accelerator.is_main_process:
        require_space(folder.ckpts, num_bytes, "checkpoints")


def _restore(
    cfg: Config,
    checkpointer: Checkpointer,
    accelerator: Accelerator,
    hparams: Mapping[str, Any],
    trained: tuple[Objective, Any, Any],
    notes: list[str],
) -> tuple[TrainState, TrainedOn | None]:
    """Load `last`, if it exists, into `trained` (objective, raw optimizer, scheduler); add notes.

    Returns the state, and the frames that `last` was trained on where it says so.
    """
    saved = checkpointer.load_last_together(accelerator)
    state = TrainState()
    if saved is not None:
        defaults = {f"config.{key}": value for key, value in cfg.defaults().items()}
        notes += check_resume(saved, hparams, allowed=cfg.trainer.resume_training, defaults=defaults)
        check_best(saved, checkpointer.folder / BEST)
        saved.restore(*trained, accelerator.scaler)
        state = saved.state
        if saved.metadata.get("monitor") != cfg.trainer.monitor:
            state.best = state.best_epoch = None  # of another number
        if other := other_validation(saved, hparams):
            notes.append(other)
            state.best = state.best_epoch = None
            state.extra.pop("stopping", None)  # it remembers a best value, too
    start = state.position, state.best, to_digest(hparams), checkpointer.checksum_here(saved)
    processes.check_equal(accelerator, start, "where the run stands and its settings")
    if state.best is not None:
        fault = checkpointer.fault_of_best() if accelerator.is_main_process else None
        if processes.any_process(accelerator, fault is not None):  # a later best is better than none
            notes.append(f"{fault}. The next validated epoch becomes the best so far")
            state.best = state.best_epoch = None
    return state, None if saved is None else saved.trained_on


def _wrapped(
    cfg: Config,
    accelerator: Accelerator,
    objective: Objective,
    optimizer: Any,
    train_loader: DataLoader,
    may_vary: bool,
    parts: int,
    notes: list[str],
) -> tuple[Any, Any]:
    """Return objective and optimizer as Accelerate prepares them; add notes on batches computed in parts."""
    sampler: Any = train_loader.batch_sampler
    notes += notes_on_parts(objective, sampler, parts, cfg.trainer.sync_batchnorm)
    compression = cfg.trainer.gradient_compression
    return wrap(accelerator, objective, optimizer, train_loader, may_vary, parts, compression)


def _settings(cfg: Config, seed: int, world: int) -> Settings:
    trainer = cfg.trainer
    near, far = (0.0, None) if has_free_depth(cfg) else depth_limits(cfg)
    return Settings(
        max_epochs=trainer.max_epochs,
        seed=seed,
        accumulate=trainer.accumulate_grad_batches,
        parts=equal_parts(cfg.loader_kwargs("train")["batch_size"] // world, trainer.micro_batch_size),
        clip_norm=trainer.gradient_clip_val,
        log_every=trainer.log_every_n_steps,
        monitor=trainer.monitor,
        scheduler_monitor=(cfg.scheduler or {}).get("monitor"),
        scheduled_by=(cfg.scheduler or {}).get("by", "epoch"),
        min_depth=near,
        max_depth=math.inf if far is None else far,
        log_images=trainer.log_images,
        log_grad_norm=trainer.log_grad_norm,
        limit_train=trainer.limit_train_batches,
        aspect=None if trainer.aspect_ratio is None else AspectRatios(**trainer.aspect_ratio.model_dump()),
    )


def _start_recorder(
    cfg: Config,
    accelerator: Accelerator,
    folder: RunDir,
    parts: Parts,
    kind: Kind,
    settings: Settings,
    train_loader: DataLoader,
) -> Recorder:
    progress = make_progress(
        kind,
        is_main=accelerator.is_main_process,
        total_epochs=settings.max_epochs,
        steps_per_epoch=settings.steps_per_epoch(train_loader),
        budget=lambda: parts.budget.seconds_left,
    )
    if isinstance(parts.objective.fused, CompiledFormulas):
        parts.objective.fused.warn = progress.message
    first_step = 0 if parts.state.position == Position() else parts.state.position.step + 1
    names = cfg.trainer.trackers or ()
    tracker = tracking.start(accelerator, names, folder.path, first_step=first_step, warn=progress.message)
    tracker.hparams(
        cfg.to_dict(), metrics=[f"best/{settings.monitor}", *(f"val/{name}" for name in VALIDATION_METRICS)]
    )
    tracker.charts(CHARTS)
    limits = {"min_depth": settings.min_depth, "max_depth": settings.max_depth}
    return Recorder(accelerator, tracker, progress, aspect=settings.aspect, **limits)
