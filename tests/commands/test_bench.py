"""The benchmarks of a step and of the loop: they run, and their numbers add up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import models_zoo
from trainer.checkpoint.state import TrainState
from trainer.commands import bench
from trainer.commands.jobs import bench_export, bench_loop, bench_step, launches
from trainer.predict.formats import check

TINY = ("step", "--size", "64", "64", "--batch-size", "1", "--rounds", "1", "--encoder", "test_resnet")


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--no-channels-last")])
def test_a_tiny_step_is_measured_in_parts(options, capsys):
    assert bench.main([*TINY, *options]) == 0
    printed = capsys.readouterr().out
    assert "64x64: step" in printed
    assert "A/A" in printed
    assert all(part in printed for part in bench_step.PARTS)
    assert "launches of a step" in printed


def test_the_parts_make_up_the_step():
    times = bench_step.measure(bench.parse(TINY), 64, 64)
    assert len(times["step"]) == len(times["step again"]) == 1
    parts = sum(sum(times[part]) for part in bench_step.PARTS)
    assert parts == pytest.approx(times["step"][0] + times["step again"][0])


def test_views_and_new_memory_launch_nothing():
    counter = launches.LaunchCounter()
    x = torch.rand(2, 3, requires_grad=True)
    with counter:
        x.detach().t()[0].unsqueeze(0).expand(2, 2), torch.empty_like(x)
        assert counter.launches.total() == 0
        (x * 2).sum().backward()  # two forward; the ones that backward starts from, and a product
        assert counter.launches == {"mul": 2, "sum": 1, "ones_like": 1}
        assert counter.waits == 0
        float(x.detach().sum())
        x.new_tensor([1.0])
    assert counter.waits == 2


@pytest.mark.parametrize(("fuse", "most"), [("off", 4542), ("on", 1208)])
def test_a_step_with_stereo_has_few_launches(fuse, most):
    """Networks, losses forward and backward, and Adam, before anything is compiled."""
    counts = bench_step.launches(bench.parse(["step"]), fuse)
    assert tuple(counts) == bench_step.PARTS
    assert counts["optimizer"] == 2
    assert sum(counts.values()) <= most, counts


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


def test_the_table_of_exported_networks(monkeypatch, capsys):
    def measure(encoder, decoder, interface, args):
        if decoder == "ddvnet":
            raise ValueError("it has no such form\nat all")
        assert (interface.size, interface.precision) == ((64, 64), "16")
        return bench_export.Row(2e-7, 1.25, 3.0, 6.0)

    monkeypatch.setattr(bench_export, "measure", measure)
    monkeypatch.setattr(bench_export.onnx_file, "packages", lambda: (None, SimpleNamespace(__version__="1.2")))
    options = (
        "--encoders",
        "test_resnet",
        "--decoders",
        "hrdepth",
        "ddvnet",
        "--size",
        "64",
        "64",
        "--precision",
        "16",
    )
    assert bench.main(["export", *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("64x64, 16 bit, 1 thread(s), 5 rounds, onnxruntime 1.2")
    assert "| test_resnet | hrdepth | 2e-07 | 1.2 | 3.0 | 6.0 | 0.50 |" in printed
    assert "| test_resnet | ddvnet | no: ValueError: it has no such form | | | | |" in printed
    assert bench.main(["export", "--decoders", "hrdeepth"]) == 2
    assert "'hrdeepth' is not a decoder. Did you mean 'hrdepth'" in capsys.readouterr().err


def test_untrained_networks_have_contrast():
    """Logits have a mean of 0, so disparity one of 1/2, and vary more than those of a new network."""
    network = bench_export.random_network("test_resnet", "hrdepth")
    torch.manual_seed(0)
    new = models_zoo.create("depth", enc_name="test_resnet", dec_name="hrdepth", pretrained=False).eval()
    with torch.no_grad():
        frames = check.generated_frames((96, 64), count=1) / 255
        disp, plain = (depth(frames)["disp"][0] for depth in (network.depth, new))
    assert float(disp.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(disp.std() / plain.std()) == pytest.approx(bench_export.GAIN, rel=0.1)
