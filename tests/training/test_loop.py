"""The loop stays short: few frames from the command to the optimizer, few lines, little nesting."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.world import ROOT, train_args
from trainer.commands import train
from trainer.runtime.errors import UserError

FILES = (
    *("training/*.py", "tracking/**/*.py", "runtime/*.py"),
    *("build.py", "commands/train*.py", "commands/jobs/train.py"),
)
SOURCES = [path for pattern in FILES for path in (ROOT / "trainer").glob(pattern)]
BLOCKS = (ast.With, ast.While, ast.For, ast.If, ast.Try)


@pytest.mark.slow
def test_five_frames_lead_from_the_command_to_the_optimizer(tmp_path: Path) -> None:
    frames: list[str] = []

    def note(*_: object) -> None:
        stack = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT / "trainer")]
        frames.extend(f"{Path(f.filename).stem}.{f.name}" for f in stack)
        raise UserError("seen")  # ends the run

    hook = register_optimizer_step_pre_hook(note)
    try:
        small = ("trainer.limit_val_batches=0", "trainer.trackers=[]", "dataset.train.num_items=4")
        assert train.main(train_args(tmp_path, *small)[1:]) == 1
    finally:
        hook.remove()
    assert frames == ["cli.guarding", "cli.main", "train.run", "loop.fit", "loop.step"]  # `leaving` is `guarded`


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.name}", node


def depth(node: ast.AST) -> int:
    """Nested blocks in a function."""
    return isinstance(node, BLOCKS) + max(map(depth, ast.iter_child_nodes(node)), default=0)


def test_functions_have_at_most_60_lines_and_the_loop_three_levels() -> None:
    found = dict(functions())
    assert [name for name, node in found.items() if node.end_lineno - node.lineno >= 60] == []
    assert depth(found["trainer/training/loop.py:fit"]) <= 3
