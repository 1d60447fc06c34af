"""From merged YAML to checked values, section by section; mistakes become lines of the report."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models_zoo.registry import Registry, did_you_mean
from trainer.config.fields import REQUIRED, Field, Report, check, fields_of_model, fields_of_parameters, show
from trainer.config.optimizers import check_optimizer, check_scheduler
from trainer.config.sections import MODES, SECTION_NAMES, SECTIONS, ByEpoch, LoaderSection, NotNegative
from trainer.runtime.yaml_text import KeyPath

SET_BY_RUN = ("seed",)  # dataset arguments that the command line sets
LOSS_EXTRA = {
    "weight": Field(
        NotNegative | ByEpoch, 1.0, "factor of this loss in the total; {0: 0.9, 15: 0.95} = another from epoch 15 on"
    )
}


class SizeRule(NamedTuple):
    """What the sides of pictures have to be: multiples of `step` from `least` to `most`, in pixels."""

    step: int = 32  # deepest encoder stride
    least: int = 64  # reflection padding at stride 32 needs two pixels
    most: int = 8192

    @classmethod
    def of(cls, net: Mapping[str, Mapping[str, Any]]) -> SizeRule:
        """Return the rule for the section `net`: any size of two patches where a decoder of tokens is all there is."""
        from models_zoo.depth import with_trait

        decoder = net.get("depth", {}).get("dec_name")
        return cls(1, 28) if set(net) == {"depth"} and decoder in with_trait("reads_tokens") else cls()

    def allows(self, size: Sequence[int]) -> bool:
        return all(self.least <= side <= self.most and side % self.step == 0 for side in size)

    def nearest(self, size: Sequence[int]) -> list[int]:
        """Return the allowed [width, height] near a size, which may be given as height and width."""
        sides = sorted(size, reverse=True)
        return [min(max(self.least, round(side / self.step) * self.step), self.most) for side in sides]


class Registries(NamedTuple):
    """The registries of the sections `net`, `loss` and `dataset`."""

    networks: Registry
    losses: Registry
    datasets: Registry

    @classmethod
    def installed(cls) -> Registries:
        from models_zoo import NETWORKS
        from trainer.data import DATASETS
        from trainer.losses import LOSSES

        return cls(NETWORKS, LOSSES, DATASETS)


@dataclass
class Resolved:
    """Checked values. Sections are as in YAML; `datasets` holds the arguments per mode."""

    net: dict[str, dict[str, Any]] = field(default_factory=dict)
    loss: dict[str, dict[str, Any]] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)  # only the keys that are given
    warnings: list[str] = field(default_factory=list)

    def loader_kwargs(self, mode: str) -> dict[str, Any]:
        """Loader arguments of one mode, with defaults that depend on others."""
        kwargs = {k: v for k, v in self.loader.items() if k not in MODES} | (self.loader.get(mode) or {})
        for key in ("shuffle", "drop_last"):
            if kwargs.get(key) is None:
                kwargs[key] = mode == "train"
        if kwargs.get("persistent_workers") is None:
            kwargs["persistent_workers"] = kwargs.get("num_workers", 0) != 0
        return kwargs


def resolve(report: Report, registries: Registries) -> Resolved:
    """Check every section of `report.layer`; return valid values and report the others."""
    for name in report.layer.data:
        if name not in SECTION_NAMES:
            report.unknown((name,), "a section", SECTION_NAMES)
    out = Resolved()
    out.net = _entries("net", registries.networks, report, {})
    out.loss = _entries("loss", registries.losses, report, LOSS_EXTRA)
    out.datasets, out.dataset = _dataset(registries.datasets, report, out.net)
    out.loader = _loader(report)
    out.optimizer = check_optimizer(_section("optimizer", report), report, out.warnings)
    out.scheduler = check_scheduler(_section("scheduler", report), report)
    out.trainer = _own("trainer", report)
    out.evaluation = _own("evaluation", report, partial=True)
    out.warnings += report.dropped.values()
    return out


def entry_fields(registry: Registry, name: str, without: tuple[str, ...] = ()) -> dict[str, Field]:
    """Fields of one registry entry, explained by the docstrings of its class and bases."""
    entry = registry.get(name)
    docs = "\n\n".join(inspect.getdoc(cls) or "" for cls in getattr(entry, "__mro__", (entry,)))
    parameters = {key: p for key, p in registry.parameters(name).items() if key not in without}
    return fields_of_parameters(parameters, docs)


def summary_of(entry: Any) -> str:
    """Return the first paragraph of a docstring, without citations at its end, which `source` repeats."""
    paragraph = " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
    sentences = re.split(r"(?<=[.;]) (?=[A-Za-z])", paragraph)
    while len(sentences) > 1 and "arXiv:" in sentences[-1]:
        sentences.pop()
    return " ".join(sentences).rstrip(";")


def _section(name: str, report: Report) -> dict[str, Any]:
    return _mapping(report.layer.data.get(name), (name,), report)


def _own(name: str, report: Report, partial: bool = False) -> dict[str, Any]:
    fields, data = fields_of_model(SECTIONS[name]), _section(name, report)
    return check(fields, data, (name,), f"a key of {name}", report, partial=partial)


def _mapping(value: Any, path: KeyPath, report: Report) -> dict[str, Any]:
    """Copy a mapping; null gives an empty one, and anything else is reported."""
    if isinstance(value, Mapping):
        return dict(value)
    if value is not None:
        report.wrong(path, f"expected a mapping of keys, got {show(value)}")
    return {}


def _split_modes(section: str, report: Report) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Separate the common keys of a section from those of its modes."""
    data = _section(section, report)
    common = {key: value for key, value in data.items() if key not in MODES}
    return common, {mode: _mapping(data[mode], (section, mode), report) for mode in MODES if data.get(mode) is not None}


