"""Regularisers of features: first differences are wanted, second ones are not."""

import pytest
import torch

from tests.losses.scenes import random_scene
from trainer.losses import LOSSES
from trainer.losses.feature_regularisers import FeatureRegulariser

KINDS = ["feat_peaky", "feat_smooth"]


def one_row(values, image=None, levels=1):
    """A scene of one image of one row, without supports."""
    feat = torch.tensor(values).double().view(1, 1, 1, -1)
    target = torch.tensor(image or [0.0] * 4).double().expand(1, 3, 1, 4)
    extras = {"autoenc_feats": [feat] * levels}
    alone = {"supports": None, "supp_idxs": (), "scales": (0,)}
    return random_scene(1, size=(1, 4), dtype=torch.float64, target=target, extras=extras, **alone)


def test_one_step_in_a_row():
    """|1 - 4| once in four pixels; its differences are 3 before and after it."""
    scene = one_row([1.0, 1.0, 4.0, 4.0])
    assert LOSSES.create("feat_peaky")(scene)[0].item() == pytest.approx(-3 / 4)
    assert LOSSES.create("feat_smooth")(scene)[0].item() == pytest.approx(6 / 4)


def test_a_ramp_varies_steadily():
    """Differences 1, 1, 1 and, behind the last pixel, 0: the one second difference is where the picture ends."""
    scene = one_row([0.0, 1.0, 2.0, 3.0])
    assert LOSSES.create("feat_peaky")(scene)[0].item() == pytest.approx(-3 / 4)
    assert LOSSES.create("feat_smooth")(scene)[0].item() == pytest.approx(1 / 4)


def test_flat_features_cost_and_earn_nothing():
    for kind in KINDS:
        assert LOSSES.create(kind)(one_row([2.0] * 4))[0] == 0


def test_edges_of_the_image_take_away_weight():
    scene = one_row([1.0, 1.0, 4.0, 4.0], image=[0.0, 0.0, 1.0, 1.0])
    e = 2.718281828
    assert LOSSES.create("feat_peaky", use_edges=True)(scene)[0].item() == pytest.approx(-3 / 4 / e)
    assert LOSSES.create("feat_smooth", use_edges=True)(scene)[0].item() == pytest.approx(6 / 4 / e)


@pytest.mark.parametrize("kind", KINDS)
def test_level_k_counts_a_half_to_the_k(kind):
    one, two = (LOSSES.create(kind)(one_row([1.0, 1.0, 4.0, 4.0], levels=n))[0].item() for n in (1, 2))
    assert two == pytest.approx((one + one / 2) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_needs_the_autoencoder(kind):
    assert LOSSES.create(kind).needs == {"autoencoder"}
    assert not LOSSES.create(kind).on_twin


def test_what_both_share_is_no_loss_itself():
    with pytest.raises(TypeError, match="abstract"):
        FeatureRegulariser()
