"""Averages of weights are what one gets by hand, and a continued run has the same ones to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.optim.swa_utils import SWALR

from tests.fakes import make_batch, make_losses, make_objective
from tests.world import run_world
from trainer.checkpoint import safefile
from trainer.checkpoint.encoding import from_json, to_json
from trainer.checkpoint.state import TrainState, pack_state, read_state, weights
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.objective.batchnorm import synchronise_batchnorm
from trainer.objective.freezing import freeze
from trainer.runtime.errors import UserError
from trainer.training.averages import EMA, SWA, Averages

CPU = torch.device("cpu")


class DepthWithNorms(nn.Module):
    """A depth network with both kinds of BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.decoder = nn.Sequential(nn.Conv2d(4, 4, 1), BatchNormAct2d(4), nn.Conv2d(4, 1, 1))

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        feats = self.encoder(images)
        return {"disp": {0: self.decoder(feats).sigmoid()}, "depth_feats": [feats]}


def objective_with_norms() -> Objective:
    torch.manual_seed(0)
    return make_objective(depth=DepthWithNorms()).train()


def set_gain(objective: Objective, value: float) -> None:
    objective.networks["pose"].gain.data.fill_(value)


def gain(objective: Objective | None) -> float:
    assert objective is not None
    return objective.networks["pose"].gain.item()


def train(objective: Objective, steps: range, average: EMA | None = None) -> None:
    optimizer = torch.optim.SGD(objective.parameters(), 0.5)
    for step in steps:
        optimizer.zero_grad()
        objective(make_batch(seed=step)).loss.backward()
        optimizer.step()
        if average is not None:
            average.update()


def through_a_file(folder: Path, objective: Objective, **extra: Any) -> dict[str, Any]:
    """Save weights and averages as a run does; load the weights into `objective`, return the rest."""
    path = folder / "last.safetensors"
    safefile.write(path, *pack_state(objective, None, None, None, TrainState(extra=extra)))
    tensors, metadata = safefile.read(path)
    return read_state(metadata, tensors).extra


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


# With warm-up it keeps 1/10, 2/11, 3/12: 0.9 * 1; 2/11 * 0.9 + 9/11 * 2; 1/4 * 1.8 + 3/4 * 3. Without, 1/2.
@pytest.mark.parametrize(("warmup", "expected"), [(True, [0.9, 1.8, 2.7]), (False, [0.5, 1.25, 2.125])])
def test_ema_of_a_scalar(warmup: bool, expected: list[float]) -> None:
    objective = make_objective()
    set_gain(objective, 0.0)
    ema = EMA(objective, decay=0.5, warmup=warmup)
    for value, average in zip([1.0, 2.0, 3.0], expected, strict=True):
        set_gain(objective, value)
        ema.update()
        assert gain(ema.module) == pytest.approx(average, rel=1e-6)
    assert gain(objective) == 3.0


def test_ema_averages_statistics_and_copies_counters() -> None:
    objective = objective_with_norms()
    ema = EMA(objective, decay=0.75, warmup=False)
    norm, averaged = objective.networks["depth"].encoder[1], ema.module.networks["depth"].encoder[1]
    norm.running_mean.fill_(4.0)
    norm.num_batches_tracked.fill_(10)
    ema.update()
    assert averaged.running_mean.tolist() == [1.0] * 4
    assert averaged.num_batches_tracked.item() == 10


def test_ema_of_a_run_that_is_continued_is_the_same(tmp_path: Path) -> None:
    straight = objective_with_norms()
    ema = EMA(straight)
    train(straight, range(6), ema)

    first = objective_with_norms()
    first_ema = EMA(first)
    train(first, range(3), first_ema)
    extra = through_a_file(tmp_path, first, ema=first_ema.state_dict())
    second = objective_with_norms()
    second.load_state_dict(first.state_dict())
    second_ema = EMA(second)
    second_ema.load_state_dict(extra["ema"])
    train(second, range(3, 6), second_ema)
    assert_equal(second, straight)
    assert_equal(second_ema.module, ema.module)
    assert second_ema.num_updates == 6
    assert not torch.equal(weights(ema.module)["networks.pose.gain"], weights(straight)["networks.pose.gain"])


def test_swa_is_the_mean_of_the_epochs_from_its_start() -> None:
    objective = make_objective()
    swa = SWA(objective, start_epoch=2)
    for epoch, value in enumerate([100.0, 100.0, 1.0, 2.0, 6.0]):
        set_gain(objective, value)
        assert (swa.module is None) == (epoch <= 2)
        swa.update(epoch)
    swa.update(4)  # as a run that is continued after its last epoch does
    assert gain(swa.module) == pytest.approx(3.0, rel=1e-6)
    assert gain(objective) == 6.0


