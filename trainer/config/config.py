"""The configuration of a run: YAML files in, one checked, read-only object out; all mistakes in one report.

    cfg = load_config("cfg/kitti/monodepth2_MS.yaml", "cfg/kitti/default.yaml", ["trainer.max_epochs=1"])

Later sources win, key by key. `~` removes an entry of `net`, `loss` and `scheduler`, and is null elsewhere.
The order of the merged losses is the order in which they are computed. Nothing is built here.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.crosschecks import crosscheck, offsets
from trainer.config.fields import REQUIRED, Report, fields_of_model
from trainer.config.layers import merge, read_mapping, read_override
from trainer.config.pages import read_page
from trainer.config.resolve import SET_BY_RUN, Registries, Resolved, entry_fields, resolve
from trainer.config.sections import SECTIONS, EvaluationSection, TrainerSection
from trainer.config.slowtv import translate
from trainer.runtime import yaml_text
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import plain

Paths = str | Path | Sequence[str | Path]
Overrides = str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]]


class ConfigError(UserError):
    """Mistakes in a configuration: `problems` lists them, one line each, and the message joins them."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Config:
    """A checked configuration with all defaults filled in. It returns copies, so it never changes.

    Attributes:
        trainer: the keys of `trainer`, as attributes.
        evaluation: the keys of `evaluation`, as attributes; None where a key is not given.
        warnings: settings that are allowed but probably not intended, one line each.
    """

    def __init__(self, resolved: Resolved):
        self._resolved = resolved
        self.trainer = TrainerSection.model_validate(resolved.trainer)
        self.evaluation = EvaluationSection.model_validate(resolved.evaluation)
        self.warnings = tuple(resolved.warnings)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        source: str = "config",
        registries: Registries | None = None,
        *,
        training: bool = True,
    ) -> Config:
        """Check a configuration that `to_dict` returned, as `load_config` does. Raises ConfigError naming `source`."""
        problems: list[str] = []
        return _checked([read_mapping(data, source, problems)], problems, registries, training=training)

    @property
    def net(self) -> dict[str, dict[str, Any]]:
        """Arguments of each network, by name."""
        return copy.deepcopy(self._resolved.net)

    @property
    def loss(self) -> dict[str, dict[str, Any]]:
        """Arguments of each loss, `weight` among them, in the order of evaluation."""
        return copy.deepcopy(self._resolved.loss)

    @property
    def dataset(self) -> dict[str, Any]:
        """The section as in YAML: `type`, the common keys, and the changes of `train`, `val`, `test`."""
        return copy.deepcopy(self._resolved.dataset)

    @property
    def loader(self) -> dict[str, Any]:
        return copy.deepcopy(self._resolved.loader)

    @property
    def optimizer(self) -> dict[str, Any]:
        return copy.deepcopy(self._resolved.optimizer)

    @property
    def scheduler(self) -> dict[str, Any] | None:
        """The section as in YAML; None without a schedule."""
        return copy.deepcopy(self._resolved.scheduler) or None

    @property
    def supp_idxs(self) -> tuple[int, ...]:
        """Frame offsets of the supports in training, 0 = the stereo partner."""
        return offsets(self.dataset_kwargs("train")[1].get("supp_idxs"))

    def dataset_kwargs(self, mode: str) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the dataset of a mode ("train", "val" or "test"). Raises ConfigError without one."""
        if mode not in self._resolved.datasets:
            raise ConfigError(
                [f"dataset.{mode}: the common keys are not enough for this mode; add the missing ones there"]
            )
        return copy.deepcopy(self._resolved.datasets[mode])

    def loader_kwargs(self, mode: str) -> dict[str, Any]:
        """Loader arguments of a mode, with `shuffle`, `drop_last` and `persistent_workers` resolved."""
        return self._resolved.loader_kwargs(mode)

    def optimizer_kwargs(self) -> dict[str, Any]:
        """Arguments of `trainer.training.optim.make_optimizer`."""
        return self.optimizer

    def scheduler_kwargs(self) -> dict[str, Any]:
        """Arguments of `trainer.config.optimizers.make_scheduler`; empty without a schedule."""
        return {key: value for key, value in (self.scheduler or {}).items() if key != "monitor"}

    def defaults(self) -> dict[str, Any]:
        """Defaults of the optional keys, by dotted name ("trainer.ema"), but for those of loaders and schedules."""
        networks, losses, datasets = Registries.installed()
        fields = {name: fields_of_model(SECTIONS[name]) for name in ("trainer", "optimizer")}
        fields |= {f"net.{name}": entry_fields(networks, name) for name in self._resolved.net if name in networks}
        fields |= {f"loss.{name}": entry_fields(losses, name) for name in self._resolved.loss if name in losses}
        if (data := self._resolved.dataset.get("type", "")) in datasets:
            fields["dataset"] = entry_fields(datasets, data, without=SET_BY_RUN)
        found = {f"{section}.{key}": field.default for section, own in fields.items() for key, field in own.items()}
        return {key: default for key, default in found.items() if default is not REQUIRED}

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain data; `from_dict` gives an equal Config back."""
        sections = {f.name: getattr(self._resolved, f.name) for f in dataclasses.fields(Resolved)}
        sections["trainer"] = self.trainer.model_dump()
        data = {name: plain(value) for name, value in sections.items() if name not in ("datasets", "warnings")}
        data["scheduler"] = data["scheduler"] or None
        if not data["evaluation"]:
            del data["evaluation"]  # so that saved configurations of earlier runs stay equal
        return data

    def to_yaml(self) -> str:
        """The whole configuration as YAML text."""
        return yaml_text.dump(self.to_dict())

    def dump(self, path: str | Path) -> None:
        """Write the whole configuration to a YAML file, which `load_config` reads back as an equal Config."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"


def load_config(
    cfg_file: Paths,
    cfg_default: Paths | None = None,
    overrides: Overrides = (),
    *,
    base: Mapping[str, Any] | None = None,
    base_name: str = "base",
    registries: Registries | None = None,
    training: bool = True,
) -> Config:
    """Read, merge and check YAML files.

    Args:
        cfg_file: one file or several, later ones winning; or names of pages that come with the trainer
            ("benchmark/hrdepth_MS").
        cfg_default: files to build on, read first.
        overrides: "section.key=value" texts with YAML values, or a mapping (nested, or with dotted keys);
            they win over the files.
        base: settings below all files, such as the resolved configuration of a checkpoint.
        base_name: the place of `base` in errors.
        registries: of networks, losses and datasets; by default those of this package.
        training: false = leave out the checks that only training needs, of losses, optimizer, schedule, validation.

    Raises ConfigError (a UserError) listing all mistakes, each with file, line, key and the expected value.
    """
    problems: list[str] = []
    files = [*_as_paths(cfg_default), *_as_paths(cfg_file)]
    layers = [read_page(path, problems) for path in files]
    suites = [path for path, layer in zip(files, layers, strict=True) if layer and _lists_pages(layer.data)]
    problems += [f"{p}: is a suite, which lists pages: use `monodepth evaluate --suite {p}`" for p in suites]
    if suites or None in layers:
        raise ConfigError(problems)  # without that file, the others cannot be checked
    label = str(files[-1]) if files else "config"
    if base is not None:
        layers.insert(0, read_mapping(base, base_name, problems))
        label = label if files else base_name
    layers += _read_overrides(overrides, problems)
    return _checked([layer for layer in layers if layer is not None], problems, registries, label, training)


def merge_settings(cfg_file: Paths, overrides: Overrides = ()) -> dict[str, Any]:
    """Merge files and overrides as `load_config` does, unchecked: what they set, without any defaults.

    Mistakes are left for `load_config` to report.
    """
    layers = [read_page(path, []) for path in _as_paths(cfg_file)]
    layers += _read_overrides(overrides, [])
    return dict(merge(layer for layer in layers if layer is not None).data)


def _lists_pages(data: object) -> bool:
    """Whether the content of a page is a suite, as `trainer.evaluation.suite` reads it."""
    return isinstance(data, Mapping) and isinstance(data.get("sets"), list)


def _read_overrides(overrides: Overrides, problems: list[str]) -> list[yaml_text.Layer | None]:
    given = [overrides] if isinstance(overrides, (str, Mapping)) else overrides
    return [
        read_mapping(one, "overrides", problems) if isinstance(one, Mapping) else read_override(one, problems)
        for one in given
    ]


def _checked(
    layers: Sequence[yaml_text.Layer],
    problems: Sequence[str],
    registries: Registries | None,
    label: str | None = None,
    training: bool = True,
) -> Config:
    merged = merge(layers)
    merged.label = label or merged.label
    registries = registries or Registries.installed()
    report = Report(merged, problems)
    report.layer = translate(merged, report, registries.datasets.names())
    resolved = resolve(report, registries)
    crosscheck(resolved, registries.losses, report, training)
    if report.lines:
        raise ConfigError(report.lines)
    return Config(resolved)


def _as_paths(paths: Paths | None) -> list[Path]:
    if paths is None:
        return []
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
