"""What is computed again in the backward pass changes no number, only how much memory waits for it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import models_zoo
from models_zoo.decoders import DECODERS
from tests.fakes import FakeDepth, make_batch, make_objective
from tests.models_zoo.smallest import smallest
from tests.world import run_world
from trainer.objective import Objective
from trainer.objective.batchnorm import synchronise_batchnorm
from trainer.objective.freezing import freeze
from trainer.objective.recompute import Recomputed, recompute
from trainer.runtime.errors import UserError

ENCODERS = ("test_resnet", "test_convnext", "test_efficientnet", "test_vit")
DROP = 0.2


def make(enc_name: str = "test_resnet", drop: float = DROP, **options: Any) -> Objective:
    """An objective without losses around a depth network; its blocks drop a part of what they compute."""
    torch.manual_seed(0)
    options = {"enc_name": enc_name, "out_scales": (0, 1), **options}
    depth = models_zoo.create("depth", pretrained=False, **options)
    for module in depth.modules():
        if isinstance(module, (nn.Dropout, DropPath)):
            module.p = module.drop_prob = drop
    return Objective({"depth": depth}, {})


def with_recomputation(objective: Objective) -> Objective:
    twin = copy.deepcopy(objective)
    recompute(twin)
    return twin


def loss_of(network: nn.Module, dtype: torch.dtype | None = None) -> torch.Tensor:
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        out = network(images)
    maps = [*out["disp"].values(), *out["depth_feats"]]
    return sum(m.float().square().mean() for m in maps)


def result(objective: Objective, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Loss, gradients and buffers after one forward and backward pass."""
    network = objective.networks["depth"]
    loss = loss_of(network, dtype)
    loss.backward()
    gradients = {f"grad of {k}": p.grad for k, p in network.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(network.named_buffers())}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("enc_name", ENCODERS)
def test_every_encoder_gives_the_same_numbers(enc_name: str) -> None:
    plain = make(enc_name)
    assert_equal(result(with_recomputation(plain)), result(plain))


@pytest.mark.parametrize("dec_name", DECODERS.names())
def test_every_decoder_gives_the_same_numbers(dec_name: str) -> None:
    plain = make(**smallest(dec_name))
    ours = with_recomputation(plain)
    assert any(isinstance(m, Recomputed) for m in ours.networks["depth"].decoders.modules())
    assert_equal(result(ours), result(plain))


def test_the_draws_of_a_step_are_repeated() -> None:
    plain = make("test_convnext")
    torch.manual_seed(0)
    plain.networks["depth"].encoder.stages_0.blocks[0].drop_path = DropPath(0.5)
    ours = with_recomputation(plain)
    assert_equal(result(ours), result(plain))
    assert not torch.equal(torch.rand(1), torch.rand(1))


def test_autocast_gives_the_same_numbers() -> None:
    plain = make(dec_name="ddvnet")
    assert_equal(result(with_recomputation(plain), torch.bfloat16), result(plain, torch.bfloat16))


def test_frozen_batchnorm_and_frozen_blocks_work() -> None:
    plain = make()
    freeze(plain, ["depth.encoder.layer1"], batchnorm=True)
    assert_equal(result(with_recomputation(plain)), result(plain))


