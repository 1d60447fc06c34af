"""Regularisers of features: first differences are wanted, second ones are not."""

import pytest
import torch

from tests.losses import reference
from tests.losses.scenes import random_autoencoder, random_features, random_scene
from trainer.losses import LOSSES
from trainer.losses.feature_regularisers import FeatureRegulariser

KINDS = ["feat_peaky", "feat_smooth"]


def autoencoder_scene(b=2, **changes):
    return random_scene(b, dtype=torch.float64, **{"extras": random_autoencoder(b), **changes})


def one_row(values, image=None, levels=1):
    """A scene of one image of one row, without supports."""
    feat = torch.tensor(values).double().view(1, 1, 1, -1)
    target = (
        torch.zeros(1, 3, 1, 4).double() if image is None else torch.tensor(image).double().expand(1, 3, 1, 4)
    )
    extras = {"autoenc_feats": [feat] * levels}
    return random_scene(
        1,
        size=(1, 4),
        scales=(0,),
        dtype=torch.float64,
        target=target,
        supports=None,
        supp_idxs=(),
        extras=extras,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_edges", [False, True])
@pytest.mark.parametrize("b", [1, 2])
def test_agrees_with_the_slow_reference(kind, use_edges, b):
    scene = autoencoder_scene(b)
    supp_feats = [feat.flatten(0, 1).numpy() for feat in scene.supp_feats]
    images = scene.supports.flatten(0, 1).numpy()
    expected = reference.feature_regulariser(
        kind, [f.numpy() for f in scene.feats], scene.target.numpy(), use_edges
    )
    expected += reference.feature_regulariser(kind, supp_feats, images, use_edges)
    value, pictures = LOSSES.create(kind, use_edges=use_edges)(scene)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert not pictures


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
def test_supports_are_added_to_the_target(kind):
    scene = autoencoder_scene()
    alike = {
        **scene.extras,
        "supp_autoenc_feats": [feat.unsqueeze(1).expand(-1, 2, -1, -1, -1) for feat in scene.feats],
    }
    supports = scene.target.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    both = LOSSES.create(kind, use_edges=True)(autoencoder_scene(supports=supports, extras=alike))[0]
    alone = LOSSES.create(kind, use_edges=True)(autoencoder_scene(supports=None, supp_idxs=()))[0]
    assert both.item() == pytest.approx(2 * alone.item())


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_target_and_supports_learn_exactly(kind):
    feats, supp_feats = random_features(1, 2, size=(16, 16), levels=5, channels=2)
    inputs = [f.requires_grad_() for f in (*feats[2:], *supp_feats[2:])]

    def value(*inputs):
        extras = {"autoenc_feats": inputs[:3], "supp_autoenc_feats": inputs[3:]}
        scene = random_scene(1, size=(16, 16), dtype=torch.float64, extras=extras)
        return LOSSES.create(kind, use_edges=True)(scene)[0]

    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_needs_the_autoencoder(kind):
    loss = LOSSES.create(kind)
    assert loss.needs == {"autoencoder"}
    assert not loss.on_twin
    assert not loss.state_dict()


def test_what_both_share_is_no_loss_itself():
    with pytest.raises(TypeError, match="abstract"):
        FeatureRegulariser()
