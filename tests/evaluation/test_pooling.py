"""Means over all pixels: by hand, and against a second way that puts all pixels into one vector."""

import pickle

import numpy as np
import pytest
import torch

from tests.evaluation.test_evaluation import Truths, evaluate_depth, index_as_depth
from trainer.evaluation import Execution, pooled, without_advice
from trainer.evaluation.pooling import pooled_means
from trainer.metrics import METRICS
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.processes import ALONE, Processes

SETS = ["eigen", "benchmark"]
LIMITS = {"min_depth": 0.5, "max_depth": 60}


def worlds():
    """Three truths of different size and density; the last has no valid pixel."""
    rng = np.random.default_rng(3)
    maps = [rng.uniform(1, 70, size) * (rng.random(size) < share) for size, share in (((6, 9), 0.9), ((20, 30), 0.3))]
    return Truths([*maps, np.zeros((4, 4))])


def spread(images):
    """A prediction that is not flat."""
    return images[:, :1] * torch.linspace(3, 40, images.shape[-1])


def all_pixels(data, protocol):
    """Align and clip each image, then score the pixels of all as those of one."""
    preds, truths = [], []
    for i in range(2):
        truth = data.maps[i].double().numpy()
        valid = protocol.valid_pixels(truth)
        pred = torch.nn.functional.interpolate(
            1 / spread(data[i]["target"][None].double()), size=truth.shape, mode="bilinear", align_corners=False
        )
        pred = 1 / pred[0, 0].numpy()[valid]
        preds.append(protocol.clip(protocol.alignment.fit(pred, truth[valid]).apply(pred)))
        truths.append(truth[valid])
    return protocol.score(np.concatenate(preds), np.concatenate(truths))


@pytest.mark.parametrize("alignment", ["none", "median", "lsqr_depth_trim"])
def test_against_one_vector_of_all_pixels(alignment):
    data, protocol = worlds(), DepthProtocol(SETS, alignment, "none", **LIMITS)
    result = evaluate_depth(spread, data, protocol)
    section = pooled(result.items, protocol)
    expected = all_pixels(data, protocol)
    assert section["left_out"] == ["log_si_pct"]
    assert section["mean"] == pytest.approx({k: v for k, v in expected.items() if k != "log_si_pct"}, rel=1e-6)
    assert section["pixels"] == sum(item["pixels"] for item in result.items)
    assert "of 2 items" in section["over"]
    assert abs(section["mean"]["abs_rel"] / result.mean["abs_rel"] - 1) > 0.02


def test_by_hand():
    # image 0: one pixel, error 1 of 2 m; image 1: 32 pixels, no error
    sparse = np.zeros((4, 8))
    sparse[0, 0] = 2
    protocol = DepthProtocol(["eigen"], "none", "none")
    result = evaluate_depth(index_as_depth, Truths([sparse, np.full((4, 8), 2)]), protocol)
    mean = pooled(result.items, protocol)["mean"]
    assert (mean["abs_rel"], mean["rmse"], mean["d1"]) == pytest.approx((0.5 / 33, (1 / 33) ** 0.5, 32 / 33))
    assert result.mean["abs_rel"] == 0.25
    (remark,) = (line for line in result.remarks if "over all pixels" in line)
    assert remark.startswith(
        "none: means over all pixels, as some papers give them, differ from these means over images"
    )
    assert "abs_rel -93.9 %, sq_rel -93.9 %, d1 +93.9 %," in remark
    assert remark.endswith("--pooled stores them")
    assert without_advice(["a remark", remark]) == ["a remark", remark.removesuffix(". --pooled stores them")]


def test_nothing_is_said_where_they_agree():
    same = Truths([np.full((4, 8), 1.5), np.full((4, 8), 3.0)])  # the same relative errors
    protocol = DepthProtocol(["eigen"], "none", "none")
    assert [line for line in evaluate_depth(index_as_depth, same, protocol).remarks if "abs_rel" in line] == []
    assert evaluate_depth(index_as_depth, Truths([np.full((4, 8), 1.7)]), protocol).remarks == []


def test_numbers_on_edges_are_pooled_over_their_pixels():
    protocol = DepthProtocol(["eigen"], "none", "none")
    items = [
        {"pixels": 10, "pixels_edges": 1, "abs_rel": 0.1, "abs_rel_edges": 0.4},
        {"pixels": 30, "pixels_edges": 3, "abs_rel": 0.2, "abs_rel_edges": 0.8},
        {"pixels": 10, "abs_rel": 0.3},
    ]
    assert pooled_means(items, protocol) == {"abs_rel": pytest.approx(0.2), "abs_rel_edges": pytest.approx(0.7)}


def test_what_has_no_mean_over_all_pixels():
    """A median, an F-score or a spread is no mean over pixels, and distances of points are."""
    sets = [METRICS.get(name) for name in ("benchmark", "eigen", "pointcloud")]
    left_out = {m.key for s in sets for m in s.metrics if not m.pooled}
    assert left_out == {"log_si_pct", "f_score_10", "iou_10", "f_score_20", "iou_20"}


class TwoInOne(Processes):
    """What two processes exchange, in one: the items of the second after those of the first, through pickle."""

    def share(self, batches):
        return [*batches[::2], *batches[1::2]]

    def gather(self, mine):
        return pickle.loads(pickle.dumps(mine))


def test_two_processes_pool_to_the_same_bits():
    maps = np.random.default_rng(1).uniform(0, 90, (5, 6, 9))
    protocol = DepthProtocol(SETS, "median", "none", **LIMITS)
    results = [
        evaluate_depth(spread, Truths(maps), protocol, how=Execution(batch_size=1, processes=processes))
        for processes in (ALONE, TwoInOne())
    ]
    sections = [pooled(result.items, protocol) for result in results]
    assert sections[0] == sections[1]
    assert results[0].remarks == results[1].remarks != []
