"""The plan of the house holds: which room may import which, nothing happens at import, no ladders on names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import ROOT, environment

PACKAGES = ("trainer", "models_zoo", "launch")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# A room may import rooms of a lower level, never its own level or a higher one.
LEVELS = (
    ("launch",),
    ("trainer.training.run", "trainer.checkpoint.foreign"),
    ("trainer.build", "trainer.training.setup"),
    ("trainer.training.loop", "trainer.config", "trainer.checks"),
    ("trainer.training.saver",),
    ("trainer.averages", "trainer.training.recorder", "trainer.training.guard"),
    (
        "trainer.checkpoint",
        "trainer.tracking.tracker",
        "trainer.tracking.progress",
        "trainer.evaluation",
        "trainer.tables",
        "trainer.tracking.health",
        "trainer.training.replay",
        "trainer.training.validation",
    ),
    ("trainer.checkpoint.saved",),
    ("trainer.checkpoint.matching",),
    (
        "trainer.tracking.viz",
        "trainer.checkpoint.state",
        "trainer.runtime.rundir",
        "trainer.training.optim",
        "trainer.training.averages",
        "trainer.objective.compiling",
        "trainer.objective.freezing",
        "trainer.objective.recompute",
        "trainer.training.stopping",
    ),
    ("trainer.checkpoint.safefile",),
    ("trainer.runtime.files",),
    ("trainer.objective", "trainer.losses", "trainer.metrics", "trainer.data", "trainer.runtime.processes"),
    ("trainer.objective.pictures", "trainer.losses.needs"),
    (
        "trainer.geometry.scene",
        "trainer.runtime.seeding",
        "trainer.runtime.signals",
        "trainer.config.plugins",
    ),
    ("trainer.geometry",),
    ("trainer.types", "trainer.runtime.yaml_text"),
)
# A checkpoint rebuilds its own network (`load_objective`), so it calls upwards once, inside a function.
ALLOWED = {("trainer.checkpoint", "trainer.build"), ("trainer.checkpoint", "trainer.config")}


def room_of(module: str) -> str | None:
    rooms = [room for level in LEVELS for room in level if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def level_of(room: str) -> int:
    return next(i for i, level in enumerate(LEVELS) if room in level)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def private_room(module: str) -> str | None:
    """Other private modules directly under `trainer` (`trainer/config/fields.py`) are parts of the configuration."""
    return room_of(module) or ("trainer.config" if module.startswith("trainer._") else None)


def test_imports_follow_the_arrow() -> None:
    wrong = []
    for path in SOURCES:
        importer = private_room(module_of(path))
        if importer is None:
            continue
        for name in imports(path):
            imported = private_room(name)
            if imported in (None, importer) or (importer, imported) in ALLOWED:
                continue
            if level_of(imported) <= level_of(importer):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_level() -> None:
    rooms = {module_of(p) for p in SOURCES if p.parts[-2] == "trainer" and not p.stem.startswith("_")}
    assert {room for room in rooms if private_room(room) is None} == set()


def test_networks_do_not_know_the_trainer() -> None:
    wrong = [
        p
        for p in SOURCES
        if "models_zoo" in p.parts and any(n.split(".")[0] in ("trainer", "launch") for n in imports(p))
    ]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_is_silent_and_cheap(package: str) -> None:
    code = f"import sys, {package}; heavy = {{'torch', 'timm', 'accelerate'}} & set(sys.modules); sys.exit(bool(heavy))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORBIDDEN = {
    "a ladder on a registry key": r"^\s*(?:if|elif) (?:k|key|name|kind) == ['\"]",
    "a star import": r"^from .* import \*",
    "a leftover": r"\b(?:TODO|FIXME|XXX)\b",
    "unrestricted unpickling": r"torch\.load\((?!.*weights_only=True)|pickle\.loads?\(",
    "a swallowed error": r"except(?: Exception)?:\s*(?:pass)?$",
}


@pytest.mark.parametrize("smell", FORBIDDEN)
def test_no_smell(smell: str) -> None:
    pattern = re.compile(FORBIDDEN[smell], re.M)
    found = [f"{p.relative_to(ROOT)}: {m.group()}" for p in SOURCES for m in pattern.finditer(p.read_text())]
    assert not found


def test_rooms_below_build_do_not_know_the_configuration() -> None:
    below = [
        p for p in SOURCES if re.search(r"trainer/(losses|metrics|data|geometry)/|models_zoo/", p.as_posix())
    ]
    assert below
    assert not [p for p in below if re.search(r"\bcfg\b", p.read_text())]


@pytest.mark.parametrize("entry", sorted(p.name for p in (ROOT / "launch").glob("[a-z]*.py")))
def test_help_needs_no_heavy_import(entry: str) -> None:
    """`--help` must answer at once: nothing it imports may be slow."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", f"launch/{entry}", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "timm", "accelerate", "matplotlib", "tensorboard"}
