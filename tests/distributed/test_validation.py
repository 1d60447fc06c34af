"""What a validation finds and what a run writes: the same on two processes as on one, and by one of them alone."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed.test_runs import build, join
from tests.training.test_validation import accelerator
from tests.world import ROOT, SMALL, run_world
from trainer.build import build_dataset, build_loader, build_objective
from trainer.config import load_config
from trainer.training.validation import ValidationResult, validate

pytestmark = pytest.mark.slow

PAGES = ROOT / "cfg/synthetic/monodepth2_MS.yaml", ROOT / "cfg/synthetic/default.yaml"
# Losses of all pixels, of those with hints, with a threshold; and how many items are validated in batches of 4. These
# are 2 + 2 and 2 + 1 on two processes; 2 + 2 and 1 + 0; 1 + 0.
CASES = {
    "loss.img_recon.use_automask=true": (7,),
    "loss.depth_regr={loss_name: log_l1, use_automask: true}": (7, 5),
    "loss.depth_regr={loss_name: berhu}": (7, 1),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def _validate(rank: int, world: int) -> None:
    """Validate the same weights with all items here, and with a share of them on each process."""
    for loss, count in [(loss, count) for loss, counts in CASES.items() for count in counts]:
        options = [*SMALL, "loader.batch_size=4", f"dataset.val.num_items={count}", "dataset.use_hints=true", loss]
        cfg = load_config(*PAGES, overrides=options)
        torch.manual_seed(0)
        dataset, objective = build_dataset(cfg, "val", 42), build_objective(cfg).eval()
        one, two = (
            _validated(objective, build_loader(cfg, "val", dataset, 42, *place), count, place)
            for place in ((0, 1), (rank, world))
        )
        assert (two.num_items, two.num_with_depth) == (one.num_items, one.num_with_depth) == (count, count)
        assert two.metrics == pytest.approx(one.metrics, rel=1e-6)
        assert two.losses == pytest.approx(one.losses, rel=1e-6)
        assert two.constant == pytest.approx(one.constant, rel=1e-6)
        assert two.disp_variation == pytest.approx(one.disp_variation, rel=1e-6)
        told: list[Any] = [None] * world
        dist.all_gather_object(told, (two.metrics, two.losses))
        assert told[0] == told[1], "what decides about `best` must be the same to the last bit"


def _validated(objective: Any, batches: Any, count: int, place: tuple[int, int]) -> ValidationResult:
    limits = {"min_depth": 0.1, "max_depth": 100.0}
    return validate(objective, batches, count, accelerator=accelerator(*place), seed=1, epoch=0, **limits)


def test_the_same_weights_have_the_same_validation(tmp_path: Path) -> None:
    run_world(_validate, 2, tmp_path)


def _train(rank: int, world: int, folder: Path) -> None:
    """Train in a folder of one's own, where the second process must leave nothing; listen to what it asks for."""
    join(rank, world)
    written: list[Any] = []

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if (event == "open" and isinstance(args[0], str) and args[2] & WRITING) or event in CHANGES:
            written.append((event, args[0]))

    options = ("trainer.trackers=[tensorboard]", "trainer.log_images=true", "trainer.ema.decay=0.5")
    options += ("trainer.save_every_n_steps=1", "trainer.save_async=true", "trainer.max_epochs=1")
    sys.addaudithook(listen)
    loop, run = build(folder / str(rank), rank, *options)
    with closing(run):
        loop.fit()
    loop.recorder.tracker.close()
    here = [(event, path) for event, path in written if str(path).startswith(str(folder))]
    assert here == [] if rank else {event for event, _ in here} >= {"open", "os.mkdir", "os.rename"}
    assert (folder / str(rank)).exists() == (rank == 0)


@pytest.mark.long
def test_the_main_process_alone_writes(tmp_path: Path) -> None:
    run_world(_train, 2, tmp_path, tmp_path)
