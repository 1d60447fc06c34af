"""A run on batches of random shape, of one data set each, goes on where it was stopped as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import ckpt, folder
from tests.world import call, train_args
from trainer.data.aspect import AspectRatios, size_of

PARTS = (
    "{streets: {type: synthetic, num_items: 6, train: {size: [128, 72]}, val: {num_items: 2}},"
    " rooms: {type: synthetic, num_items: 4, scene: corridor, val: {num_items: 2}}}"
)
SETTINGS = (
    "dataset={type: mixed, one_per_batch: true, length: 8, size: [96, 64], supp_idxs: [-1, 1], train: {use_aug: true},"
    f" datasets: {PARTS}}}",
    "net={depth: {use_virtual_stereo: false}}",
    "scheduler.T_max=100",  # else the rates depend on the length of the run
    "trainer={aspect_ratio: {ref_size: [128, 96], prob: 0.8}, log_images: true, monitor: loss, save_every_n_steps: 1}",
)


@pytest.mark.long
def test_a_continued_run_draws_the_same_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[tuple[int, ...], tuple[int, int]]] = []
    reshape = AspectRatios.__call__

    def noted(self: AspectRatios, batch: Any, *position: int) -> Any:
        out = reshape(self, batch, *position)
        shapes.append((position, size_of(out)))
        return out

    monkeypatch.setattr(AspectRatios, "__call__", noted)
    for name, epochs in (("whole", (2,)), ("parts", (1, 2))):
        for number in epochs:
            done = call(*train_args(tmp_path / name, *SETTINGS, f"trainer.max_epochs={number}"))
            assert done.returncode == 0, done.stderr
            assert "warning" not in done.stdout + done.stderr  # the pictures of whole items are drawn
    assert shapes[:8] == shapes[8:]
    assert [position for position, _ in shapes[:8]] == [(42, 0, step, 0) for step in range(8)]
    assert len({size for _, size in shapes}) > 2
    whole, parts = (load_file(ckpt(tmp_path / name, "last")) for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole if key.startswith("networks."))
    assert list(folder(tmp_path / "whole").glob("events*"))
