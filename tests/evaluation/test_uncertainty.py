"""Uncertainty of a mirrored image, an ensemble, a mask and a file, by rules in place of networks."""

import numpy as np
import pytest
import torch

from tests.evaluation.test_evaluation import Truths
from trainer.evaluation import StoredDepth, evaluate_side_by_side, save_result, uncertainty
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.sparsification import Sparsification
from trainer.runtime.errors import UserError

MEDIAN, NONE, LSQR = (ALIGNMENTS[name] for name in ("median", "none", "lsqr_disp"))
ITEM = {"target": torch.arange(24.0).reshape(1, 4, 6).expand(3, 4, 6) + 1}
DEPTH = ITEM["target"][0].double().numpy()


def as_depth(images):
    """Predict the brightness of the picture."""
    return images[:, :1]


def leaning(images):
    """Predict 1 at the left border, 6 at the right one, whatever is shown."""
    return torch.arange(1.0, 7).expand(len(images), 1, 4, 6)


def test_a_network_that_treats_both_sides_alike_is_certain():
    assert not uncertainty.of_mirrored(as_depth)(ITEM, 0, DEPTH)(MEDIAN).any()
    found = uncertainty.of_mirrored(leaning)(ITEM, 0, DEPTH)(MEDIAN)
    assert found[0] == pytest.approx([1 - 1 / 6, 1 / 2 - 1 / 5, 1 / 3 - 1 / 4, 1 / 12, 3 / 10, 5 / 6])
    wide = uncertainty.of_mirrored(leaning)(ITEM, 0, np.ones((8, 12)))(MEDIAN)
    assert wide.shape == (8, 12)
    assert wide[0, 0] == pytest.approx(5 / 6)


def test_networks_of_another_scale_are_not_uncertain():
    """Brought to the first by the alignment, if that has a fit: with `none` the unit is the same for all."""
    doubt = uncertainty.of_ensemble([lambda images: 3 * images[:, :1], lambda images: 0.5 * images[:, :1]])
    under = doubt(ITEM, 0, DEPTH)
    assert under(MEDIAN) == pytest.approx(np.zeros((4, 6)), abs=1e-7)
    assert under(NONE) == pytest.approx(np.std([1, 1 / 3, 2]) / DEPTH, rel=1e-6)
    shifted = uncertainty.of_ensemble([lambda images: 1 / (0.2 + 2 / images[:, :1])])(ITEM, 0, DEPTH)
    assert shifted(LSQR) == pytest.approx(np.zeros((4, 6)), abs=1e-7)
    assert shifted(MEDIAN).max() > 0.01


def test_a_mask_is_the_mean_over_supports():
    doubt = uncertainty.of_mask(lambda images: torch.stack([0 * images[0, 0], images[0, 0]])[None])
    assert doubt(ITEM, 0, DEPTH)(MEDIAN) == pytest.approx(DEPTH / 2)


@pytest.fixture
def truths():
    rng = np.random.default_rng(0)
    return Truths(rng.uniform(1, 30, (5, 4, 8)))


def evaluated(truths, source, doubt, **options):
    protocol = DepthProtocol(["eigen"], "median", "none", extra={"sparsification": Sparsification(4)})
    return evaluate_side_by_side(source, truths, [protocol], doubt=doubt, **options)[0]


def stored(truths, seed=1):
    rng = np.random.default_rng(seed)
    maps = torch.stack(truths.maps).numpy()
    pred = maps * np.exp(rng.normal(0, 0.3, maps.shape)).astype(np.float32)
    pred /= np.median(pred / maps, axis=(1, 2), keepdims=True)
    return StoredDepth(pred, "depth", uncertainty=np.abs(pred - maps) / maps)


def test_results_keep_means_and_mean_curves(truths, tmp_path):
    source = stored(truths)
    result = evaluated(truths, source, uncertainty.of_file(source, tmp_path))
    plain = evaluate_side_by_side(source, truths, [DepthProtocol(["eigen"], "median", "none")])[0]
    assert {key: result.mean[key] for key in plain.mean} == plain.mean
    assert result.mean["aurg_abs_rel"] > 0.05
    assert 0 <= result.mean["ause_abs_rel"] < 0.03  # the alignment moves the errors a little
    assert result.curves["removed"] == [0, 0.25, 0.5, 0.75]
    assert result.curves["abs_rel_by_uncertainty"][0] == pytest.approx(result.mean["abs_rel"], abs=1e-8)
    heights = np.array(result.curves["rmse_by_uncertainty"]) - result.curves["rmse_by_error"]
    assert (heights.sum() - (heights[0] + heights[-1]) / 2) / 4 == pytest.approx(result.mean["ause_rmse"], abs=1e-8)
    assert all("curves" not in item for item in result.items)
    save_result(result, tmp_path / "r.yaml")
    assert "\ncurves:\n  removed: [0.0, 0.25, 0.5, 0.75]\n" in (tmp_path / "r.yaml").read_text()


def test_a_file_without_uncertainty_says_so(truths, tmp_path):
    with pytest.raises(UserError, match="has no array 'uncertainty'"):
        uncertainty.of_file(StoredDepth(stored(truths).values, "depth"), tmp_path / "p.npz")


@pytest.mark.parametrize(
    ("doubt", "message"),
    [
        (np.zeros((2, 4, 8), np.float32), r"must be floats \(5, h, w\)"),
        (np.zeros((5, 4, 8), np.int64), "got int64"),
        (np.full((5, 4, 8), np.nan), "of item 0 is not finite"),
    ],
)
def test_uncertainties_that_cannot_be_read(truths, tmp_path, doubt, message):
    path = tmp_path / "p.npz"
    np.savez(path, pred=stored(truths).values, kind="depth", uncertainty=doubt)
    with pytest.raises(UserError, match=message):
        StoredDepth.read(path)