def fresh_pass(objective: Objective, batches: list[Any]) -> dict[str, list[torch.Tensor]]:
    """Means over batches of mean and unbiased variance of what enters each BatchNorm, in training mode."""
    entered: dict[str, list[torch.Tensor]] = {}
    depth = objective.networks["depth"]
    for name, module in depth.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            note = entered.setdefault(name, []).append
            module.register_forward_pre_hook(lambda _, args, note=note: note(args[0]))
    objective.train()
    with torch.no_grad():
        for batch in batches:
            objective.predict(batch)
    reductions = (torch.mean, torch.var)
    return {
        name: [torch.stack([reduce(x, (0, 2, 3)) for x in inputs]).mean(0) for reduce in reductions]
        for name, inputs in entered.items()
    }


def averaged_over_two(objective: Objective, **kwargs: Any) -> SWA:
    swa = SWA(objective, start_epoch=0, **kwargs)
    for epoch in range(2):
        train(objective, range(3 * epoch, 3 * epoch + 3))
        swa.update(epoch)
    return swa


def test_statistics_of_the_mean_weights_are_those_of_a_fresh_pass() -> None:
    objective = objective_with_norms()
    swa = averaged_over_two(objective)
    mean = {name: tensor.clone() for name, tensor in swa.module.named_parameters()}
    batches = [make_batch(seed=seed) for seed in (10, 11, 12)]
    swa.update_statistics(batches)
    assert not swa.module.training
    assert objective.training
    torch.testing.assert_close(dict(swa.module.named_parameters()), mean, rtol=0, atol=0)

    twin = objective_with_norms()
    twin.load_state_dict(swa.module.state_dict())
    expected = fresh_pass(twin, batches)
    assert set(expected) == {"encoder.1", "decoder.1"}
    for name, (mean_of, var_of) in expected.items():
        norm = swa.module.networks["depth"].get_submodule(name)
        torch.testing.assert_close(norm.running_mean, mean_of, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, var_of, rtol=1e-5, atol=1e-6)
        assert norm.momentum == 0.1


def test_only_as_many_batches_are_read_as_asked_for() -> None:
    swa = averaged_over_two(objective_with_norms(), bn_batches=2)
    batches = iter([make_batch(seed=seed) for seed in range(5)])
    swa.update_statistics(batches)
    assert len(list(batches)) == 3


def test_without_batchnorm_no_batch_is_read() -> None:
    swa = averaged_over_two(make_objective())
    swa.update_statistics(iter([]))
    with pytest.raises(ValueError, match="no training batch"):
        averaged_over_two(objective_with_norms()).update_statistics(iter([]))
    with pytest.raises(ValueError, match="call update first"):
        SWA(make_objective(), start_epoch=3).update_statistics([make_batch()])


def test_frozen_parts_stay_what_they_are() -> None:
    objective = objective_with_norms()
    train(objective, range(2))
    freeze(objective, ["depth.encoder"])
    frozen = {n: t.clone() for n, t in objective.state_dict().items() if "depth.encoder" in n}
    ema, swa = EMA(objective, decay=0.3, warmup=False), averaged_over_two(objective)
    train(objective, range(6, 9), ema)
    swa.update(2)
    swa.update_statistics([make_batch(seed=9)])
    for averaged in (ema.module, swa.module):
        now = {n: t for n, t in averaged.state_dict().items() if n in frozen}
        torch.testing.assert_close(now, frozen, rtol=0, atol=0)
    assert swa.module.networks["depth"].decoder[1].num_batches_tracked.item() == 1


def test_swa_of_a_run_that_is_continued_is_the_same(tmp_path: Path) -> None:
    objective = objective_with_norms()
    swa = averaged_over_two(objective)
    swa.update_statistics([make_batch(seed=9)])
    extra = through_a_file(tmp_path, objective, swa=swa.state_dict())
    again = objective_with_norms()
    again.load_state_dict(objective.state_dict())
    other = SWA(again, start_epoch=0)
    other.load_state_dict(extra["swa"])
    assert_equal(other.module, swa.module)
    for source, average in ((objective, swa), (again, other)):
        train(source, range(6, 9))
        average.update(1)  # in the mean already
        average.update(2)
    assert_equal(other.module, swa.module)
    assert other.num_averaged == 3


def test_a_mean_that_has_begun_keeps_its_first_epoch_and_one_before_holds_no_weights() -> None:
    """Half of 2 epochs was epoch 0; half of the 4 that are planned now would be epoch 2."""
    later = SWA(make_objective(), start_epoch=2)
    later.update(1)
    assert later.state_dict()["weights"] == {}
    again = SWA(make_objective(), start_epoch=1)
    again.load_state_dict(later.state_dict())
    assert (again.module, again.start_epoch) == (None, 1)
    later.load_state_dict(averaged_over_two(make_objective()).state_dict())
    assert later.start_epoch == 0


