"""Features that losses compare: of the supports too, constants, without a trace in the depth encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.fakes import FakeAutoencoder, FakeDepth, FakePose, make_batch, make_losses
from trainer.objective import Objective


class Encoding(FakeDepth):
    """A depth network with an encoder that has batch statistics."""

    def __init__(self):
        super().__init__(n_mask=0)
        self.norm = nn.BatchNorm2d(3)

    def encode(self, images):
        return [self.norm(images)]


class Compare(nn.Module):
    """Stands for a loss on features; keeps what it was shown."""

    needs = frozenset({"supports", "features"})
    on_twin = False

    def forward(self, scene):
        self.feats, self.supp_feats = scene.feats, scene.supp_feats
        return scene.disp[0].mean(), {}


def build(losses, **more):
    networks = {"depth": Encoding(), "pose": FakePose(), **more}
    return Objective(networks, losses, supp_idxs=(-1, 1))


def test_features_of_supports_use_batch_statistics_and_leave_none():
    objective, batch = build({"compare": Compare()}).train(), make_batch(2)
    norm = objective.networks["depth"].norm
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    objective(batch)
    (feat,) = objective.losses["compare"].supp_feats
    expected = nn.functional.batch_norm(batch["supports"].flatten(0, 1), None, None, training=True)
    torch.testing.assert_close(feat, expected.view_as(batch["supports"]))
    assert not feat.requires_grad
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    assert norm.track_running_stats


def test_the_augmented_supports_are_what_is_encoded():
    objective, batch = build({"compare": Compare()}).eval(), make_batch(2)
    batch["supports_aug"] = 1 - batch["supports"]
    objective(batch)
    expected = batch["supports_aug"] / (1 + 1e-5) ** 0.5  # running mean 0, variance 1
    torch.testing.assert_close(objective.losses["compare"].supp_feats[0], expected)


def test_an_autoencoder_takes_the_place_of_the_depth_encoder():
    objective, batch = build({"compare": Compare()}, autoencoder=FakeAutoencoder()), make_batch(2)
    out = objective(batch)
    assert "supp_depth_feats" not in out.predictions
    assert torch.equal(objective.losses["compare"].feats[0], batch["target"])
    assert torch.equal(objective.losses["compare"].supp_feats[1], batch["supports"])


def test_nothing_is_encoded_unless_a_loss_asks():
    assert "supp_depth_feats" not in build(make_losses())(make_batch(2)).predictions


class Hinted(Compare):
    needs = frozenset({"supports", "img_recon"})

    def forward(self, scene):
        return scene.disp[0].mean() * self.photometric.use_min, {}


def test_a_loss_that_needs_img_recon_is_given_it_and_asks_for_it():
    losses = make_losses(use_min=True)
    objective = build({"hinted": Hinted(), **losses})
    assert objective.losses["hinted"].photometric is losses["img_recon"]
    assert all(name.startswith("networks.") for name in objective.state_dict())
    with pytest.raises(ValueError, match=r"'hinted' needs the loss img_recon, .*: add loss\.img_recon"):
        build({"hinted": Hinted()})