class Alive(TorchDispatchMode):
    """Remember the storages that are made meanwhile; `num_bytes` counts those that still live.

    Saved tensors are in it, and what a checkpoint holds beside them. Weights of `network`, seen in views, are not.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.weights = {p.untyped_storage()._cdata for p in network.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def num_bytes(self) -> int:
        made = (entry for key, entry in self.storages.items() if key not in self.weights)
        return sum(size for reference, size in made if not reference.expired())


@pytest.mark.parametrize("enc_name", ENCODERS)
def test_at_most_four_fifths_of_the_memory_wait_for_the_backward_pass(enc_name: str) -> None:
    plain = make(enc_name)
    waiting = []
    for objective in (plain, with_recomputation(plain)):
        with Alive(objective) as alive:
            loss = loss_of(objective.networks["depth"])
        waiting.append(alive.num_bytes())
        loss.backward()
    assert waiting[1] <= waiting[0] * 4 / 5  # decoders keep only padded maps, with or without


def test_names_and_copies_stay() -> None:
    plain = make()
    ours = with_recomputation(plain)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert_equal(result(copy.deepcopy(ours)), result(plain))
    count = sum(isinstance(m, Recomputed) for m in ours.modules())
    assert count > 0
    with pytest.raises(UserError, match="no blocks"):  # all of them are recomputed already
        recompute(ours)
    assert sum(isinstance(m, Recomputed) for m in ours.modules()) == count


def test_nothing_is_kept_for_later_without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = with_recomputation(make())
    monkeypatch.setattr("trainer.objective.recompute.checkpoint", None)  # calling it would fail
    with torch.no_grad():
        loss_of(ours.networks["depth"])
    ours.eval()
    loss_of(ours.networks["depth"]).backward()


class Block(nn.Sequential):
    """Two layers, the first of which may change its input."""

    def __init__(self, inplace: bool) -> None:
        super().__init__(nn.ReLU(inplace=inplace), nn.Conv2d(3, 3, 3, padding=1))


class Depth(FakeDepth):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(False), Block(inplace))

    def forward(self, images):
        return super().forward(self.blocks(images))


def test_a_block_that_overwrites_its_input_is_refused() -> None:
    objective = make_objective(depth=Depth(inplace=False))
    assert recompute(objective) == ["recomputed in the backward pass: 2 blocks of depth"]
    objective(make_batch()).loss.backward()
    objective = make_objective(depth=Depth(inplace=True))
    recompute(objective)
    with pytest.raises(UserError, match=r"depth\.blocks\.1 changes its input in place"):
        objective(make_batch())


def test_networks_without_blocks_are_refused() -> None:
    with pytest.raises(UserError, match=r"the networks \(depth, pose\) have no blocks"):
        recompute(make_objective())


def test_blocks_with_hooks_are_left_as_they_are() -> None:
    objective = make_objective(depth=Depth(inplace=False))
    calls = []
    objective.networks["depth"].blocks[0][1].register_forward_hook(lambda *args: calls.append(1))
    assert recompute(objective) == ["recomputed in the backward pass: 1 blocks of depth"]
    objective(make_batch()).loss.backward()
    assert len(calls) == 1


class Stacked(nn.Module):
    """A block that reads a list which its caller extends after the call, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ELU())

    def forward(self, maps):
        return self.layers(sum(maps))


class Dense(FakeDepth):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Stacked() for _ in range(2))

    def forward(self, images):
        maps = [images]
        for block in self.blocks:
            maps.append(block(maps))
        return super().forward(sum(maps))


def test_lists_are_recomputed_as_they_were() -> None:
    plain, ours = (make_objective(depth=Dense()) for _ in range(2))
    recompute(ours)
    for objective in (plain, ours):
        objective(make_batch()).loss.backward()
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def _two_processes(rank: int, world: int) -> None:
    results = []
    for again in (False, True):
        objective = make(drop=0.0)
        synchronise_batchnorm(objective, torch.device("cpu"))
        if again:
            recompute(objective)
        wrapped = DistributedDataParallel(
            objective.networks["depth"], broadcast_buffers=False, find_unused_parameters=True
        )
        torch.manual_seed(rank)
        for _ in range(2):  # the second step starts from the statistics of the first
            wrapped(torch.rand(2, 3, 64, 64))["disp"][0].square().mean().backward()
        network = objective.networks["depth"]
        grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        results.append(grads | dict(network.named_buffers()))
    assert_equal(*results)


@pytest.mark.slow
def test_two_processes_with_global_batchnorm(tmp_path: Path) -> None:
    run_world(_two_processes, 2, tmp_path)