def test_averages_of_another_model_are_refused_by_name() -> None:
    state = EMA(objective_with_norms()).state_dict()
    state["weights"]["networks.pose.gain"] = torch.ones(2)
    with pytest.raises(UserError) as refused:
        EMA(make_objective()).load_state_dict(state)
    message = str(refused.value)
    assert "networks.depth.encoder.0.weight: only in the file" in message
    assert "networks.depth.head.weight: not in the file" not in message  # the eleventh
    assert message.endswith("... and 8 more")
    with pytest.raises(UserError, match=r"pose\.gain: \(2,\) float32 in the file, \(\) float32 now"):
        EMA(objective_with_norms()).load_state_dict(state)


def test_settings_out_of_range_are_refused() -> None:
    objective = make_objective()
    for decay in (-0.1, 1.0, math.nan):
        with pytest.raises(UserError, match="decay"):
            EMA(objective, decay=decay)
    wrong = [("start_epoch", -1), ("lr", 0.0), ("lr", math.nan), ("anneal_epochs", -1), ("bn_batches", 0)]
    for name, value in wrong:
        with pytest.raises(UserError, match=name):
            SWA(objective, **{"start_epoch": 0, name: value})


def test_the_copy_stands_alone() -> None:
    losses = {**make_losses(), "depth_regr": LOSSES.create("depth_regr", use_automask=True)}
    objective = make_objective(losses=losses)
    ema = EMA(objective)
    copied = ema.module.losses
    assert copied["depth_regr"].photometric is copied["img_recon"]
    assert copied["img_recon"] is not objective.losses["img_recon"]
    own = {t.data_ptr() for t in ema.module.state_dict().values()}
    assert not own & {t.data_ptr() for t in objective.state_dict().values()}
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in objective.parameters())
    assert list(weights(ema.module)) == list(weights(objective))


def test_a_weight_with_two_names_moves_once() -> None:
    objective = make_objective()
    objective.networks["pose"].also_gain = objective.networks["pose"].gain
    set_gain(objective, 0.0)
    ema = EMA(objective, decay=0.5, warmup=False)
    set_gain(objective, 1.0)
    ema.update()
    assert gain(ema.module) == 0.5
    assert ema.module.networks["pose"].also_gain is ema.module.networks["pose"].gain


def test_networks_compiled_in_place_are_copied_uncompiled() -> None:
    objective = objective_with_norms()
    objective.networks["depth"].compile(backend="eager")
    ema = EMA(objective)
    assert objective.networks["depth"]._compiled_call_impl is not None
    assert ema.module.networks["depth"]._compiled_call_impl is None
    assert list(weights(ema.module)) == list(weights(objective))


def test_what_accelerate_did_to_the_objective_is_done_to_the_copy() -> None:
    """Accelerate replaces `forward` of the raw module by a method that knows it: the copy's must know the copy."""
    from accelerate import Accelerator

    objective = objective_with_norms()
    Accelerator(cpu=True, mixed_precision="bf16").prepare(objective)
    ema = EMA(objective, decay=0.0, warmup=False)
    objective.networks["depth"].decoder[2].bias.data.fill_(50.0)  # disparity 1 everywhere
    batch = make_batch()
    with torch.no_grad():
        before, after = ema.module(batch), objective.eval()(batch)
    assert before.predictions["disp"][0].min() < 0.99 < after.predictions["disp"][0].min()
    ema.update()
    with torch.no_grad():
        assert torch.equal(ema.module(batch).loss, after.loss)


def test_channels_last_stays_and_changes_nothing(tmp_path: Path) -> None:
    objective = objective_with_norms()
    objective.use_channels_last()
    ema = EMA(objective)
    train(objective, range(2), ema)
    state = through_a_file(tmp_path, objective, ema=ema.state_dict())["ema"]
    other = EMA(objective)
    other.load_state_dict(state)
    assert_equal(other.module, ema.module)
    for averaged in (ema.module, other.module):
        weight = averaged.networks["depth"].decoder[0].weight
        assert weight.stride() == objective.networks["depth"].decoder[0].weight.stride()


def part_of(batch: dict[str, torch.Tensor], rank: int, world: int) -> dict[str, torch.Tensor]:
    size = len(batch["index"]) // world
    return {key: value[rank * size : (rank + 1) * size] for key, value in batch.items()}


