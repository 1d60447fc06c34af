"""Optimizers by name with the right groups; epoch schedules; gradient norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import models_zoo
from trainer.config.optimizers import SCHEDULERS, make_scheduler
from trainer.runtime.errors import UserError
from trainer.training.optim import grad_norms, make_optimizer, rates, step_scheduler


def networks() -> nn.ModuleDict:
    parts = {"encoder": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4), "decoder": nn.Conv2d(4, 1, 1)}
    depth = nn.ModuleDict(parts)
    return nn.ModuleDict({"depth": depth, "pose": nn.ModuleDict({"head": nn.Linear(4, 6)})})


def test_weight_decay_spares_biases_and_norms() -> None:
    optimizer = make_optimizer(networks(), "adamw", 1e-3, weight_decay=0.1)
    for group in optimizer.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 8


def test_backbone_learns_at_its_own_rate() -> None:
    nets = networks()
    optimizer = make_optimizer(nets, "adam", 1e-3, backbone_lr=1e-5)
    slow = {id(p) for g in optimizer.param_groups if g["lr"] == 1e-5 for p in g["params"]}
    assert slow == {id(p) for p in nets["depth"]["encoder"].parameters()}


def test_parts_learn_at_their_own_rates() -> None:
    nets = networks()
    optimizer = make_optimizer(nets, "adam", 1e-3, group_lr={"pose": 1e-2, "depth.enc*": 1e-4})
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for part, rate in ((nets["pose"], 1e-2), (nets["depth"]["encoder"], 1e-4), (nets["depth"]["bn"], 1e-3)):
        assert {rates[id(p)] for p in part.parameters()} == {rate}
    with pytest.raises(UserError, match=r"optimizer.group_lr: pse matches no parameter.*depth, pose"):
        make_optimizer(networks(), "adam", 1e-3, group_lr={"pse": 1e-2})


def test_rates_decay_from_block_to_block_of_an_encoder() -> None:
    """test_vit has 6 blocks: the deepest at the rate of the encoder, the embeddings at 0.5**6 of it."""
    net = models_zoo.create("depth", enc_name="test_vit", pretrained=False, out_scales=[0], adapter={"type": "lora"})
    net.encoder.requires_grad_(True)
    nets = nn.ModuleDict({"depth": net, "pose": nn.ModuleDict({"encoder": nn.Conv2d(6, 8, 1)})})
    kwargs = {"backbone_lr": 1e-4, "layer_decay": 0.5, "group_lr": {"depth.encoder.vit.blocks.3": 1e-2}}
    with pytest.raises(UserError, match=r"optimizer.layer_decay: net.pose: Conv2d has no `group_matcher`"):
        make_optimizer(nets, "adamw", 1e-3, **kwargs)
    del nets["pose"]
    optimizer = make_optimizer(nets, "adamw", 1e-3, weight_decay=0.1, **kwargs)
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: held[id(p)]["lr"] for name, p in net.named_parameters()}
    assert found["encoder.vit.blocks.5.mlp.fc1.weight"] == found["encoder.vit.blocks.5.mlp.fc1.lora_A"] == 1e-4
    assert found["encoder.vit.blocks.4.norm1.bias"] == 5e-5
    assert found["encoder.vit.pos_embed"] == pytest.approx(1e-4 / 64)
    assert found["encoder.reassemble.0.0.weight"] == 1e-4
    assert found["encoder.vit.blocks.3.attn.qkv.weight"] == 1e-2
    assert {rate for name, rate in found.items() if name.startswith("decoders.")} == {1e-3}
    assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in optimizer.param_groups for p in group["params"])
    assert rates(nets, optimizer) == {"depth.encoder": 1e-2, "depth.decoders": 1e-3}


def test_frozen_batchnorm_has_no_gradient() -> None:
    nets = networks()
    optimizer = make_optimizer(nets, "sgd", 0.1, momentum=0.5, frozen_bn=True)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 6
    assert not nets["depth"]["bn"].weight.requires_grad
    assert optimizer.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("steplr", {"step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1]),
        ("exp", {"gamma": 0.5}, [1, 0.5, 0.25, 0.125]),
        ("cos", {"T_max": 2}, [1, 0.5, 0, 0.5]),
        ("cos_warm", {"T_0": 2}, [1, 0.5, 1, 0.5]),
        ("plateau", {"patience": 0, "factor": 0.1}, [1, 1, 0.1, 0.01]),
        ("linear", {"start_factor": 0.5, "total_iters": 2}, [0.5, 0.75, 1, 1]),
    ],
)
def test_schedules_by_hand(name: str, kwargs: dict, expected: list[float]) -> None:
    optimizer = make_optimizer(networks(), "sgd", 1.0)
    scheduler = make_scheduler(optimizer, 4, name, **kwargs)
    seen = []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step_scheduler(scheduler, 1.0)
    assert seen == pytest.approx(expected)
    assert name in SCHEDULERS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"type": "steplr", "step_size": 3, "warmup": 2, "warmup_factor": 0.5}, [0.5, 0.75, 1, 0.1, 0.1, 0.1]),
        ({"type": "cos", "by": "step"}, [1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),  # half a cosine over 6 steps
        ({"type": "cos", "warmup": 4}, [0.1, 0.325 * 0.9330127, 0.55 * 0.75, 0.775 * 0.5, 0.25, 0.0669873]),
        ({"type": "cos_warm", "T_0": 2, "warmup": 2, "warmup_factor": 0.5}, [0.5, 0.375, 1, 0.5, 1, 0.5]),
        ({"type": "plateau", "patience": 1, "warmup": 1}, [0.1, 1, 1, 0.1, 0.1, 0.01]),
    ],
)
def test_warmup_multiplies_any_schedule_by_hand(options: dict, expected: list[float]) -> None:
    """Continued after two steps in another process, it goes on with the same numbers."""
    optimizer = make_optimizer(networks(), "sgd", 1.0)
    scheduler = make_scheduler(optimizer, len(expected), **options)
    seen = []
    for number in range(len(expected)):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step_scheduler(scheduler, 1.0)
        if number == 1:
            other = make_optimizer(networks(), "sgd", 1.0)
            fresh = make_scheduler(other, len(expected), **options)
            other.load_state_dict(optimizer.state_dict())
            fresh.load_state_dict(scheduler.state_dict())
            optimizer, scheduler = other, fresh
    assert seen == pytest.approx(expected)


def test_plateau_ignores_a_value_that_could_not_be_computed() -> None:
    optimizer = make_optimizer(networks(), "sgd", 1.0)
    scheduler = make_scheduler(optimizer, 3, "plateau", patience=0)
    for value in (1.0, math.nan, None):
        step_scheduler(scheduler, value)
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_grad_norms_by_hand() -> None:
    nets = networks()
    for p in nets["pose"].parameters():
        p.grad = torch.full_like(p, 2.0)  # 24 + 6 entries
    norms = grad_norms(nets)
    assert set(norms) == {"pose", "total"}
    assert float(norms["total"]) == pytest.approx(2 * math.sqrt(30))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"depth": 1e-3, "pose": 1e-3}),
        ({"group_lr": {"pose": 1e-2}}, {"depth": 1e-3, "pose": 1e-2}),
        ({"backbone_lr": 1e-5}, {"depth.encoder": 1e-5, "depth.bn": 1e-3, "depth.decoder": 1e-3, "pose": 1e-3}),
    ],
)
def test_rates_are_called_by_their_networks(options: dict, expected: dict[str, float]) -> None:
    nets = networks()
    assert rates(nets, make_optimizer(nets, "adam", 1e-3, **options)) == expected
