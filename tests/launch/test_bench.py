"""The benchmark of a step: it runs, and its numbers add up."""

from __future__ import annotations

import pytest

from launch import bench

TINY = ("step", "--size", "64", "64", "--batch-size", "1", "--rounds", "1")


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--no-channels-last")])
def test_a_tiny_step_is_measured_in_parts(options, capsys):
    assert bench.main([*TINY, *options]) == 0
    printed = capsys.readouterr().out
    assert "64x64: step" in printed
    assert "A/A" in printed
    assert all(part in printed for part in bench.PARTS)


def test_the_parts_make_up_the_step():
    times = bench.measure(bench.parse(TINY), 64, 64)
    assert len(times["step"]) == len(times["step again"]) == 1
    assert sum(sum(times[part]) for part in bench.PARTS) == pytest.approx(
        times["step"][0] + times["step again"][0]
    )


@pytest.mark.parametrize("option", ["--rounds", "--threads", "--batch-size"])
def test_nothing_is_measured_zero_times(option, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.parse(["step", option, "0"])
    assert stop.value.code == 2
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err
