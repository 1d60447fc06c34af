"""Checks across sections: one rule each, reported where it can be fixed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from models_zoo.registry import Registry, did_you_mean
from trainer.config.fields import Report, show
from trainer.config.resolve import Resolved
from trainer.config.sections import MODES
from trainer.losses.needs import NEEDS, Facts
from trainer.runtime.yaml_text import KeyPath

_STRIDE = 32  # deepest encoder stride, of which image sides must be multiples
_MIN_SIDE = 64  # reflection padding at stride 32 needs two pixels


def facts_of(config: Resolved, report: Report) -> Facts | None:
    """Return what a configuration offers to losses; None when the dataset is wrong, to avoid follow-up reports."""
    kwargs = config.datasets.get("train", ("", {}))[1]
    refused = "supp_idxs" not in kwargs and _has(report, *_mode_path(report, "dataset", "train", "supp_idxs"))
    if "train" not in config.datasets or refused:
        return None
    depth = config.net.get("depth", {})
    return Facts(
        networks=tuple(config.net),
        losses=tuple(config.loss),
        supp_idxs=offsets(kwargs.get("supp_idxs")),
        mask_name=depth.get("mask_name"),
        virtual_stereo=bool(depth.get("use_virtual_stereo")),
        use_hints=bool(kwargs.get("use_hints")),
    )


def offsets(supp_idxs: Any) -> tuple[int, ...]:
    """Normalise `dataset.supp_idxs` (an int, a list or null) to frame offsets."""
    return () if supp_idxs is None else (supp_idxs,) if isinstance(supp_idxs, int) else tuple(supp_idxs)


def crosscheck(config: Resolved, losses: Registry, report: Report) -> None:
    """Report sections that do not fit together; add merely odd settings to `config.warnings`."""
    _presence(config, report)
    if facts := facts_of(config, report):
        _motion(facts, config, report)
        _masks(facts, config, report)
        _unmet(facts, config, losses, report)
        _untrained(facts, config, losses)
    _sizes(config, report)
    _depth_range(facts, config, report)
    _workers(config, report)
    _monitors(config, report)
    _unvalidated(config, report)
    _averages(config, report)
    _anomalies(config, report)
    _trackers(config, report)


def _presence(config: Resolved, report: Report) -> None:
    """A wrong entry counts as present, because it has been reported."""
    if not _has(report, "net", "depth"):
        report.wrong(("net", "depth"), "missing; a depth network is what is trained")
    losses = report.layer.data.get("loss") or {}
    if isinstance(losses, dict) and not any(_has(report, "loss", name) for name in losses):
        report.wrong(("loss",), "missing; at least one loss is needed, e.g. img_recon")


def _motion(facts: Facts, config: Resolved, report: Report) -> None:
    """Supports in time need a pose network, the stereo partner does not."""
    frames = [offset for offset in facts.supp_idxs if offset]
    path = ("dataset", "supp_idxs")
    if len(set(facts.supp_idxs)) < len(facts.supp_idxs):
        report.wrong(path, f"{list(facts.supp_idxs)} names a frame twice; remove the repetition")
    if frames and not _has(report, "net", "pose"):
        lack = "has frames in time, whose motion net.pose must predict; add net.pose or use [0]"
        report.wrong(path, f"{list(facts.supp_idxs)} {lack}")
    if facts.virtual_stereo and facts.supp_idxs and 0 not in facts.supp_idxs:
        report.wrong(
            ("net", "depth", "use_virtual_stereo"),
            "predicts the view of the stereo partner, which is not among dataset.supp_idxs"
            f" {list(facts.supp_idxs)}; add 0 to them, or set it to false",
        )
    if "pose" in facts.networks and not frames:
        unused = f"dataset.supp_idxs {list(facts.supp_idxs)} has no frame in time"
        config.warnings.append(f"net.pose is never used: {unused}")


def _sizes(config: Resolved, report: Report) -> None:
    for mode, (_, kwargs) in config.datasets.items():
        size = kwargs.get("size")
        if not (isinstance(size, (list, tuple)) and len(size) == 2):
            continue
        path = _mode_path(report, "dataset", mode, "size")
        width, height = size
        if height > width:
            order = f"the order is [width, height]. Did you mean {[height, width]}?"
            report.wrong(path, f"{[width, height]} is taller than wide; {order}")
        elif any(side < _MIN_SIDE or side % _STRIDE for side in size):
            near = [max(_MIN_SIDE, round(side / _STRIDE) * _STRIDE) for side in size]
            rule = f"[width, height] must be multiples of {_STRIDE}, at least {_MIN_SIDE}"
            report.wrong(path, f"{rule}; got {list(size)}. Nearest: {near}")


def _masks(facts: Facts, config: Resolved, report: Report) -> None:
    mask, channels = facts.mask_name, config.net.get("depth", {}).get("num_ch_mask")
    if mask and channels and facts.supp_idxs and channels != len(facts.supp_idxs):
        report.wrong(
            ("net", "depth", "num_ch_mask"),
            f"a mask has one channel per support frame: expected {len(facts.supp_idxs)} for dataset.supp_idxs"
            f" {list(facts.supp_idxs)}, got {channels}",
        )
    for name, kwargs in config.loss.items():
        wanted = kwargs.get("mask_name")
        refused = mask is None and _has(report, "net", "depth", "mask_name")
        if wanted and "depth" in config.net and wanted != mask and not refused:
            have = show(mask)
            report.wrong(
                ("loss", name, "mask_name"), f"{wanted!r} must equal net.depth.mask_name, which is {have}"
            )


def _unmet(facts: Facts, config: Resolved, losses: Registry, report: Report) -> None:
    facts = replace(facts, networks=(*facts.networks, "pose"))  # `_motion` reports when it is missing
    for name, kwargs in config.loss.items():
        for need in sorted(_needs_of(losses.get(name), kwargs)):
            if need not in NEEDS:
                known = did_you_mean(need, NEEDS)
                report.wrong(("loss", name), f"needs {need!r}, which no configuration offers. {known}")
                continue
            if need == "mask" and kwargs.get("mask_name"):
                continue  # reported at that key
            offered, how = NEEDS[need]
            if not offered(facts):
                report.wrong(("loss", name), f"needs {how}; or remove the loss with `{name}: ~`")


def _needs_of(loss: Any, kwargs: dict[str, Any]) -> Iterable[str]:
    """Return what a loss needs with these arguments, by its class method `needs_with` or its attribute `needs`."""
    needs_with = getattr(loss, "needs_with", None)
    if needs_with is not None:
        wanted: Iterable[str] = needs_with({key: value for key, value in kwargs.items() if key != "weight"})
        return wanted
    return getattr(loss, "needs", ())


def _untrained(facts: Facts, config: Resolved, losses: Registry) -> None:
    """Warn about networks and masks that no loss uses."""
    needed = {need for name, kwargs in config.loss.items() for need in _needs_of(losses.get(name), kwargs)}
    if facts.mask_name and not needed & {"mask", "explainability"}:
        config.warnings.append("net.depth.mask_name: no loss uses the mask, so it is never trained")
    if "autoencoder" in facts.networks and "autoencoder" not in needed:
        config.warnings.append(
            "net.autoencoder: no loss trains it (autoenc_recon, feat_peaky, feat_smooth do)"
        )
    if "pose" in facts.networks and any(facts.supp_idxs) and "supports" not in needed:
        config.warnings.append("net.pose: no loss compares with the supports, so it is never trained")


def _depth_range(facts: Facts | None, config: Resolved, report: Report) -> None:
    near, far = config.trainer.get("min_depth"), config.trainer.get("max_depth")
    if near is None:
        return
    if near <= 0:
        report.wrong(("trainer", "min_depth"), f"expected a number > 0, got {near:g}")
    elif far is not None and far <= near:
        wanted = f"expected a number > min_depth ({near:g}), or null"
        report.wrong(("trainer", "max_depth"), f"{wanted}; got {far:g}")
    if near >= 1 and facts and 0 not in facts.supp_idxs:
        config.warnings.append(
            f"trainer.min_depth {near:g} without stereo: depth is in units of the network's choice, so the"
            " disparity may saturate and the depth become a constant; 0.1 is usual"
        )


def _workers(config: Resolved, report: Report) -> None:
    for mode in MODES:
        kwargs = config.loader_kwargs(mode)
        for key in ("persistent_workers", "prefetch_factor", "timeout"):
            if kwargs.get(key) and kwargs.get("num_workers") == 0:
                path = _mode_path(report, "loader", mode, key)
                fix = "set loader.num_workers to 1 or more, or remove it"
                report.wrong(path, f"{show(kwargs[key])} needs workers; {fix}")


def _monitors(config: Resolved, report: Report) -> None:
    """A monitored number must be computed; otherwise the run would fail after the first epoch."""
    from trainer.metrics.validation import VALIDATION_METRICS

    tracked = [*VALIDATION_METRICS, "loss", *(f"loss_{name}" for name in config.loss)]
    validates = config.trainer.get("limit_val_batches", 0) > 0
    with_depth = config.datasets.get("val", ("", {}))[1].get("use_depth", True)
    watched: list[tuple[KeyPath, Any]] = [(("trainer", "monitor"), config.trainer.get("monitor"))]
    if config.scheduler.get("type") == "plateau":
        watched.append((("scheduler", "monitor"), config.scheduler.get("monitor")))
        if config.trainer and not validates:
            fix = "set trainer.limit_val_batches above 0"
            report.wrong(("scheduler", "type"), f"plateau needs validation; {fix}")
    for path, name in watched:
        if name is None:
            continue
        if name not in tracked:
            report.wrong(path, f"{name!r} is not a number of the validation. {did_you_mean(name, tracked)}")
        elif name in VALIDATION_METRICS and validates and not with_depth:
            fix = "set dataset.val.use_depth: true, or watch loss"
            report.wrong(path, f"{name} needs true depth, but use_depth is false for val; {fix}")


def _unvalidated(config: Resolved, report: Report) -> None:
    """Features that need validation do nothing without it."""
    if config.trainer.get("limit_val_batches", 1):
        return
    for key, what in (
        ("early_stopping", "waits for a number of the validation"),
        ("ema", "is used in validation and for `best` alone"),
        ("swa", "is used in validation and for `best` alone"),
    ):
        if config.trainer.get(key):
            fix = f"set trainer.limit_val_batches above 0, or {key}: ~"
            report.wrong(("trainer", key), f"{what}, and nothing is validated; {fix}")


def _averages(config: Resolved, report: Report) -> None:
    swa, epochs = config.trainer.get("swa"), config.trainer.get("max_epochs")
    if not swa or epochs is None or "start" not in swa:
        return
    start, path = swa["start"], ("trainer", "swa", "start")
    if start >= 1 and start != int(start):
        report.wrong(
            path, f"expected a share of the epochs below 1, or a whole number of them; got {start:g}"
        )
    elif start >= epochs:
        report.wrong(path, f"{start:g} is never reached with trainer.max_epochs: {epochs}; set it lower")
    elif start == 0 and config.trainer.get("ema"):
        config.warnings.append(
            "trainer.ema is never used: the mean of trainer.swa takes over in the first epoch"
        )


def _anomalies(config: Resolved, report: Report) -> None:
    if config.trainer.get("detect_anomaly") and config.trainer.get("nonfinite") == "skip":
        report.wrong(
            ("trainer", "detect_anomaly"),
            "ends the run at the first NaN in a gradient, which trainer.nonfinite: skip would skip; unset one of them",
        )


def _trackers(config: Resolved, report: Report) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in config.trainer.get("trackers", ()):
        if name not in LOGGER_TYPE_TO_CLASS:
            known = did_you_mean(name, LOGGER_TYPE_TO_CLASS)
            report.wrong(("trainer", "trackers"), f"{name!r} is not a tracker. {known}")


def _mode_path(report: Report, section: str, mode: str, key: str) -> KeyPath:
    """Return the place of a key: below the mode if given there, else among the common keys."""
    return (section, mode, key) if _has(report, section, mode, key) else (section, key)


def _has(report: Report, *path: str) -> bool:
    """Return whether the user gave the key a value, valid or not."""
    node = report.layer.data
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node is not None
