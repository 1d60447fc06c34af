"""`monodepth prepare pseudo`: the disparity that a teacher network predicts for pictures of a data set, as labels."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.build import build_dataset
from trainer.checkpoint.hub import SETTINGS
from trainer.commands.jobs.preparing import (
    ahead,
    clean_stale_under,
    open_page,
    print_problems,
    root_in,
    store,
    training,
)
from trainer.config import Config
from trainer.data.base import DepthDataset
from trainer.data.files.paths import expanded
from trainer.data.files.pseudo import (
    ENDINGS,
    RECORD,
    Map,
    PseudoLabels,
    encode_label,
    label_facts,
    read_label,
    resize_map,
)
from trainer.data.options import PLAIN
from trainer.losses import LOSSES
from trainer.predict.predictor import input_size
from trainer.predict.teachers import Kind, Request, Teacher, as_disparity, open_teacher
from trainer.runtime.errors import DataError, UserError
from trainer.runtime.files import make_folder, require_space
from trainer.tracking.progress import counting

_BYTES = 1.5  # of a label, per pixel: 16 bits, compressed
_SAME = ("model", "revision", "sha256", "kind", "input", "size")  # of a record: what makes other labels
_WEIGHT = 0.1  # of the loss in the command that is printed; NimbleD (arXiv:2408.14177) has 0.1 beside 0.9


@dataclass(frozen=True)
class Item:
    """A picture to label."""

    dataset: DepthDataset
    mode: str
    index: int
    root: Path  # folder of the labels of this data set
    path: Path  # of its label


def run(**values: Any) -> int:
    """Label what has no sound label yet; return 1 when pictures or maps are missing or broken."""
    args = argparse.Namespace(**values)
    cfg, modes, page = open_page(args)
    shown = input_size(cfg)
    out = args.out or root_in(cfg, "pseudo_root", "the labels")
    source = _open(args, shown)
    items = _items(cfg, modes, source.size if isinstance(source, Teacher) else shown, out)
    record = _record(args, source, shown)
    records = {root: _joined(root, record, args.overwrite) for root in {item.root for item in items.values()}}
    begun = [root for root in records if not os.path.exists(root / RECORD)]
    make_folder(out)
    clean_stale_under(item.path.parent for item in items.values())
    for root, joined in records.items():  # before the first label: no later run mixes those of two teachers
        joined["items"] |= Counter(item.mode for item in items.values() if item.root == root)
        store(root / RECORD, (json.dumps(joined, indent=2) + "\n").encode())
    with ThreadPoolExecutor(args.jobs) as pool:
        sound = ahead(pool, lambda item: not args.overwrite and _is_sound(item.path, record), items.values(), args.jobs)
        todo = [item for item, done in zip(items.values(), sound, strict=True) if not done]
        require_space(out, int(_BYTES * np.prod(record["size"]) * len(todo)), "labels")
        try:
            problems = _label(pool, source, todo, len(items), args, record)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    there = len(items) - len(problems)
    print(f"{out}: {there} of {len(items)} items ({', '.join(modes)}) have labels, {len(todo) - len(problems)} new")
    print_problems(problems, "items have none", "item has none")
    for root in begun if not there else ():  # else the folder would be taken for one of labels
        (root / RECORD).unlink(missing_ok=True)
    if there:
        loss = [f"loss.disp_ssi.weight={_WEIGHT}"] if "disp_ssi" in LOSSES and "disp_ssi" not in cfg.loss else []
        settings = [*args.set, "dataset.use_pseudo=true", f"dataset.pseudo_root={out}", *loss]
        print(f"train on them: {training(page, settings, args.plugins)}")
    return int(bool(problems))


def _open(args: argparse.Namespace, shown: tuple[int, int]) -> Teacher | PseudoLabels:
    """Open a network, or the maps in a folder."""
    folder = expanded(args.teacher)
    if os.path.isdir(folder) and not os.path.exists(folder / SETTINGS) and _holds_maps(folder):
        return PseudoLabels(args.teacher)
    options = (args.size, args.kind, args.normalise, args.device, args.precision)
    return open_teacher(os.path.expanduser(args.teacher), Request(shown, *options))


def _holds_maps(folder: Path) -> bool:
    """True for a folder with maps and without weights: those of runs hold pictures, too."""
    found = {os.path.splitext(name)[1] for _, _, files in os.walk(folder) for name in files}
    return bool(found & set(ENDINGS)) and ".safetensors" not in found


def _items(cfg: Config, modes: Sequence[str], size: tuple[int, int], out: Path) -> dict[Path, Item]:
    """List what has a label, each once. Raises UserError listing all problems of the data sets."""
    items: dict[Path, Item] = {}
    problems = []
    for mode in modes:
        whole = build_dataset(cfg, mode, size=size, **PLAIN, use_depth=False)
        for folder, dataset in whole.labelled().items():
            dataset.supp_idxs = ()  # which items there are depends on them, but labels are of targets alone
            problems += [f"dataset ({mode}): {line}" for line in dataset.check()]
            place = expanded(dataset.pseudo_root) if folder and dataset.pseudo_root else out / folder
            for index in range(len(dataset)):
                path = place / f"{dataset.label_name(index)}.png"
                items.setdefault(path, Item(dataset, mode, index, place, path))
    if problems:
        raise UserError("\n".join(problems))
    return items


def _record(args: argparse.Namespace, source: Teacher | PseudoLabels, shown: tuple[int, int]) -> dict[str, Any]:
    """What the folder, and every checkpoint trained on it, says of the labels."""
    if isinstance(source, PseudoLabels):
        facts: dict[str, Any] = {"model": Path(args.teacher).resolve().name, "kind": args.kind or "disparity"}
        resize = "maps in files"
    else:
        facts, size = {**source.facts, "kind": source.kind}, source.size
        resize = f"pictures resized bilinearly to {size[0]}x{size[1]}, no crop"
    chosen = {"input": resize, "size": list(args.label_size or shown), "command": args.command}
    return {key: value for key, value in {**facts, **chosen}.items() if value}


def _joined(out: Path, record: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Return the record with the items of other modes there. Raises UserError for a folder of another teacher."""
    if overwrite or not os.path.exists(out / RECORD):
        return {**record, "items": {}}
    known = PseudoLabels(str(out)).record()
    if other := [key for key in _SAME if known.get(key) != record.get(key)]:
        what = "; ".join(f"{key} {known.get(key)} there, {record.get(key)} now" for key in other)
        raise UserError(f"{out} has other labels: {what}. Choose another --out, or replace them with --overwrite")
    return {**record, "items": dict(known.get("items") or {})}


