"""A suite: one checkpoint on many data sets, each by the protocol of its page, and one table of all.

A set whose data are not on this machine is a row that says so; one that is broken is a row with its error. Results that
exist for the same checkpoint and protocol are kept, so that a stopped suite continues.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from models_zoo.registry import did_you_mean
from trainer.config.pages import find_page, read_page
from trainer.data.files.paths import DataNotFound
from trainer.evaluation.items import Items
from trainer.evaluation.places import run_folder
from trainer.evaluation.predictions import evenly_spaced
from trainer.evaluation.reference import open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.results import EvaluationResult, read_head, save_result
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import Exhausted, UserError
from trainer.runtime.processes import FoundByAll, Processes
from trainer.tables.columns import base_key, registered

T = TypeVar("T")
Opened = tuple[Items, dict[str, Any]]  # what `open_truths` returns
Score = Callable[[EvaluationRequest, Opened, Processes], Sequence[EvaluationResult]]

COLUMNS = ("abs_rel", "rmse", "d1", "f_score_10")  # where a suite names none
_KEYS = ("columns", "evaluation", "sets")
_KEYS_OF_SET = ("page", "name", "evaluation", "set")
_DATA = re.compile(r"^# Data: *(.+)$", re.M)


@dataclass(frozen=True)
class SuiteSet:
    """One data set of a suite and the protocol by which it is scored."""

    name: str
    page: Path
    overrides: Sequence[str]  # "key=value", over those of the page
    source: str  # where to get the data, as the page says; "" where it does not


@dataclass(frozen=True)
class Suite:
    """A page of data sets."""

    path: Path
    columns: Sequence[str]  # keys of metrics, for the table
    sets: Sequence[SuiteSet]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass
class Row:
    """One set of a suite: its numbers by one alignment, or why there are none."""

    set: str
    state: str  # scored | kept | not here | broken
    file: Path | None = None  # of the result
    result: Mapping[str, Any] = field(default_factory=dict)  # its content without items
    reason: str = ""
    source: str = ""  # where to get the data


def read_suite(name: Path) -> Suite:
    """Read a suite: `sets` (pages, or mappings of page, name, evaluation, set), `evaluation` for all, `columns`.

    Pages are found beside the suite, or as `-c` finds them. Raises UserError listing all mistakes.
    """
    path, problems = find_page(name), list[str]()
    layer = read_page(name, problems)
    if layer is None or problems:
        raise UserError("\n".join(problems))
    data = layer.data
    if "dataset" in data:
        raise UserError(f"{path}: is a page of one data set, not a suite, which lists pages. Name it with --cfg-file")
    problems += _unknown(data, _KEYS, str(path))
    entries, common = data.get("sets"), _mapping(data, "evaluation", str(path), problems)
    if not isinstance(entries, list) or not entries:
        problems.append(f"{path}: sets: expected a list of pages, e.g. [eval/nyud, eval/eth3d]")
        entries = []
    columns = data.get("columns") or list(COLUMNS)
    if not isinstance(columns, list) or not all(isinstance(key, str) for key in columns):
        problems.append(f"{path}: columns: expected a list of keys of metrics, e.g. [abs_rel, d1], got {columns!r}")
        columns = []
    known = registered()
    problems += [f"{path}: columns: {k!r}: {did_you_mean(k, known)}" for k in columns if base_key(k) not in known]
    read = [_read_set(path, i, entry, common, problems) for i, entry in enumerate(entries)]
    sets = [one for one in read if one]
    counts = Counter(one.name for one in sets)
    problems += [f"{path}: {n} sets are called {name!r}: give each a `name`" for name, n in counts.items() if n > 1]
    if problems:
        raise UserError("\n".join(problems))
    return Suite(path, columns, sets)


def _read_set(path: Path, number: int, entry: Any, common: Mapping[str, Any], problems: list[str]) -> SuiteSet | None:
    where = f"{path}: sets[{number}]"
    one = {"page": entry} if isinstance(entry, str) else entry
    if not isinstance(one, Mapping) or not isinstance(one.get("page"), str):
        problems.append(f"{where}: expected a page, or a mapping with `page`, got {entry!r}")
        return None
    problems += _unknown(one, _KEYS_OF_SET, where)
    beside = find_page(path.parent / one["page"])
    page = beside if os.path.isfile(beside) else find_page(one["page"])
    if not os.path.isfile(page):
        problems.append(f"{where}: {one['page']}: no such page. `monodepth cfg list eval` lists those that exist")
        return None
    settings = {**common, **_mapping(one, "evaluation", where, problems)}
    changes = one.get("set") or []
    if not isinstance(changes, list):
        problems.append(f"{where}: set: expected a list of KEY=VALUE, got {changes!r}")
        changes = []
    overrides = [f"evaluation.{key}={json.dumps(value)}" for key, value in settings.items()]
    source = _DATA.search(page.read_text(encoding="utf-8"))
    name = str(one.get("name", page.stem))
    return SuiteSet(name, page, [*overrides, *map(str, changes)], source[1].strip() if source else "")


def _unknown(data: Mapping[str, Any], known: Sequence[str], where: str) -> list[str]:
    return [f"{where}: {key!r} is not a key here. {did_you_mean(key, known)}" for key in data if key not in known]


def _mapping(data: Mapping[str, Any], key: str, where: str, problems: list[str]) -> Mapping[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, Mapping):
        problems.append(f"{where}: {key}: expected settings such as {{alignment: median}}, got {value!r}")
        return {}
    return value


def run_suite(
    suite: Suite,
    requests: Sequence[EvaluationRequest],
    score: Score,
    processes: Processes,
    *,
    again: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Score every set of a suite that is here, and save its results.

    Args:
        requests: one per set.
        score: scores an opened set on the given processes.
        again: also where a result exists.
        tell: called with a line on each set that is here, on the first process.

    Returns the rows of the table, the same on all processes but for the numbers, which the first one has.
    """
    rows: list[Row] = []
    joint = Joint(processes.rank, processes.world)
    for one, request in zip(suite.sets, requests, strict=True):
        found: list[Row] = []
        try:
            opened = joint.attempt(open_truths, request)
            kept = [] if again else joint.from_first(_kept(suite, one, request, opened[1], len(opened[0])))
            if kept:
                found = kept
            else:
                results = joint.attempt(score, request, opened, joint, meets=True)
                found = [_saved(suite, one, request, r) for r in results] if processes.is_first else []
        except Missing as error:
            found = [Row(one.name, "not here", reason=str(error), source=one.source)]
        except FoundByAll as error:
            found = [Row(one.name, "broken", reason=str(error))]
        rows += found
        for row in found if processes.is_first else ():
            if row.state != "not here":
                tell(_brief(row))
    return rows


