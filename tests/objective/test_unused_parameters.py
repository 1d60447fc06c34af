"""Several processes train systems in which some parameters have no part in the loss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.test_runs import EXACT, build, join
from tests.world import ROOT, run_world
from trainer.build import build_objective
from trainer.config import load_config
from trainer.runtime.errors import UserError
from trainer.training.setup import DDP_OPTIONS
from trainer.training.wrapping import check_all_used, dry_step

SIZE = (64, 64)  # pixels (h, w)
SMALL: dict[str, Any] = {
    "net": {"depth": {"enc_name": "test_resnet"}, "pose": {"enc_name": "test_resnet"}},
    "dataset": {"size": [64, 64], "supp_idxs": [-1, 1]},
    "loss": {"img_recon": {"automask_noise": 0}},
}
CASES: dict[str, dict[str, Any]] = {
    "a mask without a loss": {"net": {"depth": {"mask_name": "explainability", "num_ch_mask": 2}}},
    "layers for maps nobody reads": {"net": {"pose": {"enc_name": "hrnet_w18_small"}}},
    "an autoencoder whose features are constants": {
        "net": {"autoencoder": {"enc_name": "test_resnet", "pretrained": False}},
        "loss": {"feat_recon": {"loss_name": "l2", "automask_noise": 0}},
    },
    "an autoencoder with a ViT": {
        "net": {"autoencoder": {"enc_name": "test_vit", "pretrained": False}},
        "loss": {"autoenc_recon": {}},
    },
    "a pose network nobody asks": {"loss": {"img_recon": None}},
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = copy.deepcopy(base)
    for key, value in over.items():
        nested = isinstance(both.get(key), dict) and isinstance(value, dict)
        both[key] = merged(both[key], value) if nested else value
    return both


def _steps(rank: int, world: int, folder: Path) -> None:
    for case, changes in CASES.items():
        torch.manual_seed(0)
        cfg = load_config(ROOT / "cfg/synthetic/default.yaml", overrides=[merged(SMALL, changes)])
        objective = build_objective(cfg)
        model = DistributedDataParallel(objective, **DDP_OPTIONS)
        optimizer = torch.optim.SGD(objective.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(rank)
        K = torch.tensor([[37.0, 0, 32], [0, 120, 32], [0, 0, 1]]).expand(1, 3, 3)
        for _ in range(2):  # DDP complains of the first step in the second
            images = torch.rand(1, 3, 3, *SIZE, generator=generator)
            batch = {"target": images[:, 0], "supports": images[:, 1:], "K": K, "index": torch.arange(1)}
            try:
                model(batch).loss.backward()
            except RuntimeError as error:
                raise AssertionError(case) from error
            optimizer.step()
            optimizer.zero_grad()
        torch.save([p.detach() for p in objective.parameters()], folder / f"{case} {rank}.pt")


@pytest.mark.slow
def test_parameters_without_a_part_in_the_loss_stop_nobody(tmp_path):
    run_world(_steps, 2, tmp_path, tmp_path)
    for case in CASES:
        first, second = (torch.load(tmp_path / f"{case} {rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), case


@pytest.mark.parametrize("case", [None, "a mask without a loss", "an autoencoder with a ViT"])
def test_a_dry_step_finds_them_and_leaves_no_trace(case: str | None) -> None:
    torch.manual_seed(0)
    overrides = [merged(SMALL, CASES[case] if case else {})]
    objective = build_objective(load_config(ROOT / "cfg/synthetic/default.yaml", overrides=overrides)).eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    K = torch.tensor([[37.0, 0, 32], [0, 120, 32], [0, 0, 1]]).expand(1, 3, 3)
    images = torch.rand(1, 3, 3, *SIZE)
    batch = {"target": images[:, 0], "supports": images[:, 1:], "K": K, "index": torch.arange(1)}
    unused = dry_step(objective, objective, batch)
    assert bool(unused) == (case is not None), unused
    assert not objective.training
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(p.grad is None for p in objective.parameters())


def test_a_parameter_that_falls_out_later_is_named() -> None:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(1, 1, bias=False), "left": torch.nn.Linear(1, 1, bias=False)})
    model["used"](torch.ones(1, 1)).sum().backward()
    check_all_used(model)  # not wrapped
    model.find_unused_parameters = True
    check_all_used(model)
    model.find_unused_parameters = False
    with pytest.raises(UserError, match=r"left\.weight had no part in the loss of this step"):
        check_all_used(model)


def _wrapped(rank: int, world: int, folder: Path) -> None:
    """What DistributedDataParallel looks for, on two processes."""
    join(rank, world)
    found = {}
    for name, overrides in {"all": (), "mask": ("net.depth={mask_name: explainability, num_ch_mask: 3}",)}.items():
        loop, run = build(folder / name, rank, *EXACT, "trainer.limit_val_batches=0", *overrides)
        before = {key: value.clone() for key, value in loop.objective.state_dict().items()}
        found[name] = loop.model.find_unused_parameters
        for batches in loop.groups():
            loop.step(batches)
            break
        moved = any(not torch.equal(value, before[key]) for key, value in loop.objective.state_dict().items())
        assert moved
        run.close()
    assert found == {"all": False, "mask": True}


@pytest.mark.long
def test_only_systems_with_unused_parameters_are_searched_for_them(tmp_path):
    run_world(_wrapped, 2, tmp_path, tmp_path)
