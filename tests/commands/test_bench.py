"""The benchmarks of a step and of the loop: they run, and their numbers add up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainer.checkpoint.state import TrainState
from trainer.commands import bench
from trainer.commands.jobs import bench_loop, bench_step

TINY = ("step", "--size", "64", "64", "--batch-size", "1", "--rounds", "1", "--encoder", "test_resnet")


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--no-channels-last")])
def test_a_tiny_step_is_measured_in_parts(options, capsys):
    assert bench.main([*TINY, *options]) == 0
    printed = capsys.readouterr().out
    assert "64x64: step" in printed
    assert "A/A" in printed
    assert all(part in printed for part in bench_step.PARTS)


def test_the_parts_make_up_the_step():
    times = bench_step.measure(bench.parse(TINY), 64, 64)
    assert len(times["step"]) == len(times["step again"]) == 1
    parts = sum(sum(times[part]) for part in bench_step.PARTS)
    assert parts == pytest.approx(times["step"][0] + times["step again"][0])


@pytest.mark.parametrize("option", ["--rounds", "--threads", "--batch-size"])
def test_nothing_is_measured_zero_times(option, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.parse(["step", option, "0"])
    assert stop.value.code == 2
    assert f"argument {option}: expected a whole number from 1 to" in capsys.readouterr().err


SMALL = (
    *("dataset.size=[64,64]", "dataset.train.num_items=2", "dataset.val.num_items=1", "loader.batch_size=1"),
    *("loader.num_workers=0", "net.depth={enc_name: test_resnet, out_scales: [0]}", "net.pose.enc_name=test_resnet"),
    "trainer.log_every_n_steps=1",
)


@pytest.mark.slow
def test_the_loop_is_measured_beside_a_bare_one(capsys):
    assert bench.main(["loop", "--rounds", "1", "--loader", "--precision", "bf16", "--set", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "1 rounds of 1 steps" in printed
    for title in ("batches in memory", "batches from the loader"):
        table = printed[printed.index(title) :].splitlines()
        assert table[0].split()[-4:] == ["bare", "loop", "loop/bare", "A/A"]
        for row, clock in zip(table[1:3], ("wall clock", "CPU time"), strict=True):
            assert row.strip().startswith(clock)
            bare, loop, ratio, control = map(float, row.split()[-4:])
            assert min(bare, loop, ratio, control) > 0
    for what in ("seed_everything", "save `last`", "validation"):
        assert what in printed


def test_a_round_must_hold_whole_intervals_between_scalars(capsys):
    assert bench.main(["loop", "--steps", "3", "--set", *SMALL, "trainer.log_every_n_steps=2"]) == 2
    assert "use a multiple of trainer.log_every_n_steps (2)" in capsys.readouterr().err


def test_sides_take_turns_and_share_the_work():
    """Every side sees every batch of a round; the warm-up round is not counted."""
    took = []

    class Loop:
        train_loader = SimpleNamespace(dataset=None)
        state = TrainState()

        def epoch(self):
            return iter(self.train_loader)

        def step(self, batch):
            took.append(("loop", batch))

    bare = SimpleNamespace(
        train=lambda batches: took.extend(("bare", batch) for batch in batches), device=torch.device("cpu")
    )
    sums = bench_loop.take_turns(Loop(), bare, [1, 2], rounds=1, steps=2)
    one_round = [(side, batch) for batch in (1, 2) for side in ("bare", "loop", "bare")]
    assert took == 2 * one_round
    assert {len(seconds) for seconds in sums.values()} == {1}
    assert set(sums) == {(clock, side) for clock in bench_loop.CLOCKS for side in bench_loop.SIDES}
