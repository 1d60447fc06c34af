"""Scores of all passes: averages over levels by hand, and what counts as KITTI-C."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from trainer.data.corruptions.kinds import corrupt
from trainer.evaluation.corruption import Corruptions
from trainer.evaluation.robustness import report_robustness, save_robustness, scores_line, summarise
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.robustness import MONODEPTH2
from trainer.tables.aggregate import make_tables
from trainer.tables.reference import add_references
from trainer.tables.results import read_results

PUBLISHED = {"metrics": ["eigen"], "alignment": "median", "crop": "garg", "min_depth": 0.001, "max_depth": 80.0}
TRUTH = "LiDAR, metres ahead of the scanner"
PICTURES = (np.zeros((8, 8, 3), np.uint8),)


def about(**changes: Any) -> dict[str, Any]:
    data = {"type": "kitti", "split": "eigen", "mode": "test", "size": [640, 192]}
    checkpoint = {"file": "best.safetensors", "epoch": 1, "step": 2}
    return {"dataset": data, "truth": TRUTH, "limit": None, "checkpoint": checkpoint, **changes}


def done(corruptions: Corruptions) -> dict[str, dict[str, float]]:
    """Passes of the baseline: δ1 is 0.9 everywhere, AbsRel what gives its DEE on average, more at higher levels."""
    found = {"clean": {"abs_rel": 2 * 0.119 - 0.1, "d1": 0.9, "items": 697, "skipped": 0}}
    for name, kind, level in corruptions.passes():
        if kind is not None:
            found[name] = {"abs_rel": 2 * MONODEPTH2.kinds[kind] - 0.1 + 0.002 * (level - 3), "d1": 0.9}
    return found


WHOLE = Corruptions(frost_pictures=PICTURES)


def result(corruptions: Corruptions = WHOLE, **changes: Any) -> dict[str, Any]:
    own = {key: changes.pop(key) for key in ("dataset", "truth", "limit") if key in changes}
    return summarise(done(corruptions), corruptions, DepthProtocol(**{**PUBLISHED, **changes}), about(**own))


def test_the_baseline_itself():
    found = result()
    assert found["benchmark"] == "KITTI-C"
    assert "differs" not in found
    mean = found["mean"]
    assert (round(mean["mce_pct"], 2), round(mean["mrr_pct"], 2), round(mean["rmce"], 2)) == (100, 84.46, 1)
    assert scores_line(found) == "KITTI-C: mCE 100.00 %, mRR 84.46 %, RmCE 1.000"
    assert {row["kind"]: row["dee"] for row in found["kinds"]} == {"clean": 0.119, **MONODEPTH2.kinds}
    assert len(found["passes"]) == 90


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"alignment": "stereo"}, "alignment stereo, not median"),
        ({"crop": "none"}, "crop none, not garg"),
        ({"max_depth": 100.0}, "depth 0.001-100 m, not 0.001-80 m"),
        ({"flip": True}, "flip yes, not no"),
        ({"truth": "another"}, f"truth another, not {TRUTH}"),
        ({"dataset": {**about()["dataset"], "size": [1024, 320]}}, "input 1024x320, not 640x192"),
        ({"dataset": {**about()["dataset"], "split": "zhou"}}, "data kitti zhou test, not kitti eigen test"),
        ({"corruptions": Corruptions(("fog",))}, "corruptions fog x 5 levels, not 18 kinds x 5 levels"),
        ({"corruptions": Corruptions(levels=(1, 3))}, "corruptions 18 kinds x levels 1, 3, not 18 kinds x 5 levels"),
    ],
)  # fmt: skip
def test_another_protocol_is_not_kitti_c(changes, difference):
    found = result(**changes)
    assert found["differs"] == [difference]
    assert (found["benchmark"], found["protocol"]["kitti_c"]) == ("not KITTI-C", "no")
    assert "mce_pct" not in found["mean"]
    assert "mean_ce_pct" in found["mean"]


def test_the_same_pictures_in_a_database_are_kitti_c():
    assert "differs" not in result(dataset={**about()["dataset"], "type": "kitti_lmdb"})


@pytest.mark.parametrize("kind", ["kitti", "synthetic"])
def test_errors_of_the_baseline_stand_beside_those_of_the_same_pictures_only(kind):
    out = io.StringIO()
    report_robustness(result(dataset={**about()["dataset"], "type": kind}), Console(file=out, width=200))
    assert ("baseline" in out.getvalue()) == ("CE [%]" in out.getvalue()) == (kind == "kitti")
    assert ("only compare networks on these pictures" in out.getvalue()) == (kind == "synthetic")


def test_frost_of_our_own_is_said_to_be():
    found = result(Corruptions())
    assert found["protocol"]["frost"] == "own texture, not comparable"
    assert scores_line(found).startswith("KITTI-C (frost: own texture, not comparable): mCE")


def test_frost_of_pictures_is_another_pass():
    own, other = Corruptions(), Corruptions(frost_pictures=PICTURES)
    assert own.name_of("frost", 2) == "frost 2"
    assert other.name_of("frost", 2) != "frost 2"
    assert other.name_of("fog", 2) == "fog 2"


@pytest.mark.parametrize(
    ("corruptions", "note"), [(WHOLE, "published rows: "), (Corruptions(), "frost pictures, not own texture")]
)
def test_published_rows_stand_beside_the_same_protocol_only(tmp_path, corruptions, note):
    path = tmp_path / "md2" / "42" / "results" / "r.yaml"
    path.parent.mkdir(parents=True)
    save_robustness(result(corruptions), path)
    tables = make_tables(read_results(tmp_path), tmp_path)
    add_references(tables, "kitti_c")
    (table,) = tables
    assert any(note in line for line in table.notes)
    rows = {row.model: {c.key: cell.mean for c, cell in row.cells.items()} for row in table.references}
    assert len(rows) == (13 if corruptions is WHOLE else 0)
    monovit = [row for model, row in rows.items() if model.startswith("MonoViT")]
    assert monovit == ([{"mce_pct": 79.33, "mrr_pct": 89.15}] if corruptions is WHOLE else [])


class Steps:
    """Two items: pictures (3 6 8) of whole numbers of grey levels."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        levels = torch.arange(144).view(3, 6, 8) + 50 * index
        return {"target": levels / 255, "depth": torch.ones(1, 6, 8), "index": torch.tensor(index)}

    def scene_of(self, index):
        return None

    def describe(self, index):
        return f"item {index}"


def test_items_are_corrupted_as_bytes_by_their_index():
    items = Corruptions(seed=4).applied(Steps(), "shot_noise", 2)
    levels = (np.arange(144).reshape(3, 6, 8) + 50).transpose(1, 2, 0).astype(np.uint8)
    expected = corrupt(levels, "shot_noise", 2, seed=4, index=1)
    assert torch.equal(items[1]["target"], torch.from_numpy(expected).permute(2, 0, 1) / 255)
    assert torch.equal(items[1]["depth"], Steps()[1]["depth"])
    assert (len(items), items.describe(1)) == (2, "item 1")
