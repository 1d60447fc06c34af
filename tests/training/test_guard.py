"""A step with a loss or gradient that is not finite is refused on all processes and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.world import run_world
from trainer.checkpoint.state import Position
from trainer.runtime.files import CannotWrite
from trainer.training.guard import NonFiniteLoss, StepGuard

NAN, INF = float("nan"), float("inf")


class Capsules:
    """Keeps the arguments of each capsule."""

    def __init__(self, error: Exception | None = None):
        self.saved, self.error = [], error

    def save_capsule(self, path, objective, batch, position, number, seed, rank):
        if self.error:
            raise self.error
        self.saved.append((path.name, batch, position, number, seed, rank))


class Run:
    def capsule_path(self, step, rank=0, micro_batch=0):
        return Path(f"{step}-{rank}-{micro_batch}")


class Scaler:
    scale = 65536.0

    def get_scale(self) -> float:
        return self.scale


def make_guard(policy="stop", limit=2, capsules=None, scaler=None, rank=0, world=1):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    accelerator = SimpleNamespace(scaler=scaler, num_processes=world, process_index=rank)
    guard = StepGuard(accelerator, network, capsules or Capsules(), Run(), policy=policy, limit=limit, seed=7)
    return guard, network


def step(guard, network, images, epoch=0, factor=1.0):
    """Forward and backward pass of one micro-batch per image batch; the verdict."""
    network.zero_grad()
    guard.begin(epoch)
    for image in images:
        loss = (network(image) ** 2).mean() * factor
        assert not guard.note(loss)
        loss.backward()
    return guard.judge([False, True])


def good():
    return torch.arange(8.0).view(2, 1, 2, 2)


def bad():
    return torch.full((2, 1, 2, 2), NAN)


def test_a_sound_step_gives_the_mean_loss_and_the_flags() -> None:
    guard, _ = make_guard()
    guard.begin(0)
    for value in (1.0, 3.0):
        guard.note(torch.tensor(value))
    verdict = guard.judge([False, True])
    assert verdict.is_sound
    assert verdict.loss == 2.0
    assert verdict.flags == (False, True)


def test_a_loss_that_is_not_finite_is_bad() -> None:
    guard, _ = make_guard()
    for value in (NAN, INF, -INF):
        guard.begin(0)
        for loss in (1.0, value, 1.0):
            guard.note(torch.tensor(loss))
        verdict = guard.judge()
        assert (verdict.bad_loss, verdict.bad_gradient, verdict.is_sound) == (True, False, False)
        assert (verdict.micro_batch, verdict.culprit) == (1, 0)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("which", ["bias", "weight"])
def test_gradients_are_checked_under_stop_those_of_biases_and_scales(policy: str, which: str) -> None:
    guard, network = make_guard(policy)
    guard.begin(0)
    guard.note(torch.tensor(1.0))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    getattr(network[0], which).grad.view(-1)[0] = INF
    assert guard.judge().bad_gradient == (policy == "skip" or which == "bias")


def test_a_backward_pass_that_breaks_is_seen_at_biases_and_scales() -> None:
    """The square root at 0 has an infinite slope although its value is finite."""
    guard, network = make_guard("stop")
    guard.begin(0)
    loss = (network(torch.zeros(2, 1, 2, 2)) * 0).sqrt().sum()
    guard.note(loss)
    loss.backward()
    verdict = guard.judge()
    assert (verdict.bad_loss, verdict.bad_gradient) == (False, True)


def test_the_scaler_of_fp16_watches_gradients_itself() -> None:
    guard, network = make_guard("skip", scaler=Scaler())
    guard.begin(0)
    guard.note(torch.tensor(1.0))
    network[0].bias.grad = torch.full((2,), INF)
    assert guard.judge().is_sound


def test_stop_raises_with_place_capsule_and_remedies() -> None:
    capsules = Capsules()
    guard, network = make_guard("stop", capsules=capsules)
    verdict = step(guard, network, [good(), bad(), good()])
    batches = [{"target": good()}, {"target": bad()}, {"target": good()}]
    with pytest.raises(NonFiniteLoss) as error:
        guard.refuse(verdict, Position(3, 10, 20), batches)
    said = str(error.value)
    assert said.startswith("the loss is not finite in epoch 4, step 21, on process 0; `monodepth replay 20-0-1`")
    for word in ("gradient_clip_val", "bf16", "detect_anomaly", "trainer.nonfinite: skip"):
        assert word in said
    (name, batch, position, number, seed, rank) = capsules.saved[0]
    assert (name, position, number, seed, rank) == ("20-0-1", Position(3, 10, 20), 1, 7, 0)
    assert batch is batches[1]
    assert len(capsules.saved) == 1  # the other micro-batches were fine


def test_of_a_bad_gradient_every_micro_batch_is_a_suspect() -> None:
    capsules = Capsules()
    guard, network = make_guard("skip", capsules=capsules)
    guard.begin(0)
    for _ in range(6):
        guard.note(torch.tensor(1.0))
    network[0].bias.grad = torch.full((2,), NAN)
    said = guard.refuse(guard.judge(), Position(), [{} for _ in range(6)])
    assert said.startswith("the gradient is not finite in epoch 1, step 1, on process 0")
    assert [saved[3] for saved in capsules.saved] == [0, 1, 2, 3]  # at most 4: each holds the weights, too


def test_skip_undoes_what_the_batch_did_to_the_statistics() -> None:
    guard, network = make_guard("skip")
    assert step(guard, network, [good()]).is_sound
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    verdict = step(guard, network, [good(), bad()])
    assert torch.isnan(network[1].running_mean).all()
    said = guard.refuse(verdict, Position(), [{}, {}])
    assert said.endswith("the step is left out (1 of at most 2 in this epoch)")
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_skips_are_limited_per_epoch_and_counted_overall_also_after_a_resume() -> None:
    capsules = Capsules()
    guard, network = make_guard("skip", limit=2, capsules=capsules)
    for epoch in (0, 0, 1):
        guard.refuse(step(guard, network, [bad()], epoch), Position(epoch), [{}])
    assert len(capsules.saved) == 1  # of the first refused step alone
    again, network = make_guard("skip", limit=2)
    again.load_state_dict(guard.state_dict())
    again.refuse(step(again, network, [bad()], 1), Position(1), [{}])
    assert (again.skipped, again.skipped_in_epoch) == (4, 2)
    with pytest.raises(NonFiniteLoss, match=r"3 steps of this epoch .* trainer\.nonfinite_limit: 2"):
        again.refuse(step(again, network, [bad()], 1), Position(1), [{}])


def test_a_capsule_that_cannot_be_written_does_not_hide_the_cause() -> None:
    guard, network = make_guard("stop", capsules=Capsules(CannotWrite("disk full")))
    with pytest.raises(NonFiniteLoss, match=r"the loss is not finite .* no capsule: disk full"):
        guard.refuse(step(guard, network, [bad()]), Position(), [{}])


def test_a_step_that_halves_the_scale_of_fp16_was_not_taken() -> None:
    scaler = Scaler()
    guard, _ = make_guard(scaler=scaler)
    scaler.scale /= 2
    assert not guard.was_taken(Position())
    assert guard.was_taken(Position())
    assert make_guard()[0].was_taken(Position())  # without a scaler all are


def test_a_scale_that_never_fits_ends_the_run() -> None:
    scaler = Scaler()
    guard, _ = make_guard(scaler=scaler)

    def refused(times: int) -> None:
        for _ in range(times):
            scaler.scale /= 2
            assert not guard.was_taken(Position())

    refused(20)
    scaler.scale *= 2
    assert guard.was_taken(Position())  # a step that was taken starts the count anew
    refused(20)
    scaler.scale /= 2
    with pytest.raises(NonFiniteLoss, match=r"21 steps in a row were refused.*bf16"):
        guard.was_taken(Position())


def test_weights_that_are_not_finite_are_never_saved() -> None:
    guard, network = make_guard()
    guard.check_weights(Position())
    with torch.no_grad():
        network[0].weight[0] = INF
    with pytest.raises(NonFiniteLoss, match="weights are not finite after step 4"):
        guard.check_weights(Position(step=4))


def refuse_together(rank: int, world: int, folder: str) -> None:
    guard, network = make_guard("skip", rank=rank, world=world, capsules=Capsules())
    verdict = step(guard, network, [bad() if rank == 1 else good()])
    said = guard.refuse(verdict, Position(), [{}])
    sound = step(guard, network, [good()])
    Path(folder, str(rank)).write_text(f"{verdict.bad_loss} {sound.is_sound} {sound.loss:.6f} {said}")


def test_all_processes_refuse_what_one_cannot_take(tmp_path: Path) -> None:
    run_world(refuse_together, 2, tmp_path, str(tmp_path))
    first, second = ((tmp_path / str(rank)).read_text() for rank in range(2))
    assert first.startswith("True True 0.98")  # both share of the sound step, with the eps of BatchNorm
    for said in (first, second):
        assert "on process 1; `monodepth replay 0-1-0` names what broke first: the step is left out" in said
    assert first.split()[:3] == second.split()[:3]
