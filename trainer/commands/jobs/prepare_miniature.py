"""`monodepth prepare miniature`: made items in the layout of an evaluation set, and their truth as predictions."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.commands.jobs.preparing import store
from trainer.config.pages import find_page
from trainer.data import DATASETS
from trainer.data.files.arrays import archive_bytes
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import dataset_class
from trainer.evaluation.reference import open_dataset
from trainer.evaluation.subject import NO_RUN
from trainer.runtime.errors import UserError, first_lines

MANIFEST = "miniature.txt"
_SAYS = "Made data in the layouts of evaluation sets, by `monodepth prepare miniature`. Not the data sets.\n"
_SHOWN = 24  # files


def run(name: str, out: Path | None) -> int:
    """Write a miniature of the data set of a page beside others in `out`, read it again, and say how to score it."""
    name, page = _page(name)
    out = out or Path("miniatures")
    type_name = _type(page)
    changes = Changes([page], [f"dataset.root={out}", "dataset.size=[64, 64]"])
    cfg = changes.apply({**NO_RUN, "dataset": {"type": type_name, "supp_idxs": None}}, str(page))
    _, arguments = cfg.dataset_kwargs("test")
    _check_place(out)
    dataset_class(type_name).write_miniature(out, arguments)
    store(out / MANIFEST, _SAYS.encode())
    dataset, _ = open_dataset(cfg, "test", supp_idxs=None, use_depth=True)
    depths = [dataset[i]["depth"][0].numpy() for i in range(len(dataset))]
    names = np.array([dataset.describe(i) for i in range(len(dataset))])
    facts = {"kind": np.array("depth"), "unit": np.array("m"), "items": names}
    predictions = out / f"truth_as_prediction_{page.stem}.npz"
    store(predictions, archive_bytes({"pred": np.stack(depths), **facts}))
    home = getattr(dataset, "home", out)
    files = sorted(path.relative_to(out).as_posix() for path in home.rglob("*") if path.is_file())
    print(f"{home}: {len(dataset)} items of made data, not of the set itself")
    print("\n".join(first_lines(files, _SHOWN)))
    words = ["--pred-file", str(predictions), "-c", name, "--set", f"dataset.root={out}"]
    print(f"score the truth itself, AbsRel 0: {shlex.join(['monodepth', 'evaluate', *words])}")
    return 0


def _page(name: str) -> tuple[str, Path]:
    """Find a page, one of cfg/eval by its name alone, or any; return its full name and place. UserError for none."""
    for full in (f"eval/{name}", name):
        page = find_page(full)
        if page.suffix and os.path.isfile(page):
            return full, page
    known = sorted(path.stem for path in find_page("eval/synthetic").parent.glob("*.yaml"))
    raise UserError(f"{name}: no such page. {did_you_mean(name, known)}")


def _type(page: Path) -> str:
    """Return the data set of a page. Raises UserError for mistakes in it, and for one without files in a folder."""
    changes = Changes([page])
    found = changes.apply({**NO_RUN, "dataset": {"type": changes.dataset_type or "synthetic"}}, str(page))
    type_name, _ = found.dataset_kwargs("test")
    if "root" not in DATASETS.parameters(type_name):
        raise UserError(f"{page}: its data set, {type_name}, has no folder of its own: there is no miniature of it")
    return type_name


def _check_place(out: Path) -> None:
    """Raise UserError for a folder that holds something else than miniatures."""
    is_mine = os.path.isfile(out / MANIFEST)
    if os.path.exists(out) and not is_mine and (not os.path.isdir(out) or any(out.iterdir())):
        raise UserError(f"{out}: holds no miniatures, and is not empty. Choose another --out")
