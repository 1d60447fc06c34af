"""A run that has learned nothing says so wherever a person looks, and one that has says by how much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Once
from tests.runs import ckpt, folder, state
from tests.world import call, copied_run, train_args
from trainer.checkpoint.safefile import read_metadata
from trainer.tracking.health import GRACE_STEPS

pytestmark = pytest.mark.slow

TINY = (
    f"dataset={{supp_idxs: [0], use_hints: true, train: {{num_items: {GRACE_STEPS}}}}}",
    "net={depth: {out_scales: [0]}, pose: null}",
    "loader={batch_size: 1, val: {batch_size: 4}}",
    f"trainer={{max_epochs: 1, log_every_n_steps: {GRACE_STEPS}}}",
    "optimizer.group_lr=~",
)
DEAD = ("net.depth.init_disp=1e-8", "optimizer.lr=1e-12")  # a sigmoid without a slope
ALIVE = ("loss={depth_regr: {loss_name: log_l1}}", "optimizer.lr=3e-3")
SAME = "nothing: the depth is the same everywhere (std / mean of the disparity"


@pytest.fixture(scope="module")
def dead_run(once: Once) -> Path:
    """The `--ckpt-dir` of a run whose network is dead; its output is in `output.txt`."""

    def train(out: Path) -> None:
        done = call(*train_args(out, *TINY, *DEAD))
        assert done.returncode == 0, done.stderr
        (out / "output.txt").write_text(done.stdout + done.stderr)

    return once("dead_run", train)


def test_a_dead_run_says_so_at_once_and_in_its_summary(dead_run: Path, tmp_path: Path) -> None:
    said = (dead_run / "output.txt").read_text()
    assert said.count("warning: the depth explodes: 100% of the pixels lie at trainer.max_depth: 100") == 1
    assert said.index("the depth explodes") < said.index("validating")
    (best,) = [line for line in said.splitlines() if line.startswith("best Abs Rel")]
    assert best.endswith("(epoch 1, mean of 4 val items; 1.00 times that of a constant depth)")
    (row,) = [line for line in said.splitlines() if line.startswith("learned")]
    assert row.split(None, 1)[1].startswith(SAME)
    assert row.endswith("see the warnings above, or `What goes wrong` in docs/tasks/debug.md")
    written = state(dead_run)
    assert written["learned"].startswith(SAME)
    assert written["constant_ratio"] == pytest.approx(1, abs=1e-3)
    again = copied_run(dead_run, tmp_path / "again")
    done = call(*train_args(again, *TINY, *DEAD))
    assert row in done.stdout.splitlines()
    assert (state(again)["learned"], state(again)["constant_ratio"]) == (written["learned"], written["constant_ratio"])


def test_without_validation_the_looks_of_the_training_judge(tmp_path: Path) -> None:
    done = call(*train_args(tmp_path, *TINY, *DEAD, "trainer.limit_val_batches=0"))
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("learned")]
    assert SAME in row
    assert state(tmp_path)["learned"].startswith(SAME)
    assert state(tmp_path)["constant_ratio"] is None


def test_report_and_card_repeat_it(dead_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert call("report.py", dead_run, "--out", page).returncode == 0
    text = page.read_text()
    header, rows = text.split("</header>")
    assert f"<b>run/1</b> has learned {SAME}" in header
    assert f"learned {SAME}" in rows
    assert "AbsRel 1.00 times that of a constant depth)" in rows
    done = call("share.py", folder(dead_run), tmp_path / "shared")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "shared" / "README.md").read_text()
    assert f"**This network has learned {SAME}" in card
    assert "in validation (AbsRel 1.00 times that of a constant depth) |" in card


def test_a_run_that_learns_says_by_how_much_alone(tmp_path: Path) -> None:
    done = call(*train_args(tmp_path, *TINY, *ALIVE))
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith("learned")]
    ratio = state(tmp_path)["constant_ratio"]
    assert ratio < 0.9
    assert f"; {ratio:.2f} times that of a constant depth)" in done.stdout
    assert state(tmp_path)["learned"] is None
    assert call("report.py", tmp_path, "--out", tmp_path / "page.html").returncode == 0
    text = (tmp_path / "page.html").read_text()
    assert f"AbsRel {ratio:.2f} times that of a constant depth)" in text
    assert "has learned" not in text
    metrics = json.loads(read_metadata(ckpt(tmp_path, "best"))["metrics"])
    assert metrics["AbsRel"] / metrics["constant_AbsRel"] == pytest.approx(ratio)
