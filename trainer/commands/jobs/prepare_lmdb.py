"""`monodepth prepare lmdb`: KITTI as LMDB databases of encoded pictures and NumPy files, without pickles."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from trainer.commands.jobs.preparing import print_problems, spread, store
from trainer.data.files.lmdb import write_database
from trainer.data.files.splits import list_splits
from trainer.data.kitti_raw.databases import DatabaseListing
from trainer.data.kitti_raw.files import MANIFEST
from trainer.data.kitti_raw.pack import Package, capacity, is_packed, list_packages, read_entries
from trainer.data.kitti_raw.places import open_recordings
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite, make_folder, require_space, why_not
from trainer.runtime.optional import require


def run(root: str | None, depth_root: str | None, hints_root: str | None, out: Path, jobs: int) -> int:
    """Write the databases that are missing or incomplete; return 1 when files were broken and left out."""
    require("lmdb", "lmdb", "Writing LMDB databases")
    raw, recordings = open_recordings(root, depth_root, hints_root)
    if isinstance(recordings, DatabaseListing):
        raise UserError(f"{raw} holds databases already. Give the folder of files with --root")
    packages = list_packages(raw, recordings.annotated, recordings.hints)
    missing = [package for package in packages if not is_packed(package, out)]
    make_folder(out)
    require_space(out, sum(map(capacity, missing)), "databases")
    tasks = [(package, out) for package in missing]
    results = spread(_write, tasks, jobs, unit="database", done=len(packages) - len(missing))
    problems = [problem for result in results for problem in result]
    for split, mode, path in list_splits(raw):
        store(out / "splits" / split / f"{mode}_files.txt", path.read_bytes())
    if os.path.isfile(raw / MANIFEST):  # else rendered drives would pass for those of KITTI
        store(out / MANIFEST, (raw / MANIFEST).read_bytes())
    print(f"{out}: {len(packages)} databases, {len(missing)} of them new")
    print_problems(problems, "broken files were left out", "broken file was left out")
    settings = shlex.join(["dataset.type=kitti_lmdb", f"dataset.root={out}"])
    print(f"train on them: monodepth train -c kitti/monodepth2_MS --set {settings}")
    return int(bool(problems))


def _write(task: tuple[Package, Path]) -> list[str]:
    """Write a database beside its place and move it there; return the files left out, with reasons."""
    package, out = task
    path = out / package.database
    make_folder(path.parent)
    for stale in path.parent.glob(f".{path.name}.tmp-*"):
        shutil.rmtree(stale)  # of a run that was killed: a database is written by one process
    staged = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    problems: list[str] = []
    try:
        count = write_database(staged, read_entries(package, problems), capacity(package))
        (staged / "lock.mdb").unlink(missing_ok=True)
        if path.exists():  # incomplete or broken
            shutil.rmtree(path)
        if count:
            os.replace(staged, path)
    except OSError as error:
        raise CannotWrite(why_not(path, error)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return problems