def _entries(section: str, registry: Registry, report: Report, extra: Mapping[str, Field]) -> dict[str, dict[str, Any]]:
    """Check a section whose keys are names of registry entries; null removes an entry."""
    entries = {}
    for name, kwargs in _section(section, report).items():
        path = (section, name)
        if name not in registry:
            report.unknown(path, f"a {registry.kind}", registry.names())
        elif kwargs is not None:
            fields = {**extra, **entry_fields(registry, name)}
            before = len(report.lines)
            entries[name] = check(fields, kwargs, path, f"an argument of {registry.kind} {name!r}", report)
            if len(report.lines) == before:
                own = {key: value for key, value in entries[name].items() if key not in extra}
                _validate_entry(registry.get(name), own, path, {}, report)
    return entries


def _validate_entry(
    entry: Any, kwargs: dict[str, Any], path: KeyPath, paths: Mapping[str, KeyPath], report: Report
) -> None:
    """Report the problems that the class method `validate_config(kwargs)` of an entry returns.

    A problem that starts with the name of an argument ("dec_name 'x' is not ...") is reported at its place.
    """
    validate: Callable[..., list[str]] = getattr(entry, "validate_config", lambda _: [])
    for problem in validate(copy.deepcopy(kwargs)):
        key = problem.split(" ", 1)[0].rstrip(":")
        if key in kwargs:
            place = paths.get(key, (*path, key))
            report.add(place, f"{'.'.join(place)}{problem.removeprefix(key)}")
        else:
            report.wrong(path, problem)


def _dataset_fields(registry: Registry, name: str, net: Mapping[str, Any]) -> dict[str, Field]:
    """Fields of a dataset; its size is told what the networks take."""
    fields = entry_fields(registry, name, without=SET_BY_RUN)
    if "size" in fields:
        fields["size"] = dataclasses.replace(fields["size"], nearest=lambda size: SizeRule.of(net).nearest(size))
    return fields


def _dataset(
    registry: Registry, report: Report, net: Mapping[str, Any]
) -> tuple[dict[str, tuple[str, dict[str, Any]]], dict[str, Any]]:
    """Check the keys of each mode merged over the common ones; return arguments per mode, and the section."""
    common, own = _split_modes("dataset", report)
    modes: dict[str, tuple[str, dict[str, Any]]] = {}
    for mode in MODES:
        # Without keys of its own, `test` may be incomplete: this is reported when it is used.
        asked = mode != "test" or mode in own
        judge = report if asked else Report(report.layer)
        checked = _dataset_mode(mode, {**common, **own.get(mode, {})}, own.get(mode, {}), registry, judge, net)
        if checked and (asked or not judge.lines):
            modes[mode] = checked
    types = {name for name, _ in modes.values()}
    if len(types) != 1:  # each mode has its own class and defaults
        asked_for = {mode: modes[mode] for mode in modes if mode != "test" or mode in own}
        return modes, {**common, **{mode: {"type": name, **kwargs} for mode, (name, kwargs) in asked_for.items()}}
    (name,) = types
    fields = _dataset_fields(registry, name, net)
    given = {key: value for key, value in common.items() if key != "type"}
    owner = f"an argument of {registry.kind} {name!r}"
    values = check(fields, given, ("dataset",), owner, report, also=("type", *MODES), partial=True)
    unset = [key for key in fields if key not in ("mode", *values)]
    defaults = {key: fields[key].default for key in unset if fields[key].default is not REQUIRED}
    used = {mode: (keys, modes[mode][1]) for mode, keys in own.items() if mode in modes}
    subs = {mode: {key: kwargs[key] for key in keys if key in kwargs} for mode, (keys, kwargs) in used.items()}
    return modes, {"type": name, **values, **defaults, **subs}


def _dataset_mode(
    mode: str,
    merged: dict[str, Any],
    own: Mapping[str, Any],
    registry: Registry,
    report: Report,
    net: Mapping[str, Any],
) -> tuple[str, dict[str, Any]] | None:
    """Check the arguments of one mode; None for an unknown class."""
    paths: dict[str, KeyPath] = {key: ("dataset", mode, key) for key in own}
    name = merged.pop("type", None)
    if not isinstance(name, str) or name not in registry:
        what = "missing" if name is None else f"{show(name)} is not a {registry.kind}"
        report.wrong(paths.get("type", ("dataset", "type")), f"{what}. {did_you_mean(name or '', registry.names())}")
        return None
    fields = _dataset_fields(registry, name, net)
    if "mode" in fields:
        fields["mode"] = dataclasses.replace(fields["mode"], default=mode)
    before = len(report.lines)
    owner = f"an argument of {registry.kind} {name!r}"
    values = check(fields, merged, ("dataset",), owner, report, paths=paths, also=("type", *MODES))
    if len(report.lines) == before:
        _validate_entry(registry.get(name), values, ("dataset",), paths, report)
    return name, values


def _loader(report: Report) -> dict[str, Any]:
    fields, owner = fields_of_model(LoaderSection), "a key of loader"
    common, own = _split_modes("loader", report)
    loader = check(fields, common, ("loader",), owner, report, also=MODES)
    for mode, keys in own.items():
        loader[mode] = check(fields, keys, ("loader", mode), owner, report, partial=True)
    return loader
