"""The plan of the house holds: which room may import which, nothing happens at import, no ladders on names."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.world import ROOT, command

PACKAGES = ("trainer", "models_zoo")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# A room imports rooms of lower floors only.
FLOORS = (
    ("models_zoo", "trainer.geometry", "trainer.runtime", "trainer.types"),
    ("trainer.data", "trainer.losses", "trainer.metrics", "trainer.tracking"),
    ("trainer.config", "trainer.objective", "trainer.tables"),
    ("trainer.build",),
    ("trainer.checkpoint",),
    ("trainer.evaluation", "trainer.predict", "trainer.training"),
    ("trainer.commands",),
    ("launch",),
)
# What other rooms may import beside the face of a package: files, or folders with all files in them.
OPEN = {
    "models_zoo": {
        "assembling",
        "adapters",
        "decoders",
        "depth",
        "encoders",
        "pretrained",
        "registry",
        "standardise",
        "weights",
    },
    "trainer.geometry": {"precision", "scene"},
    "trainer.runtime": {
        *("environment", "errors", "files", "locks", "meeting", "optional", "processes", "rundir", "seeding"),
        *("signals",),
        *("silence", "streams", "yaml_text"),
    },
    "trainer.data": {
        "aspect",
        "augment",
        "base",
        "clips",
        "corruptions",
        "files",
        "kitti_raw",
        "loaders",
        "options",
        "shards",
    },
    "trainer.losses": {"needs"},
    "trainer.metrics": {
        *("align", "baselines", "calibration", "camera", "direction", "legacy", "odometry", "protocol"),
        *("resampling", "robustness", "sparsification", "temporal", "validation"),
    },
    "trainer.tracking": {"health", "panels", "progress", "tracker", "viz"},
    "trainer.config": {
        "catalogue",
        "fields",
        "foreign_names",
        "json_schema",
        "optimizers",
        "pages",
        "plugins",
        "slowtv",
    },
    "trainer.objective": {"batchnorm", "compiling", "freezing", "recompute"},
    "trainer.tables": {
        *("aggregate", "categories", "columns", "layout", "methods", "paired", "pictures", "reference", "report"),
        *("results", "significance", "summary", "writing"),
    },
    "trainer.checkpoint": {"foreign", "hub", "publish", "resume", "safefile", "state", "trained_on", "units"},
    "trainer.evaluation": {
        *("calibration", "changes", "corruption", "items", "leaks", "mdec", "passes", "places", "predictions"),
        *("reference", "report", "request", "robustness", "session", "subject", "suite", "suite_table"),
        *("uncertainty", "variations"),
    },
    "trainer.predict": {"card", "formats", "network", "predictor", "scale", "sharing", "teachers"},
    "trainer.training": {"guard", "loop", "replay", "run", "setup"},
}
MOST_ENTRIES, MOST_PRIVATE = 16, 10


def room_of(module: str) -> str | None:
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def floor_of(room: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, also inside functions and for annotations."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def all_imports() -> list[tuple[Path, str]]:
    return [(path, name) for path in SOURCES for name in imports(path)]


def found(is_wrong: Callable[[str, str], bool]) -> list[str]:
    """List the imports of a module (first argument) by name (second) that are wrong."""
    return [f"{p.relative_to(ROOT)} imports {name}" for p, name in all_imports() if is_wrong(module_of(p), name)]


def test_rooms_import_lower_floors_only() -> None:
    def is_wrong(module: str, name: str) -> bool:
        importer, imported = room_of(module), room_of(name)
        if importer is None or imported in (None, importer):
            return False
        return floor_of(imported) >= floor_of(importer)

    assert found(is_wrong) == []


def test_every_file_has_a_room() -> None:
    assert [module for module in sorted(MODULES - {"trainer"}) if room_of(module) is None] == []


def test_packages_are_entered_by_their_face() -> None:
    def is_wrong(module: str, name: str) -> bool:
        room = room_of(name)
        if room is None or room_of(module) == room or name == room:
            return False
        return name.removeprefix(f"{room}.").split(".")[0] not in OPEN.get(room, ())

    assert found(is_wrong) == []


def test_what_is_open_exists() -> None:
    assert {f"{room}.{name}" for room, names in OPEN.items() for name in names} <= MODULES


REGISTRIES = ("models_zoo", "trainer.data", "trainer.losses", "trainer.metrics")  # faces that hold a registry


def test_inside_a_package_nobody_imports_its_face() -> None:
    faces = OPEN.keys() - set(REGISTRIES)
    assert found(lambda module, name: name in faces and module.startswith(f"{name}.")) == []


def test_the_house_stays_small() -> None:
    entries = [p for p in (ROOT / "trainer").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]
    assert len(entries) - 1 <= MOST_ENTRIES  # without __init__.py
    private = [p for p in SOURCES if p.name.startswith("_") and not p.name.startswith("__")]
    assert len(private) <= MOST_PRIVATE
    assert {p.parent.relative_to(ROOT).parts[0] for p in private} <= {"models_zoo", "trainer"}
    assert not [p for p in private if p.parent == ROOT / "trainer"]


def test_launch_holds_scripts_of_a_few_lines() -> None:
    scripts = sorted((ROOT / "launch").glob("*.py"))
    commands = {p.stem for p in (ROOT / "trainer/commands").glob("*.py")} - {"__init__", "__main__", "cli"}
    commands -= {"cfg", "launch_file"}  # a checkout has these files themselves
    assert {p.stem for p in scripts} == commands
    assert max(len(p.read_text().splitlines()) for p in scripts) <= 12


def test_networks_do_not_know_the_trainer() -> None:
    assert found(lambda module, name: module.startswith("models_zoo") and name.split(".")[0] == "trainer") == []


@pytest.mark.parametrize("package", [*PACKAGES, "trainer.config.pages"])
def test_importing_is_silent_and_cheap(package: str) -> None:
    code = f"import sys, {package}; heavy = {{'torch', 'timm', 'accelerate'}} & set(sys.modules); sys.exit(bool(heavy))"
    done = command("-W", "error", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_face_of_the_project() -> None:
    import trainer
    from trainer.build import build_objective
    from trainer.checkpoint import load_objective
    from trainer.config import load_config

    offered = trainer.build_objective, trainer.load_objective, trainer.load_config
    assert offered == (build_objective, load_objective, load_config)
    assert set(trainer.__all__) <= set(dir(trainer))
    for package in (trainer, trainer.config):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018


FORBIDDEN = {
    "a ladder on a registry key": r"^\s*(?:if|elif) (?:k|key|name|kind) == ['\"]",
    "a star import": r"^from .* import \*",
    "a leftover": r"\b(?:TODO|FIXME|XXX)\b",
    "unrestricted unpickling": r"torch\.load\((?!.*weights_only=True)|pickle\.loads?\(",
    "a picture of any format": r"Image\.open\((?!.*formats=)",
    "a swallowed error": r"except(?: Exception)?:\s*(?:pass)?$",
}


@pytest.mark.parametrize("smell", FORBIDDEN)
def test_no_smell(smell: str) -> None:
    pattern = re.compile(FORBIDDEN[smell], re.M)
    smells = [f"{p.relative_to(ROOT)}: {m[0]}" for p in SOURCES for m in pattern.finditer(p.read_text())]
    assert not smells


def test_images_are_sampled_in_one_place() -> None:
    """The backward pass of `grid_sample` reads arbitrary memory at a NaN. A benchmark apart, which trains nothing."""
    places = {str(p.relative_to(ROOT)) for p in SOURCES if re.search(r"\bgrid_sample\(", p.read_text())}
    assert places == {"trainer/geometry/synthesis.py", "trainer/commands/jobs/naive_step.py"}


def test_what_the_documentation_says_is_tested_is_tested() -> None:
    named = re.findall(r"`(\w[\w/]*\.py)::(\w+)`", (ROOT / "docs/tasks/continue.md").read_text())
    assert named
    assert not [(file, test) for file, test in named if f"\ndef {test}(" not in (ROOT / "tests" / file).read_text()]


def test_rooms_below_build_do_not_know_the_configuration() -> None:
    rooms = re.compile(r"trainer/(losses|metrics|data|geometry)/|models_zoo/")
    below = [p for p in SOURCES if rooms.search(p.as_posix())]
    assert below
    assert not [p for p in below if re.search(r"\bcfg\b", p.read_text())]


@pytest.mark.parametrize("entry", sorted(p.name for p in (ROOT / "launch").glob("[a-z]*.py")))
def test_help_needs_no_heavy_import(entry: str) -> None:
    """`--help` must answer at once: nothing it imports may be slow."""
    done = command("-X", "importtime", f"launch/{entry}", "--help")
    assert done.returncode == 0, done.stderr[-500:]
    assert "usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "timm", "accelerate", "matplotlib", "tensorboard"}
