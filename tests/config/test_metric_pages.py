"""The pages that fix the scale: they load, and what their losses need is asked for before training."""

from __future__ import annotations

import pytest

from tests.world import ROOT
from trainer.config import ConfigError, load_config

FOLDER = ROOT / "cfg/synthetic"


def page(name, *overrides):
    return load_config([FOLDER / f"{name}.yaml"], [FOLDER / "default.yaml"], overrides=overrides)


def test_the_pages_differ_from_monocular_training_in_their_loss():
    plain, speed, height = (page(name) for name in ("monodepth2_M", "metric_speed", "metric_height"))
    assert speed.loss == {**plain.loss, "speed": {"weight": 0.05}}
    assert set(height.loss) == {*plain.loss, "camera_height"}
    assert (speed.warnings, height.warnings) == ((), ())
    assert speed.dataset_kwargs("val")[1]["use_speed"] is True


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["dataset.use_speed=false"], "loss.speed: needs how far the camera moves: set dataset.use_speed: true"),
        (["dataset.supp_idxs=[0]"], "loss.speed: needs how far the camera moves"),
        (["dataset.val.use_speed=false"], "true, but not in validation"),
    ],
)
def test_speed_is_asked_for_before_training(overrides, text):
    with pytest.raises(ConfigError, match=text):
        page("metric_speed", *overrides)


def test_a_height_without_a_meaning_is_named():
    with pytest.raises(ConfigError, match=r"loss\.camera_height.*height must be metres"):
        page("metric_height", "loss.camera_height.height=-1")


def test_speed_that_no_loss_reads_is_remarked():
    assert any(
        "dataset.use_speed: no loss reads it" in line
        for line in page("monodepth2_M", "dataset.use_speed=true").warnings
    )
