"""The objective says what is missing, and what to do about it."""

from __future__ import annotations

import pytest
from torch import nn

from tests.fakes import FakeDepth, FakePose, make_batch, make_losses, make_objective
from trainer.objective import Objective


@pytest.mark.parametrize(
    ("supp_idxs", "key", "fix"),
    [((-1, 1), "supports", r"dataset\.supp_idxs"), ((-1, 1), "K", "data set"), ((-1, 0), "T_stereo", "stereo pairs")],
)
def test_a_missing_key_of_the_batch_is_named_with_its_setting(supp_idxs, key, fix):
    batch = make_batch(2, supp_idxs)
    del batch[key]
    with pytest.raises(ValueError, match=f"no '{key}': .*{fix}"):
        make_objective(supp_idxs)(batch)


def test_hints_are_asked_of_the_batch():
    class Hints(nn.Module):
        needs, on_twin = frozenset({"hints"}), False

    with pytest.raises(ValueError, match=r"'depth_hints': set dataset\.use_hints: true"):
        make_objective(losses={"disp_smooth": Hints()})(make_batch())


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ({"supp_idxs": ()}, r"'img_recon' needs support frames: set dataset\.supp_idxs"),
        ({"pose": False}, r"'img_recon' needs support frames: .*add net\.pose"),
        (
            {"losses": make_losses(mask_name="uncertainty")},
            r"'img_recon' needs a predicted mask: set net\.depth\.mask_name",
        ),
    ],
)
def test_what_a_loss_needs_is_checked_before_the_first_batch(arguments, fix):
    with pytest.raises(ValueError, match=fix):
        make_objective(**arguments)


@pytest.mark.parametrize(
    "need", ["a predicted mask", "a virtual stereo view", "the stereo partner", "the network net.autoencoder"]
)
def test_all_missing_needs_are_listed_at_once(need):
    class Greedy(nn.Module):
        needs, on_twin = frozenset({"mask", "virtual_stereo", "stereo", "autoencoder"}), False

    with pytest.raises(ValueError, match=f"'disp_smooth' needs {need}"):
        make_objective(losses={"disp_smooth": Greedy()})


def test_a_need_nobody_knows_is_named():
    class Odd(nn.Module):
        needs, on_twin = frozenset({"suports"}), False

    with pytest.raises(ValueError, match="Did you mean 'supports'"):
        make_objective(losses={"disp_smooth": Odd()})


def test_virtual_stereo_without_a_stereo_support_is_an_error():
    with pytest.raises(ValueError, match=r"use_virtual_stereo: add 0 to dataset\.supp_idxs"):
        make_objective((-1, 1), depth=FakeDepth(use_virtual_stereo=True))


def test_networks_without_depth_are_an_error():
    with pytest.raises(ValueError, match="'depth'"):
        Objective({"pose": FakePose()}, {})


def test_a_weight_without_its_loss_is_named():
    with pytest.raises(ValueError, match="Did you mean 'img_recon'"):
        Objective({"depth": FakeDepth(), "pose": FakePose()}, make_losses(), {"img_recn": 1.0}, (-1, 1))


def test_a_support_named_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        make_objective((-1, -1))


def test_a_batch_with_other_supports_is_an_error():
    with pytest.raises(ValueError, match="3 supports"):
        make_objective((-1, 1))(make_batch(2, (-1, 1, 0)))


def test_a_mask_for_another_number_of_supports_is_an_error():
    depth = FakeDepth(mask_name="explainability", n_mask=3)
    with pytest.raises(ValueError, match=r"3 channels for 2 supports: set net\.depth\.num_ch_mask"):
        make_objective(losses=make_losses(mask_name="explainability"), depth=depth)(make_batch())


def test_scale_zero_must_be_predicted():
    with pytest.raises(ValueError, match=r"net\.depth\.out_scales"):
        make_objective(depth=FakeDepth(scales=(1, 2)))(make_batch())
