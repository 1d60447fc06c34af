"""The wheel is the product: installed without the checkout it finds its pages and launch files, and trains."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.world import ROOT, SMALL, environment
from trainer.runtime.rundir import read_hparams

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from copies: a build leaves files beside what it builds."""
    out = tmp_path_factory.mktemp("wheel")
    for folder in ("trainer", "models_zoo", "cfg", "launch"):
        shutil.copytree(ROOT / folder, out / "source" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "CREDITS.md"):
        shutil.copy(ROOT / file, out / "source")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", out, out / "source")
    subprocess.run([*PIP, *build], check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_it_holds_all_packages_pages_and_licences_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = next(name for name in names if name.endswith("/METADATA")).rpartition("/")[0]
    assert {name.split("/")[0] for name in names} == {"trainer", "models_zoo", info}
    held = {name for name in names if not name.startswith(info)}
    sources = [p for top in ("trainer", "models_zoo") for p in (ROOT / top).rglob("*") if "__pycache__" not in p.parts]
    expected = {p.relative_to(ROOT).as_posix() for p in sources if p.is_file()}
    expected |= {f"trainer/{p.relative_to(ROOT)}" for p in (ROOT / "cfg").rglob("*") if p.is_file()}
    expected |= {f"trainer/{p.relative_to(ROOT)}" for p in (ROOT / "launch/accelerate").iterdir()}
    assert held == expected
    assert {"trainer/py.typed", "models_zoo/py.typed"} <= held
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "CREDITS.md"}


@pytest.mark.slow
def test_it_trains_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True)
    assert {p.name for p in (site / "bin").iterdir()} == {"monodepth"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, site / "bin/monodepth", *args], {**environment(), "PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=300)

    assert run("launch-file", "cpu").stdout == f"{site}/trainer/launch/accelerate/cpu.yaml\n"
    assert "name a file with --out" in run("schema").stderr

    done = run("train", "-c", "synthetic/monodepth2_MS", "--progress", "plain", "--set", *SMALL, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = here / "models/synthetic/monodepth2_MS/42"
    assert read_hparams(folder / "hparams.yaml")["config"]["dataset"]["supp_idxs"] == [-1, 1, 0]
