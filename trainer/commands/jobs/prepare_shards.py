"""`monodepth prepare shards`: the items of a data set as tar files with an index, for `dataset.type: shards`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from trainer.build import build_dataset
from trainer.commands.jobs.preparing import clean_stale_under, open_page, print_problems, spread, store, training
from trainer.config import Config, load_config
from trainer.config.plugins import load_plugins
from trainer.data.base import DepthDataset
from trainer.data.options import AS_READ
from trainer.data.shards.gathering import gathered
from trainer.data.shards.index import read_facts, to_files
from trainer.data.shards.writing import Plan, Written, forget_notes, in_order, planned, write_shard
from trainer.runtime.errors import DataError, UserError
from trainer.runtime.files import make_folder, require_space

_open: dict[str, DepthDataset] = {}  # the data set of this process


def run(**values: Any) -> int:
    """Write the shards that are missing; return 1 when items were broken and left out."""
    args = argparse.Namespace(**values)
    _open.clear()
    cfg, modes, page = open_page(args)
    make_folder(args.out)
    clean_stale_under([args.out])
    problems = []
    for mode in modes:
        problems += _write(args, cfg, mode)
    print_problems(problems, "items are broken and left out", "item is broken and left out")
    print(f"train on them: {training(page, ['dataset.type=shards', f'dataset.path={args.out}'], args.plugins)}")
    return int(bool(problems))


def _write(args: argparse.Namespace, cfg: Config, mode: str) -> list[str]:
    """Write the shards of a mode and then their index; return the problems of items. Raises UserError."""
    dataset = _opened(args, mode)
    _refuse(dataset, mode)
    kind, arguments = cfg.dataset_kwargs(mode)
    known = {"type": kind, "split": type(dataset).split_name(arguments)}
    stamp = _stamp(dataset, kind, arguments, args.shard_size)
    if (count := _complete(args.out, mode, stamp)) is not None:
        print(f"{args.out}: {mode} has {count} shards, none of them new")
        return []
    try:
        plans = planned(dataset, in_order(dataset), args.shard_size, stamp)
    except DataError as error:
        raise UserError(f"dataset ({mode}): {error}") from error
    done = sum((args.out / plan.name).exists() for plan in plans)
    require_space(args.out, (len(plans) - done) * args.shard_size, "shards")
    tasks = [(plan, mode, args.out) for plan in plans]
    parts: list[Written] = list(spread(_shard, tasks, args.jobs, partial(_begin, args, mode), unit="shard"))
    json_file, tables = to_files(gathered(dataset, parts, {**known, "stamp": stamp}))
    store(args.out / f"{mode}.npz", tables)
    store(args.out / f"{mode}.json", json_file)
    forget_notes(args.out, mode)
    _remove_others(args.out, mode, {plan.name for plan in plans})
    total = sum(part.shard.num_bytes for part in parts) / 1e9
    frames = sum(len(part.entries) - 2 * len(part.rows) for part in parts)
    items = sum(len(part.rows) for part in parts)
    print(f"{args.out}: {mode} has {len(parts)} shards, {total:.3g} GB, {items} items, {frames} frames")
    return [problem for part in parts for problem in part.problems]


def _opened(args: argparse.Namespace, mode: str) -> DepthDataset:
    """Build the data set of a mode, once in each process."""
    if mode not in _open:
        load_plugins(args.plugins)
        cfg = load_config(args.cfg_file, args.cfg_default, args.set, training=False)
        _open[mode] = build_dataset(cfg, mode, **AS_READ)
    return _open[mode]


def _begin(args: argparse.Namespace, mode: str) -> None:
    _opened(args, mode)


def _refuse(dataset: DepthDataset, mode: str) -> None:
    """Raise UserError for what cannot be written, and for the problems of the data set."""
    if list(dataset.labelled().values()) != [dataset]:
        raise UserError("a mixture has no items of its own. Write shards of each data set, and mix those")
    if dataset.mode == "train" and (reach := getattr(dataset, "supp_range", (1, 1)))[0] != reach[1]:
        raise UserError(
            f"dataset.supp_range {list(reach)}: shards hold one choice of supports for each item. Set both to one"
            " number"
        )
    if problems := [*dataset.check(), *dataset.label_problems()]:
        raise UserError("\n".join(f"dataset ({mode}): {line}" for line in problems))


def _shard(task: tuple[Plan, str, Path]) -> Written:
    plan, mode, out = task
    return write_shard(_open[mode], plan, out)


def _stamp(dataset: DepthDataset, kind: str, arguments: dict[str, Any], shard_size: int) -> str:
    """Hash all that shards are a function of, but the bytes of the files."""
    names: Sequence[str] = [dataset.describe(i) for i in range(len(dataset))]
    told = json.dumps([kind, arguments, shard_size, names], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _complete(out: Path, mode: str, stamp: str) -> int | None:
    """Return the number of shards when an earlier call wrote all of these."""
    place = out / f"{mode}.json"
    with suppress(OSError, UserError):
        facts = read_facts(place.read_bytes(), str(place))
        sizes = [(out / shard.name).stat().st_size == shard.num_bytes for shard in facts["shards"]]
        if facts.get("stamp") == stamp and all(sizes) and (out / f"{mode}.npz").exists():
            return len(sizes)
    return None


def _remove_others(out: Path, mode: str, names: set[str]) -> None:
    """Delete shards of an earlier call that were cut in another way."""
    for path in out.glob(f"{mode}-*.tar"):
        if path.name not in names:
            path.unlink()
