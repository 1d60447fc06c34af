"""A run with adapters: continued exactly, in two processes, its base untouched; rates by step; merged to leave."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from models_zoo.adapters import is_adapter
from tests.runs import assert_same_run, ckpt, folder, launch_two, scalars
from tests.world import call, train_args
from trainer.build import build_objective
from trainer.checkpoint import Saved, load_objective, safefile
from trainer.checkpoint.matching import fit
from trainer.checkpoint.publish import published
from trainer.config import Config
from trainer.predict import DepthPredictor
from trainer.runtime.seeding import INITIALISATION, seed_everything

OPTIONS = (
    "net.depth={enc_name: test_vit, pretrained: false, out_scales: [0], adapter: {type: dv_lora, warmup_steps: 2}}",
    "net.pose=null",
    "optimizer={type: adamw, lr: 1e-3, weight_decay: 0.01, layer_decay: 0.75, group_lr: null}",
    "scheduler={type: cos, by: step, warmup: 2, T_max: ~}",
    "trainer={ema: true, log_every_n_steps: 1}",
    "dataset={supp_idxs: [0], train: {num_items: 4}, val: {num_items: 2}}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps; what it printed is in `output.txt`."""
    out = tmp_path_factory.mktemp("adapted")
    done = call(*train_args(out, *OPTIONS))
    assert done.returncode == 0, done.stderr
    (out / "output.txt").write_text(done.stdout + done.stderr)
    return out


def first_weights(path: Path) -> dict[str, Tensor]:
    """What the run of a checkpoint started from."""
    hparams = Saved(path, {}, safefile.read_metadata(path)).hparams
    seed_everything(hparams["seed"], INITIALISATION)
    return build_objective(Config.from_dict(hparams["config"])).state_dict()


def moved(held: dict[str, Tensor], first: dict[str, Tensor]) -> set[str]:
    """The letters of the adapters' parameters that are no longer what they were."""
    return {name[-1] for name in first if is_adapter(name) and not torch.equal(held[name], first[name])}


def is_base(name: str) -> bool:
    return name.startswith("networks.depth.encoder.vit.") and not is_adapter(name)


def test_it_says_what_it_trains_and_leaves_the_base_alone(run: Path) -> None:
    first = first_weights(ckpt(run, "last"))
    base = {name: tensor for name, tensor in first.items() if is_base(name)}
    for kind in ("last", "best"):  # `best` holds moving averages
        held = load_file(ckpt(run, kind))
        assert all(torch.equal(tensor, held[name]) for name, tensor in base.items())
        assert moved(held, first) == {*"ABUV"}
    total = sum(tensor.numel() for name, tensor in first.items() if "running" not in name and "num_" not in name)
    own = sum(tensor.numel() for name, tensor in first.items() if is_adapter(name))
    trained = total - sum(tensor.numel() for tensor in base.values())
    shown = f"trained: {trained:,} of {total:,} parameters ({trained / total:.1%}), {own:,} of them in 12 adapters"
    assert shown in (run / "output.txt").read_text()


def test_stopped_before_the_end_of_the_warm_up_it_ends_with_the_same_bytes(run: Path, tmp_path: Path) -> None:
    done_steps: list[int] = []

    def stop(*_: Any) -> None:
        done_steps.append(1)
        if len(done_steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop)
    try:
        assert call(*train_args(tmp_path, *OPTIONS)).returncode == 143
    finally:
        hook.remove()
    assert moved(load_file(ckpt(tmp_path, "last")), first_weights(ckpt(tmp_path, "last"))) == {*"AB"}
    assert call(*train_args(tmp_path, *OPTIONS)).returncode == 0
    assert_same_run(tmp_path, run)


def test_rates_change_with_every_step_over_the_whole_run(run: Path) -> None:
    """Half a cosine over 4 steps, times 0.1 at first and 1 from the third step on."""
    cosine = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    expected = [0.1 * cosine[0], 0.55 * cosine[1], *cosine[2:]]
    logged = scalars(folder(run))["lr/depth"]
    assert [value for _, value in logged] == pytest.approx([1e-3 * factor for factor in expected])


def test_whatever_leaves_is_merged_and_the_same(run: Path) -> None:
    images = torch.rand(2, 3, 64, 64)
    objective = load_objective(folder(run))
    disp = objective.predict_disp(images)[0].detach()
    network = DepthPredictor.load(folder(run), device="cpu").network
    public, _ = published(Saved(ckpt(run, "best"), *safefile.read(ckpt(run, "best"))))
    assert public.hparams["config"]["net"]["depth"]["adapter"] is None
    merged = build_objective(Config.from_dict(public.hparams["config"]))
    public.load_weights(merged)
    for depth in (network.depth, merged.eval().networks["depth"]):
        assert not any(is_adapter(name) for name in depth.state_dict())
        assert torch.allclose(depth(images)["disp"][0], disp, rtol=0, atol=1e-6)


def test_a_base_without_adapters_is_a_start() -> None:
    built = {f"depth.{name}": torch.zeros(1) for name in ("weight", "lora_A", "lora_B")}
    base = {"depth.weight": torch.ones(1)}
    found = fit(base, built)
    assert (found.wrong, list(found.tensors)) == ({}, ["depth.weight"])
    assert found.notes == ["net.depth: no adapters in the file; they start as new ones, which change nothing yet"]
    assert list(fit({**base, "depth.lora_A": torch.ones(1)}, built).wrong) == ["depth.lora_B"]
    assert list(fit(built, base).wrong) == ["depth.lora_A", "depth.lora_B"]


@pytest.mark.long
@pytest.mark.parametrize("extra", [(), ("trainer={gradient_checkpointing: true, compile: {backend: eager}}",)])
def test_two_processes_train_what_one_does(run: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    """What a phase of DV-LoRA leaves out has no gradient on any process, so Adam does not move it."""
    done = launch_two(tmp_path, *OPTIONS, "trainer.max_epochs=1", *extra)
    assert done.returncode == 0, done.stderr
    assert moved(load_file(ckpt(tmp_path, "last")), first_weights(ckpt(tmp_path, "last"))) == {*"AB"}
    done = launch_two(tmp_path / "all", *OPTIONS, *extra)
    assert done.returncode == 0, done.stderr
    one, two = load_file(ckpt(run, "last")), load_file(ckpt(tmp_path / "all", "last"))
    assert all(torch.equal(two[name], one[name]) for name in one if is_base(name))
    losses = [[loss for _, loss in scalars(folder(out))["train_losses/loss"]] for out in (run, tmp_path / "all")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
