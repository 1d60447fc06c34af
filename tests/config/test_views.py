"""Views and what compares them come together, in training alone; the pages that have them train."""

from __future__ import annotations

import pytest
import torch

from trainer.build import build_dataset, build_loader, build_objective
from trainer.config import ConfigError, load_config

HIGH = "dataset.train.views={high: [1.1, 2.0]}"
LOSS = "loss.view_consistency={}"


def load(*overrides, page="synthetic/monodepth2_M"):
    return load_config(page, f"{page.split('/')[0]}/default", overrides)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([HIGH], "dataset.train.views: no loss compares the views; add loss.view_consistency"),
        (["dataset.views={high: [1.1, 2.0]}"], "dataset.views: no loss compares"),
        ([LOSS], "loss.view_consistency: needs several views of each item: set dataset.train.views"),
        ([LOSS, "dataset.train.views={high: ~}"], "needs several views"),
        ([LOSS, HIGH, "dataset.val.views={high: [1.1, 2.0]}"], "dataset.val.views: only training has views"),
        (["loss.view_consistency.use_automask=true", HIGH], "needs the mask of img_recon: set loss.img_recon.use_auto"),
        ([LOSS, "dataset.train.views={low: [1.1, 2.0]}"], "dataset.train.views: low is the range .* from 0.5 to 1;"),
        ([LOSS, HIGH, "trainer.monitor=loss_view_consistency"], "trainer.monitor: 'loss_view_consistency' is not a"),
    ],
)
def test_what_does_not_go_together_is_said_at_its_key(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load(*overrides)


def test_views_are_of_training():
    cfg = load(LOSS, "dataset.views={high: [1.1, 2.0], low: ~}")
    assert build_dataset(cfg, "train").views == {"high": (1.1, 2.0)}
    assert build_dataset(cfg, "val").views == {}


@pytest.mark.parametrize(("page", "factor"), [("modern/ra_depth", 3), ("modern/bdedepth", 1)])
def test_the_pages_train(page, factor):
    """The loss is that of the paper: a sum over three views, or a mean."""
    small = [
        *("dataset.type=synthetic", "dataset.split=~", "dataset.size=[64,64]", "dataset.num_items=2"),
        *("loader={batch_size: 2, num_workers: 0}", "net.depth.dec_name=monodepth"),
        *(f"net.{net}.{key}" for net in ("depth", "pose") for key in ("enc_name=test_resnet", "pretrained=false")),
    ]
    cfg = load(*small, page=page)
    assert cfg.warnings == ()
    torch.manual_seed(0)
    objective = build_objective(cfg).train()
    [batch] = build_loader(cfg, "train", build_dataset(cfg, "train"), seed=0, rank=0, world=1)
    out = objective(batch)
    losses, weights = out.losses, objective.weights
    assert torch.allclose(out.loss, sum(weights[key] * losses[key] for key in weights))
    assert weights["img_recon"] == factor
    assert weights["disp_smooth"] == 0.001 * factor
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