class Missing(FoundByAll):
    """Data that are not on this machine."""


class Joint(Processes):
    """Processes that learn of each other's errors, so that all go on to the next set together."""

    def gather(self, mine: Sequence[T]) -> list[T]:
        """As that of `Processes`. Raises FoundByAll where one has met an error instead."""
        return self._meet(mine, None)

    def attempt(self, work: Callable[..., T], *arguments: Any, meets: bool = False) -> T:
        """Do the work on all processes; `meets` = it calls `gather` once. Raises FoundByAll where one fails.

        Missing data are `Missing`. Want of memory or disk is raised as it is.
        """
        try:
            done = work(*arguments)
        except (FoundByAll, Exhausted):
            raise
        except UserError as error:
            self._meet((), error)
            raise
        if not meets:
            self._meet((), None)
        return done

    def from_first(self, value: T) -> T:
        """Return the value that the first process has."""
        return super().gather([value])[0]

    def _meet(self, mine: Sequence[T], error: UserError | None) -> list[T]:
        said = None if error is None else (isinstance(error, DataNotFound), str(error))
        parts: Any = super().gather([(said, list(mine))])
        for failure, _ in parts:
            if failure is not None:
                is_missing, text = failure
                raise (Missing if is_missing else FoundByAll)(text) from error
        return [row for _, part in parts for row in part]


def result_place(suite: Suite, one: SuiteSet, request: EvaluationRequest, alignment: str, count: int) -> Path:
    """`<run>/results/<suite>_<set>_<checkpoint>_<alignment>.yaml`; a part of `count` items has a name of its own."""
    path = request.subject.path
    part = "" if request.limit is None or request.limit >= count else f"_{request.limit}items"
    stem = re.sub(r"[^\w.+-]+", "_", f"{suite.name}_{one.name}_{path.stem}_{alignment}{part}")
    return run_folder(path) / "results" / f"{stem}.yaml"


def _kept(suite: Suite, one: SuiteSet, request: EvaluationRequest, about: Mapping[str, Any], count: int) -> list[Row]:
    """Rows of results that exist for this checkpoint and protocol, one for each alignment; [] unless all exist."""
    rows = []
    for protocol in request.protocols:
        place = result_place(suite, one, request, protocol.names["alignment"], count)
        content = read_head(place)
        if content is None or not _is_of(content.get("protocol"), expected_protocol(request, protocol, about, count)):
            return []
        rows.append(Row(one.name, "kept", place, content))
    return rows


def expected_protocol(
    request: EvaluationRequest, protocol: DepthProtocol, about: Mapping[str, Any], count: int
) -> dict[str, Any]:
    """Return what is known, before the work, of the protocol that a result of the request will hold."""
    chosen = len(evenly_spaced(request.limit, count))
    checkpoint = request.subject.metadata["checkpoint"]
    return {
        **protocol.describe(),
        **about,
        "limit": None if chosen == count else f"{chosen} of {count}, evenly spaced",
        "checkpoint": {key: checkpoint[key] for key in ("sha256", "hparams")},
    }


def _is_of(held: Any, expected: Any) -> bool:
    """Whether a stored protocol agrees with the expected one, in all that the latter says."""
    if isinstance(expected, Mapping):
        return isinstance(held, Mapping) and all(key in held and _is_of(held[key], v) for key, v in expected.items())
    return bool(held == json.loads(json.dumps(expected, default=str)))


def _saved(suite: Suite, one: SuiteSet, request: EvaluationRequest, result: EvaluationResult) -> Row:
    count = result.protocol["dataset"]["num_items"]
    place = result_place(suite, one, request, result.protocol["alignment"], count)
    save_result(result, place)
    return Row(one.name, "scored", place, read_head(place) or {})


def _brief(row: Row) -> str:
    """A line on a set that is done. Why one is broken is told in the end, where it can be long."""
    if row.state == "broken":
        return f"{row.set}: broken"
    words = "kept, the same checkpoint and protocol" if row.state == "kept" else "scored"
    return f"{row.set}, {row.result['protocol']['alignment']}: {words}: {row.file}"