def _is_sound(path: Path, record: dict[str, Any]) -> bool:
    """True for a label of this teacher that can be read to its end."""
    if not os.path.isfile(path):
        return False
    try:
        read_label(str(path))
        return label_facts(str(path)).get("sha256", "") == record.get("sha256", "")
    except DataError:
        return False


def _label(
    pool: ThreadPoolExecutor,
    source: Teacher | PseudoLabels,
    todo: Sequence[Item],
    total: int,
    args: argparse.Namespace,
    record: dict[str, Any],
) -> list[str]:
    """Label the items; reading, predicting and writing go on at the same time. Returns what failed."""
    facts: dict[str, str] = {key: str(record[key]) for key in ("model", "revision", "sha256") if key in record}
    facts["resize"] = record["input"]
    problems, written = list[str](), list[Future[None]]()
    read = _picture if isinstance(source, Teacher) else _map_of(source, args.kind or "disparity")

    def save(path: Path, disp: Map) -> None:
        wanted = args.label_size or tuple(record["size"])
        if args.label_size or disp.size > wanted[0] * wanted[1]:
            disp = resize_map(disp, wanted)
        store(path, encode_label(disp, facts))

    with counting("labels", total, done=total - len(todo)) as count:
        inputs = ahead(pool, lambda item: (item, read(item)), todo, 2 * args.batch_size + args.jobs)
        while batch := list(islice(inputs, args.batch_size)):
            problems += [found for _, found in batch if isinstance(found, str)]
            good = [(item, found) for item, found in batch if not isinstance(found, str)]
            maps: Iterable[Map] = [found for _, found in good]
            if isinstance(source, Teacher) and good:
                maps = source.disparities(np.stack([found for _, found in good]))
            for future in written:
                future.result()
            written = [pool.submit(save, item.path, disp) for (item, _), disp in zip(good, maps, strict=True)]
            count(len(batch))
        for future in written:
            future.result()
    return problems


def _picture(item: Item) -> Any:
    """Read the target (h w 3) uint8 of an item, or say what is wrong."""
    try:
        planes = item.dataset[item.index]["target"].numpy()
    except DataError as error:
        return str(error)
    return np.rint(planes.transpose(1, 2, 0) * 255).astype(np.uint8)


def _map_of(maps: PseudoLabels, kind: Kind) -> Callable[[Item], Any]:
    """Return what reads the map (H W) of an item from a folder, as disparity, or says what is wrong."""

    def read(item: Item) -> Any:
        name = item.dataset.label_name(item.index)
        path = maps.find(name)
        if path is None:
            return f"{name}: no such map in {maps.root} ({' '.join(ENDINGS)})"
        try:
            found = read_label(path)
        except DataError as error:
            return str(error)
        return as_disparity(np.where(found > 0, found, np.float32(np.nan)), kind)

    return read
