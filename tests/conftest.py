"""Shared fixtures: one thread, no hidden Accelerate configuration, no network, runs made once, and the real data."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, so not in a fixture
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # likewise
sys.dont_write_bytecode = False  # else every worker and every command that a test starts compiles all files again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Look for no garbage among what stays to the end, tests and libraries: neither while they are loaded nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep a user's Accelerate configuration out of the results, and files of Hypothesis out of the tree."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf_home"))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(tmp_path_factory.mktemp("hypothesis"))  # else .hypothesis
    os.chdir(ROOT)


@pytest.fixture(autouse=True, scope="module")
def _own_accelerator() -> None:
    """Forget the device and precision of earlier tests, which Accelerate keeps for the whole process."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function: a name and what fills a folder -> that folder, filled once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        from filelock import FileLock

        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def trained_run(once: Once) -> Path:
    """The `--ckpt-dir` of a finished run of `train_args`, to be read only; its output is in `output.txt`.

    `tests.world.copied_run` gives one that may be continued.
    """
    from tests.world import call, train_args

    def train(out: Path) -> None:
        done = call(*train_args(out, "trainer.log_images=all"))
        assert done.returncode == 0, done.stderr
        (out / "output.txt").write_text(done.stdout)

    return once("trained_run", train)


@pytest.fixture(scope="session")
def two_processes(once: Once) -> Path:
    """The same run on two processes, but for `tests.runs.NOTED`."""
    from tests.runs import NOTED, launch_two

    def train(out: Path) -> None:
        done = launch_two(out, *NOTED)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]

    return once("two_processes", train)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the small real data sets (kitti_raw, kitti_depth, splits, ...); skips where it is missing."""
    path = Path(os.environ.get("MONODEPTH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "kitti_raw").is_dir():
        pytest.skip(f"no real data at {path}: set MONODEPTH_TEST_DATA to a folder with kitti_raw, kitti_depth, splits")
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what happens to the code blocks of the documentation, where its tests ran."""
    if any(
        getattr(report, "nodeid", "").startswith("tests/docs/")
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
    ):
        from tests.docs.blocks import all_blocks, counts

        terminalreporter.write_line(f"documentation: {counts(all_blocks())}")
