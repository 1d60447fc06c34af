"""The catalogue: everything that a configuration chooses by name, with its source, arguments and needs.

It is read from the registries. `trainer.commands.list` lays it out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models_zoo.registry import Registry, did_you_mean
from trainer.config.fields import REQUIRED, Field, choices_of
from trainer.config.optimizers import OFTEN_USED, SCHEDULERS, scheduler_fields
from trainer.config.resolve import LOSS_EXTRA, SET_BY_RUN, Registries, entry_fields, summary_of
from trainer.losses.needs import NEEDS
from trainer.runtime.errors import UserError

# Class attributes of decoders, and what they mean.
TRAITS = {
    "supports_mask": "predicts masks",
    "supports_init": "starts from net.depth.init_disp",
    "supports_no_skip": "works without skips (autoencoder)",
}
# torch's schedules (summary, paper), and their arguments.
SCHEDULES = {
    "steplr": ("Multiply the rate by `gamma` every `step_size` epochs.", ""),
    "exp": ("Multiply the rate by `gamma` every epoch.", ""),
    "cos": ("Lower the rate along half a cosine, once.", "SGDR, arXiv:1608.03983"),
    "cos_warm": ("Lower the rate along half a cosine, again and again.", "SGDR, arXiv:1608.03983"),
    "plateau": ("Multiply the rate by `factor` when the number `monitor` has stopped improving.", ""),
    "linear": ("Change the rate in equal steps, as a warm-up.", ""),
}
SCHEDULE_ARGUMENTS = {
    "step_size": "epochs between drops",
    "gamma": "factor of a drop",
    "T_max": "epochs to the minimum; null = the whole run",
    "T_0": "epochs to the first restart",
    "T_mult": "how many times longer each period is than the one before",
    "eta_min": "lowest rate",
    "mode": "min: smaller is better; max: larger is better",
    "factor": "factor of a drop",
    "patience": "epochs without improvement before a drop",
    "threshold": "least change that counts as an improvement",
    "threshold_mode": "rel: the threshold is a share of the best value; abs: it is a difference",
    "cooldown": "epochs after a drop before stalls count again",
    "min_lr": "lowest rate, of all parameters or of each group",
    "eps": "smaller changes of the rate are left out",
    "start_factor": "factor of the rate in the first epoch",
    "end_factor": "factor of the rate at the end",
    "total_iters": "epochs from the first to the last factor",
}
VALIDATION = {
    "MAE": "Mean absolute error of depth, metres.",
    "RMSE": "Root of the mean squared error of depth, metres.",
    "LogSI": "Scale-invariant error: deviation of the difference of log depths, ln m.",
    "AbsRel": "Mean absolute error relative to the truth, a fraction.",
    "Acc": "Share of pixels less than 1.25 times off, a fraction; larger is better.",
}


@dataclass(frozen=True)
class Entry:
    """One name of a configuration."""

    key: str  # "loss.img_recon"
    summary: str
    source: str
    fields: Mapping[str, Field] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)  # "needs", "also called", ...
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.key.partition(".")[2], *self.aliases)


@dataclass(frozen=True)
class Chapter:
    """All entries of one kind."""

    titles: tuple[str, ...]  # "networks" and synonyms
    intro: str  # where a YAML file names them
    entries: tuple[Entry, ...] = ()


def catalogue(registries: Registries | None = None) -> list[Chapter]:
    """Read the registries, by default those of this package, with the entries of plugins."""
    from models_zoo.decoders import DECODERS
    from models_zoo.encoders import ENCODERS
    from models_zoo.weights import FORMATS
    from trainer.metrics import METRICS

    networks, losses, datasets = registries or Registries.installed()
    return [
        _chapter("networks", "net", "YAML: `net.<name>: {...}`", networks),
        _chapter(
            "encoders",
            "encoder",
            "YAML: `net.depth.enc_name: <name>`, arguments in `net.depth.enc_options: {...}`, and so in `net.pose`; the"
            " network gives `in_chans`. Beside them, every model of timm that has feature maps",
            ENCODERS,
        ),
        _chapter(
            "decoders", "decoder", "YAML: `net.depth.dec_name: <name>`; the network gives the arguments", DECODERS
        ),
        _chapter(
            "losses", "loss", "YAML: `loss.<name>: {...}`; `~` removes one that an earlier file has", losses, LOSS_EXTRA
        ),
        _chapter("datasets", "dataset", "YAML: `dataset.type: <name>`, arguments beside it", datasets),
        _schedulers(),
        Chapter(
            ("optimizers", "optimizer"),
            "YAML: `optimizer.type: <name>`, arguments beside it: any optimizer of timm. Often used: "
            f"{', '.join(OFTEN_USED)}. All: `timm.optim.list_optimizers()`",
        ),
        _validation_metrics(),
        _chapter("metric sets", "metrics", "`monodepth evaluate --metrics <name>`", METRICS),
        _chapter("weight formats", "weights", "`monodepth convert SRC DST` recognises them by itself", FORMATS),
    ]


def select(chapters: Sequence[Chapter], queries: Iterable[str]) -> list[Chapter]:
    """Select by titles ("losses"), kinds ("loss"), keys ("loss.img_recon") or names; without a query, everything.

    Raises UserError naming the nearest match of an unknown query.
    """
    asked = list(queries)
    if not asked:
        return list(chapters)
    for query in asked:
        if not any(query in c.titles or any(_matches(query, c, e) for e in c.entries) for c in chapters):
            raise UserError(_unknown(query, chapters))
    kept = [replace(c, entries=tuple(e for e in c.entries if any(_matches(q, c, e) for q in asked))) for c in chapters]
    return [chapter for chapter in kept if chapter.entries or set(asked) & {*chapter.titles}]


def default_of(field: Field) -> str:
    """Return the default of an argument as YAML has it, or "required"."""
    if field.default is REQUIRED:
        return "required"
    return field.default if isinstance(field.default, str) else json.dumps(field.default, default=str)


def common_fields(entries: Sequence[Entry]) -> dict[str, Field]:
    """Return the arguments that several entries share, with the same meaning."""
    if len(entries) < 2:
        return {}
    first, *others = entries
    return {n: f for n, f in first.fields.items() if all(entry.fields.get(n) == f for entry in others)}


def _chapter(
    title: str, kind: str, intro: str, registry: Registry, extra: Mapping[str, Field] | None = None
) -> Chapter:
    """Describe the entries of a registry; several names of a class are one entry."""
    names: dict[int, list[str]] = {}
    for name in registry.names():
        names.setdefault(id(registry.get(name)), []).append(name)
    entries = [_entry(kind, registry, same, extra or {}) for same in names.values()]
    return Chapter((title, registry.kind, kind), intro, tuple(entries))


def _entry(kind: str, registry: Registry, names: Sequence[str], extra: Mapping[str, Field]) -> Entry:
    entry = registry.get(names[0])
    fields = {**extra, **entry_fields(registry, names[0], without=SET_BY_RUN)}
    facts = {
        "also called": ", ".join(names[1:]),
        "needs": needs_of(entry, fields),
        "traits": "; ".join(text for trait, text in TRAITS.items() if getattr(entry, trait, False)),
        "numbers": ", ".join(metric.key for metric in getattr(entry, "metrics", ())),
        "file": _file(entry),
    }
    facts = {name: text for name, text in facts.items() if text}
    source = getattr(entry, "source", "")
    return Entry(f"{kind}.{names[0]}", summary_of(entry), source, fields, facts, tuple(names[1:]))


def needs_of(entry: Any, fields: Mapping[str, Field]) -> str:
    """Describe what a loss needs: always, and with certain values of its arguments."""
    if not hasattr(entry, "needs"):
        return ""
    needs_with = getattr(entry, "needs_with", lambda _: entry.needs)
    problems: Callable[[Any], list[str]] = getattr(entry, "validate_config", lambda _: [])
    defaults = {name: f.default for name, f in fields.items() if name not in LOSS_EXTRA}
    always = needs_with(defaults)
    when: dict[str, list[str]] = {}  # need -> arguments that cause it
    for name in defaults:
        for choice in choices_of(fields[name].annotation):
            kwargs = {**defaults, name: choice}
            for need in () if problems(kwargs) else sorted(needs_with(kwargs) - always):
                when.setdefault(need, []).append(f"{name}={default_of(Field(Any, choice))}")
    together: dict[str, list[str]] = {}
    for need, arguments in when.items():
        together.setdefault(" or ".join(arguments), []).append(_capability(need))
    needs = [*map(_capability, sorted(always)), *(f"with {a} {', '.join(n)}" for a, n in together.items())]
    return "; ".join(needs) or "nothing"


def _capability(need: str) -> str:
    _, how = NEEDS.get(need, (None, need))
    what, colon, remedy = how.partition(": ")
    return f"{what} ({remedy})" if colon else what


def _file(entry: Any) -> str:
    """Return the file of an entry, relative to the project; absolute for a plugin."""
    path = Path(sys.modules[entry.__module__].__file__ or "")
    root = Path(__file__).parents[2]
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _schedulers() -> Chapter:
    entries = []
    for name, cls in SCHEDULERS.items():
        summary, paper = SCHEDULES.get(name, ("", ""))
        found = scheduler_fields(cls).items()
        fields = {key: replace(f, doc=SCHEDULE_ARGUMENTS.get(key, "")) for key, f in found}
        source = "; ".join(filter(None, [paper, f"torch.optim.lr_scheduler.{cls.__name__}"]))
        entries.append(Entry(f"scheduler.{name}", summary, source, fields))
    intro = (
        "YAML: `scheduler.type: <name>`, arguments beside it; `scheduler: ~` for none. All take `by: step` (lengths in"
        " optimizer steps, not epochs), `warmup` and `warmup_factor`"
    )
    return Chapter(("schedulers", "scheduler"), intro, tuple(entries))


def _validation_metrics() -> Chapter:
    from trainer.metrics.validation import VALIDATION_METRICS

    source = "Eigen et al., arXiv:1406.2283"
    entries = tuple(Entry(f"monitor.{name}", VALIDATION.get(name, ""), source) for name in VALIDATION_METRICS)
    intro = "YAML: `trainer.monitor: <name>`; also `loss` and `loss_<name>`. After scaling each image by medians"
    return Chapter(("validation metrics", "monitor"), intro, entries)


def _matches(query: str, chapter: Chapter, entry: Entry) -> bool:
    """Return whether a query selects an entry, by itself or with its whole chapter."""
    kind, dot, name = query.rpartition(".")
    return query in chapter.titles or (name in entry.names and (not dot or kind in chapter.titles))


def _unknown(query: str, chapters: Sequence[Chapter]) -> str:
    titles = [chapter.titles[0] for chapter in chapters]
    names = [name for chapter in chapters for entry in chapter.entries for name in entry.names]
    keys = [entry.key for chapter in chapters for entry in chapter.entries]
    near = did_you_mean(query, keys if "." in query else [*titles, *names]).partition("Known:")[0]
    known = f"Chapters: {', '.join(titles)}; `monodepth list` shows everything"
    return f"{query!r} is not in the catalogue. {near}{known}"
