"""Clips of rendered drives: a perfect prediction agrees with itself, one that flickers does not."""

from functools import cache

import numpy as np
import pytest
import torch

from tests.evaluation.test_odometry import Drive
from trainer.data.synthetic import Synthetic
from trainer.evaluation import Execution, StoredDepth, evaluate_learned_temporal, evaluate_temporal, temporal
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError

DRIVES = {"mode": "test", "size": (96, 64), "num_items": 8, "items_per_scene": 4, "right_targets": False}


class Drives(Synthetic):
    """Two drives of four frames each, rendered once."""

    def __init__(self, supp_idxs=None, **changes):
        super().__init__(supp_idxs=supp_idxs, **{**DRIVES, **changes})
        self.rendered = {}

    def __getitem__(self, index):
        if index not in self.rendered:
            self.rendered[index] = super().__getitem__(index)
        return self.rendered[index]


@cache
def drives(sky_depth=False):
    """Without supports, and with the next frame."""
    return Drives(sky_depth=sky_depth), Drives((1,), use_depth=False, sky_depth=sky_depth)


def true_depth(frames, wrong=lambda index: 1.0):
    """True depth times `wrong`, 0 where there is none."""
    return StoredDepth(np.stack([frames[i]["depth"][0].numpy() * wrong(i) for i in range(len(frames))]), "depth")


def protocols(*alignments, **limits):
    return [DepthProtocol(["eigen"], alignment, "none", **limits) for alignment in alignments]


def scored(wrong=lambda index: 1.0, alignment="none"):
    frames, moving = drives(sky_depth=True)
    return evaluate_temporal(true_depth(frames, wrong), frames, moving, protocols(alignment))[0]


def test_a_perfect_prediction_agrees_with_itself():
    result = scored()
    assert result["mean"]["tae_pct"] < 3  # rounding to whole pixels and edges
    assert [(c["frames"], c["pairs"], c["empty"]) for c in result["clips"]] == [(4, 3, 0)] * 2
    assert result["clips"][0]["name"] == "synthetic/test/scene 0/left"
    assert result["mean"]["tae_pct"] == pytest.approx(np.mean([c["tae_pct"] for c in result["clips"]]))
    assert (result["protocol"]["poses"], result["protocol"]["mean_over"]) == ("true motion", "clips")


def test_flicker_shows_and_a_wrong_scale_does_not():
    perfect = scored()["mean"]["tae_pct"]
    flicker = scored(lambda index: 1.2 if index % 2 else 1.0)["mean"]["tae_pct"]
    assert flicker > perfect + 10  # the mean of 0.2 / 1.2 and 0.2 without anything else
    for alignment in ("median", "lsqr_disp", "lsqr_depth"):
        assert scored(lambda index: 7.0, alignment)["mean"]["tae_pct"] == pytest.approx(perfect, abs=0.05)
    assert scored(lambda index: 7.0 if index < 4 else 2.0, "median")["mean"]["tae_pct"] == pytest.approx(
        perfect, abs=0.05
    )


def test_alignments_side_by_side_equal_each_alone():
    frames, moving = drives()
    source = true_depth(frames, lambda index: 2.0)
    together = evaluate_temporal(source, frames, moving, protocols("median", "lsqr_disp", max_depth=30), Execution(3))
    alone = [evaluate_temporal(source, frames, moving, protocols(a, max_depth=30))[0] for a in ("median", "lsqr_disp")]
    assert together == alone
    assert together[0]["protocol"]["factor"] == "median(truth) / median(prediction), per clip"
    assert together[0]["clips"][0]["factor"] == pytest.approx(0.5)
    assert set(together[1]["clips"][0]) > {"factor", "shift", "below_least_disp_pct"}


def test_clips_are_cut_where_a_frame_or_its_motion_is_missing(monkeypatch):
    motions = {("a", i): np.eye(4) for i in range(5)} | {("b", i): np.eye(4) for i in range(8)}
    clips = temporal.cut_clips(Drive(), motions)
    assert [(c.name, list(c.items)) for c in clips] == [
        ("a", [0, 1, 2, 3, 4, 5]),
        ("b", [6, 7, 8]),
        ("b", [9, 10, 11, 12]),
    ]
    del motions["a", 2]
    assert [list(c.items) for c in temporal.cut_clips(Drive(), motions)][:2] == [[0, 1, 2], [3, 4, 5]]
    monkeypatch.setattr(temporal, "MOST_FRAMES", 4)
    assert [len(c.items) for c in temporal.cut_clips(Drive(), None)] == [4, 2, 3, 4]
    assert [len(c.motions) for c in temporal.cut_clips(Drive(), motions)] == [2, 2, 2, 3]


class Steady:
    """A network that sees the true scene in a unit of its own."""

    def __init__(self, frames, unit=3.0, flicker=1.0):
        self.frames, self.unit, self.flicker = frames, unit, flicker

    def __call__(self, batch):
        items = [self.frames[int(i)] for i in self.index_of(batch)]
        depth = torch.stack([item["depth"] for item in items]).clamp_min(1e-3) / self.unit
        depth[::2] *= self.flicker
        Ts = torch.stack([self.moving[int(i)]["Ts_true"] for i in self.index_of(batch)])
        Ts[..., :3, 3] /= self.unit
        return depth, Ts, batch["K"]

    def index_of(self, batch):
        targets = [self.frames[i]["target"] for i in range(len(self.frames))]
        return [next(i for i, t in enumerate(targets) if torch.equal(t, image)) for image in batch["target"]]


def test_learned_motion_needs_no_truth():
    frames, moving = drives(sky_depth=True)
    rows = []
    for flicker in (1.0, 1.2):
        network = Steady(frames, flicker=flicker)
        network.moving = moving
        result = evaluate_learned_temporal(network, moving, Execution(batch_size=8))
        rows.append(result["mean"]["tae_pct"])
        assert result["protocol"]["poses"] == "learned motion"
        assert (result["protocol"]["alignment"], result["protocol"]["crop"]) == ("none", "none")
    assert rows[0] < 5 < 12 < rows[1]
    true = evaluate_temporal(true_depth(frames), frames, moving, protocols("none", max_depth=1e6))[0]
    assert rows[0] == pytest.approx(true["mean"]["tae_pct"], abs=0.2)  # the unit cancels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supp_idxs": (-1, 1)}, "the next frame"),
        ({"num_items": 4, "items_per_scene": 1}, "none of 4 items is followed by the next frame"),
    ],
)
def test_what_has_no_clips(change, message):
    moving = Drives(**{"supp_idxs": (1,), **change})
    frames = Drives(**{**change, "supp_idxs": None})
    with pytest.raises(UserError, match=message):
        evaluate_temporal(true_depth(frames), frames, moving, protocols("none"))


def test_nothing_to_score_is_an_error():
    frames, moving = drives()
    with pytest.raises(UserError, match="no two neighbouring frames have a common pixel"):
        evaluate_temporal(true_depth(frames), frames, moving, protocols("none", min_depth=900, max_depth=1000))
