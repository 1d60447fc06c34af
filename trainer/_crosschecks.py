"""What must fit together across sections. Each check states one rule and reports it where the user can mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models_zoo.registry import Registry, did_you_mean
from trainer._resolve import Resolved
from trainer._schema import Report
from trainer._sections import MODES
from trainer._yaml import KeyPath

_STRIDE = 32  # deepest encoder stride: what image sides must be a multiple of
_MIN_SIDE = 64  # reflection padding at stride 32 needs two pixels


@dataclass(frozen=True)
class Facts:
    """What a configuration offers to losses."""

    depth: dict[str, Any]  # arguments of the depth network
    networks: tuple[str, ...]
    supp_idxs: tuple[int, ...]
    use_hints: bool

    @classmethod
    def of(cls, config: Resolved) -> Facts:
        kwargs = config.datasets.get("train", ("", {}))[1]
        return cls(
            depth=config.net.get("depth", {}),
            networks=tuple(config.net),
            supp_idxs=offsets(kwargs.get("supp_idxs")),
            use_hints=bool(kwargs.get("use_hints")),
        )


# Capability that a loss may list in its attribute `needs`: (is it offered?, what to write to offer it).
CAPABILITIES: dict[str, tuple[Callable[[Facts], bool], str]] = {
    "supports": (lambda f: bool(f.supp_idxs), "support frames: set dataset.supp_idxs, e.g. [-1, 1]"),
    "stereo": (lambda f: 0 in f.supp_idxs, "the stereo partner: add 0 to dataset.supp_idxs"),
    "mask": (lambda f: bool(f.depth.get("mask_name")), "a predicted mask: set net.depth.mask_name and net.depth.num_ch_mask"),
    "virtual_stereo": (
        lambda f: bool(f.depth.get("use_virtual_stereo")) and 0 in f.supp_idxs,
        "a virtual stereo view: set net.depth.use_virtual_stereo: true and add 0 to dataset.supp_idxs",
    ),
    "hints": (lambda f: f.use_hints, "depth hints: set dataset.use_hints: true"),
    "autoencoder": (lambda f: "autoencoder" in f.networks, "the network net.autoencoder: add it to net"),
}


def offsets(supp_idxs: Any) -> tuple[int, ...]:
    """Normalise `dataset.supp_idxs` (an int, a list or null) to frame offsets."""
    return () if supp_idxs is None else (supp_idxs,) if isinstance(supp_idxs, int) else tuple(supp_idxs)


def crosscheck(config: Resolved, losses: Registry, report: Report) -> None:
    """Report what does not fit together; add what is merely odd to `config.warnings`."""
    facts = Facts.of(config)
    _presence(config, report)
    if "train" in config.datasets:
        _motion(facts, config, report)
        _sizes(config, report)
    _scales_and_masks(facts, config, report)
    _needs(facts, config, losses, report)
    _depth_range(facts, config, report)
    _workers(config, report)
    _monitors(config, report)


def _presence(config: Resolved, report: Report) -> None:
    given = report.layer.data
    if "depth" not in config.net and not _has(given, "net", "depth"):
        report.wrong(("net", "depth"), "missing; a depth network is what is trained")
    if not config.loss and not any(value is not None for value in (given.get("loss") or {})):
        report.wrong(("loss",), "missing; at least one loss is needed, e.g. img_recon")


def _motion(facts: Facts, config: Resolved, report: Report) -> None:
    """Supports in time need a pose network, the stereo partner does not."""
    frames = [offset for offset in facts.supp_idxs if offset]
    path = ("dataset", "supp_idxs")
    if len(set(facts.supp_idxs)) < len(facts.supp_idxs):
        report.wrong(path, f"{list(facts.supp_idxs)} names a frame twice; remove the repetition")
    if frames and "pose" not in facts.networks and not _has(report.layer.data, "net", "pose"):
        report.wrong(
            path, f"{list(facts.supp_idxs)} has frames in time, whose motion net.pose must predict; add net.pose or use [0]"
        )
    if "pose" in facts.networks and not frames:
        config.warnings.append(f"net.pose is never used: dataset.supp_idxs {list(facts.supp_idxs)} has no frame in time")


def _sizes(config: Resolved, report: Report) -> None:
    for mode, (_, kwargs) in config.datasets.items():
        size = kwargs.get("size")
        if not (isinstance(size, (list, tuple)) and len(size) == 2):
            continue
        path = _mode_path(report, "dataset", mode, "size")
        width, height = size
        if height > width:
            report.wrong(path, f"{[width, height]} is taller than wide; it is [width, height]. Did you mean {[height, width]}?")
        elif any(side < _MIN_SIDE or side % _STRIDE for side in size):
            near = [max(_MIN_SIDE, round(side / _STRIDE) * _STRIDE) for side in size]
            report.wrong(
                path, f"[width, height] must be multiples of {_STRIDE}, at least {_MIN_SIDE}, got {list(size)}. Nearest: {near}"
            )


def _scales_and_masks(facts: Facts, config: Resolved, report: Report) -> None:
    scales = facts.depth.get("out_scales")
    if scales is not None and 0 not in offsets(scales):
        report.wrong(("net", "depth", "out_scales"), f"must contain 0, the full resolution that is evaluated; got {scales}")
    mask, channels = facts.depth.get("mask_name"), facts.depth.get("num_ch_mask")
    if mask and "train" in config.datasets and channels != len(facts.supp_idxs):
        report.wrong(
            ("net", "depth", "num_ch_mask"),
            f"a mask has one channel per support frame: expected {len(facts.supp_idxs)} for dataset.supp_idxs"
            f" {list(facts.supp_idxs)}, got {'null' if channels is None else channels}",
        )
    for name, kwargs in config.loss.items():
        wanted = kwargs.get("mask_name")
        if wanted and "depth" in config.net and wanted != mask:
            report.wrong(
                ("loss", name, "mask_name"), f"{wanted!r} must be what net.depth.mask_name is, which is {mask or 'null'}"
            )


def _needs(facts: Facts, config: Resolved, losses: Registry, report: Report) -> None:
    for name in config.loss:
        for need in sorted(getattr(losses.get(name), "needs", ())):
            if need not in CAPABILITIES:
                report.wrong(("loss", name), f"needs {need!r}, which no configuration offers. {did_you_mean(need, CAPABILITIES)}")
                continue
            offered, how = CAPABILITIES[need]
            if not offered(facts):
                report.wrong(("loss", name), f"needs {how}; or remove the loss with `{name}: ~`")


def _depth_range(facts: Facts, config: Resolved, report: Report) -> None:
    near, far = config.trainer.get("min_depth"), config.trainer.get("max_depth")
    if near is None:
        return
    if near <= 0:
        report.wrong(("trainer", "min_depth"), f"expected a number > 0, got {near:g}")
    elif far is not None and far <= near:
        report.wrong(("trainer", "max_depth"), f"expected a number > min_depth ({near:g}), or null; got {far:g}")
    if near >= 1 and 0 not in facts.supp_idxs:
        config.warnings.append(
            f"trainer.min_depth {near:g} with monocular supports: depth is in units of the network's choice, near 1, so the"
            " disparity may saturate and the depth become a constant; 0.1 is usual"
        )


def _workers(config: Resolved, report: Report) -> None:
    for mode in MODES:
        kwargs = config.loader_kwargs(mode)
        for key in ("persistent_workers", "prefetch_factor", "timeout"):
            if kwargs.get(key) and kwargs.get("num_workers") == 0:
                path = _mode_path(report, "loader", mode, key)
                report.wrong(path, f"{kwargs[key]} needs workers; set loader.num_workers to 1 or more, or remove it")


def _monitors(config: Resolved, report: Report) -> None:
    """What is watched must be computed: `best` or the schedule would otherwise fail after the first epoch."""
    from trainer.metrics.validation import VALIDATION_METRICS

    tracked = [*VALIDATION_METRICS, "loss", *(f"loss_{name}" for name in config.loss)]
    validates = config.trainer.get("limit_val_batches", 0) > 0
    with_depth = config.datasets.get("val", ("", {}))[1].get("use_depth", True)
    watched: list[tuple[KeyPath, Any]] = [(("trainer", "monitor"), config.trainer.get("monitor"))]
    if config.scheduler.get("type") == "plateau":
        watched.append((("scheduler", "monitor"), config.scheduler.get("monitor")))
        if config.trainer and not validates:
            report.wrong(("scheduler", "type"), "plateau needs validation; set trainer.limit_val_batches above 0")
    for path, name in watched:
        if name is None:
            continue
        if name not in tracked:
            report.wrong(path, f"{name!r} is not a number of the validation. {did_you_mean(name, tracked)}")
        elif name in VALIDATION_METRICS and validates and not with_depth:
            report.wrong(
                path, f"{name} needs true depth, but use_depth is false for val; set dataset.val.use_depth: true, or watch loss"
            )


def _has(data: Any, section: str, key: str) -> bool:
    """True when the key is there and not null, right or wrong: what is wrong has its own line already."""
    entries = data.get(section)
    return isinstance(entries, dict) and entries.get(key) is not None


def _mode_path(report: Report, section: str, mode: str, key: str) -> KeyPath:
    """Where a key of a mode stands: in the mode's own mapping, or among the common keys."""
    own = report.layer.data.get(section, {}).get(mode)
    return (section, mode, key) if isinstance(own, dict) and key in own else (section, key)