def statistics_of(objective: Objective, batches: list[Any]) -> dict[str, torch.Tensor]:
    swa = SWA(objective, start_epoch=0)
    swa.update(0)
    swa.update_statistics(batches)
    return {n: t for n, t in swa.module.named_buffers() if n.endswith(("running_mean", "running_var"))}


def _own_share(rank: int, world: int, *expected: dict[str, torch.Tensor]) -> None:
    share = [part_of(make_batch(4, seed=seed), rank, world) for seed in (10, 11)]
    for synchronised, right in zip((True, False), expected, strict=True):
        objective = objective_with_norms()
        if synchronised:
            synchronise_batchnorm(objective, CPU)
        torch.testing.assert_close(statistics_of(objective, share), right, rtol=1e-5, atol=1e-6)

    objective = objective_with_norms()
    ema = EMA(objective, decay=0.5, warmup=False)
    objective.networks["depth"].encoder[1].running_mean.fill_(1.0 + rank)
    ema.update()
    Averages(ema).prepare(objective, [])
    assert ema.module.networks["depth"].encoder[1].running_mean.tolist() == [0.5] * 4
    Averages().prepare(objective, [])  # nothing is averaged: process 0 rules all the same
    assert objective.networks["depth"].encoder[1].running_mean.tolist() == [1.0] * 4


@pytest.mark.slow
def test_two_processes_agree_with_one_on_statistics(tmp_path: Path) -> None:
    """SWA: synchronised, two halves are one batch; otherwise they are two that count the same. EMA: process 0 rules."""
    batches = [make_batch(4, seed=seed) for seed in (10, 11)]
    one_by_one = [part_of(batch, rank, 2) for batch in batches for rank in (0, 1)]
    expected = [statistics_of(objective_with_norms(), given) for given in (batches, one_by_one)]
    run_world(_own_share, 2, tmp_path, *expected)


def two_groups(rates: tuple[float, float] = (1.0, 0.1)) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def rates_of(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def test_rates_of_swa_by_hand_and_in_a_run_that_is_continued() -> None:
    """StepLR halves every epoch: 1, 1/2, 1/4 in epoch 2; from there in two epochs to 0.05, and 0.005 for the tenth."""
    expected = [[1.0, 0.1], [0.5, 0.05], [0.25, 0.025], [0.15, 0.015], [0.05, 0.005], [0.05, 0.005]]
    swa, optimizer = SWA(make_objective(), start_epoch=2, lr=0.05, anneal_epochs=2), two_groups()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for epoch, rates in enumerate(expected):
        swa.set_rates(optimizer, epoch)
        assert rates_of(optimizer) == pytest.approx(rates, rel=1e-12)
        exact = rates_of(optimizer)

        other = SWA(make_objective(), start_epoch=2, lr=0.05, anneal_epochs=2)
        again = two_groups(tuple(exact))
        other.load_state_dict(from_json(to_json(swa.state_dict(), {})))
        for group, initial in zip(again.param_groups, expected[0], strict=True):
            group["initial_lr"] = initial  # the schedule's, part of the optimizer's state
        other.set_rates(again, epoch)
        assert rates_of(again) == exact
        optimizer.step()
        assert swa.owns_rates(epoch) == (epoch >= 2)
        if not swa.owns_rates(epoch):
            schedule.step()


def test_rates_are_those_of_torch() -> None:
    ours, theirs = two_groups((1.0, 1.0)), two_groups((1.0, 1.0))
    swa = SWA(make_objective(), start_epoch=0, lr=0.2, anneal_epochs=5)
    schedule = SWALR(theirs, swa_lr=0.2, anneal_epochs=5)
    for epoch in range(8):
        swa.set_rates(ours, epoch)
        assert rates_of(ours) == pytest.approx(rates_of(theirs), rel=1e-9)
        theirs.step()
        schedule.step()


def test_rates_without_annealing_without_lr_and_as_tensors() -> None:
    optimizer = two_groups()
    SWA(make_objective(), start_epoch=0).set_rates(optimizer, 3)
    assert rates_of(optimizer) == [1.0, 0.1]
    optimizer.param_groups[1]["lr"] = rate = torch.tensor(0.1)  # as a compiled or capturable optimizer has it
    SWA(make_objective(), start_epoch=3, lr=0.5).set_rates(optimizer, 3)
    assert rates_of(optimizer) == pytest.approx([0.5, 0.05])
    assert optimizer.param_groups[1]["lr"] is rate


def test_a_rate_that_nothing_can_keep_its_ratio_to_is_refused_before_training() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    with pytest.raises(UserError, match=r"optimizer\.lr above 0"):
        SWA(make_objective(), start_epoch=3, lr=0.5).set_rates(optimizer, 0)
