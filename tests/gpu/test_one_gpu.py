"""One GPU computes what a CPU computes, repeats itself, survives what 16 bit does, and is waited for rarely."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from tests.benchmark import systems
from tests.distributed.test_runs import build
from tests.gpu.conftest import Row
from tests.runs import NOTED, assert_same_run, ckpt, folder, last_step, scalars
from tests.world import command, train_args
from trainer.checkpoint.safefile import read
from trainer.objective import Objective
from trainer.objective.compiling import compile_networks
from trainer.objective.recompute import recompute
from trainer.training.guard import NonFiniteLoss
from trainer.training.loop import Loop

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.filterwarnings("default"),
]
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "M": ("monodepth2_M", {}),
    "S": ("monodepth2_MS", {"dataset": {"supp_idxs": [0]}, "net": {"pose": None}}),
    "MS": ("monodepth2_MS", {}),
}
# Type of the networks, TF32, and the largest relative difference to float64: of the loss, of all gradients together.
# Minimum, automask and bilinear sampling have kinks, where rounding decides between two gradients.
PRECISIONS = {
    "fp32": (None, False, 1e-5, 2e-2),
    "fp32 with TF32": (None, True, 1e-3, 0.15),
    "fp16": (torch.float16, False, 1e-3, 0.15),
    "bf16": (torch.bfloat16, False, 5e-3, 0.5),
}
SYNCS = 1  # times that the host waits for the device in a step that is not logged: for the verdict on it
MANY = "dataset.train.num_items=64"  # 16 steps an epoch
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    torch._dynamo.reset()


@contextmanager
def tf32(is_on: bool) -> Iterator[None]:
    """Round factors of products to 10 bits, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if is_on else "highest")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=is_on):
        yield
    torch.set_float32_matmul_precision(before)


def system(name: str) -> tuple[Objective, dict[str, Tensor]]:
    page, changes = SYSTEMS[name]
    objective = systems.build(page, changes)
    return objective, systems.make_batch(objective.supp_idxs)


def outcome(
    objective: Objective, batch: dict[str, Tensor], device: str, autocast: torch.dtype | None = None
) -> tuple[float, Tensor]:
    """Loss and all gradients in a row, float64."""
    objective.to(device).zero_grad(set_to_none=True)
    moved: Any = {key: value.to(device) for key, value in batch.items()}
    with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
        loss = objective(moved).loss
    scale = 2.0**12 if autocast is torch.float16 else 1.0
    (loss * scale).backward()
    gradients = [p.grad.flatten().double().cpu() / scale for p in objective.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_loss_and_gradients_are_those_of_the_cpu(name: str, precision: str, row: Row) -> None:
    autocast, is_rounded, of_loss, of_gradient = PRECISIONS[precision]
    objective, batch = system(name)
    exact = {key: value.double() for key, value in batch.items()}
    loss, gradient = outcome(copy.deepcopy(objective).double(), exact, "cpu")
    with tf32(is_rounded):
        ours, own_gradient = outcome(objective, batch, DEVICE, autocast)
    differences = abs(ours - loss) / abs(loss), distance(own_gradient, gradient)
    row(
        f"{name}, {precision}: relative difference to float64 on the CPU",
        "loss {:.1e}, gradient {:.1e}".format(*differences),
    )
    assert differences[0] <= of_loss
    assert differences[1] <= of_gradient


@pytest.mark.parametrize(("compiled", "again", "channels_last"), [*itertools.product((False, True), repeat=3)][1:])
def test_compiled_recomputed_and_reordered_networks_compute_the_same(
    compiled: bool, again: bool, channels_last: bool, row: Row
) -> None:
    objective, batch = system("MS")
    objective.train()
    with tf32(False):
        loss, gradient = outcome(copy.deepcopy(objective), batch, DEVICE)
        objective.to(DEVICE)
        if channels_last:
            objective.use_channels_last()
        if again:
            recompute(objective)
        if compiled:
            compile_networks(objective, {})
        ours, own_gradient = outcome(objective, batch, DEVICE)
    options = {"compiled": compiled, "recomputed": again, "channels last": channels_last}
    what = ", ".join(option for option, is_on in options.items() if is_on)
    row(
        f"{what}: relative difference",
        f"loss {abs(ours / loss - 1):.1e}, gradient {distance(own_gradient, gradient):.1e}",
    )
    assert ours == pytest.approx(loss, rel=1e-4)
    assert distance(own_gradient, gradient) <= 5e-2


def train(out: Path, *overrides: str, **env: str) -> None:
    done = command(*train_args(out, *overrides), **{"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **env})
    assert done.returncode == 0, done.stderr[-3000:]


def differing(ours: Path, theirs: Path) -> list[str]:
    """Names of the tensors of `last` that differ between two runs."""
    a, b = (read(ckpt(out, "last"))[0] for out in (ours, theirs))
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_same_command_twice(deterministic: bool, tmp_path: Path, row: Row) -> None:
    for name in ("first", "second"):
        train(tmp_path / name, f"trainer.deterministic={str(deterministic).lower()}")
    different = differing(tmp_path / "first", tmp_path / "second")
    row(f"the same command twice, deterministic: {deterministic}", f"{len(different)} tensors differ {different[:3]}")
    if deterministic:
        assert_same_run(tmp_path / "first", tmp_path / "second")


def test_a_run_goes_from_the_cpu_to_the_gpu_and_back(tmp_path: Path, row: Row) -> None:
    moving, staying = tmp_path / "moving", tmp_path / "staying"
    for out, places in ((moving, (HIDDEN, {}, HIDDEN)), (staying, (HIDDEN, HIDDEN, HIDDEN))):
        for epochs, env in enumerate(places, 1):
            train(out, f"trainer.max_epochs={epochs}", **env)
            assert last_step(out) == 4 * epochs
    ends = [scalars(folder(out))["val/AbsRel"][-1][1] for out in (moving, staying)]
    row("AbsRel of a run with an epoch on the GPU, and of one without", "{:.5f}, {:.5f}".format(*ends))
    assert ends[0] == pytest.approx(ends[1], rel=0.05)


def parameters(loop: Loop) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in loop.parameters]


def are_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@contextmanager
def begun(out: Path, *overrides: str) -> Iterator[tuple[Loop, Iterator[Any]]]:
    """A run in this process, and the batches of its first epoch."""
    loop, run = build(out, 0, *overrides)
    with closing(run), loop.recorder.progress, loop.saver:
        assert loop.accelerator.device.type == DEVICE
        yield loop, loop.epoch()


def test_an_infinite_gradient_in_16_bit_lowers_the_scale_and_changes_no_weight(tmp_path: Path, row: Row) -> None:
    with begun(tmp_path, "trainer.precision=16", MANY) as (loop, batches):
        scaler: Any = loop.accelerator.scaler
        scales = [scaler.get_scale()]
        while len(scales) < 12 and (len(scales) == 1 or scales[-1] < scales[-2]):  # the first ones may be too high
            loop.step(next(batches))
            scales.append(scaler.get_scale())
        row("steps that fp16 took to find its scale", str(len(scales) - 1))
        scale, before = scaler.get_scale(), parameters(loop)
        weight = next(p for p in loop.parameters if p.ndim > 1)
        hook = weight.register_hook(lambda gradient: gradient * math.inf)
        loop.step(next(batches))
        hook.remove()
        assert scaler.get_scale() == scale / 2
        assert are_equal(parameters(loop), before)
        loop.step(next(batches))
        assert not are_equal(parameters(loop), before)


def spoil(loss: Any, call: int) -> None:
    """Make a loss NaN in one of its calls."""
    forward: Any = loss.forward
    calls = itertools.count(1)

    def spoilt(scene: Any) -> Any:
        value, pictures = forward(scene)
        return (value * math.nan if next(calls) == call else value), pictures

    loss.forward = spoilt


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_that_is_not_a_number_changes_no_weight(policy: str, precision: str, tmp_path: Path) -> None:
    with begun(tmp_path, f"trainer.nonfinite={policy}", f"trainer.precision={precision}", MANY) as (loop, batches):
        for _ in range(2):
            loop.step(next(batches))
        before = parameters(loop)
        spoil(loop.objective.losses["disp_smooth"], 1)
        if policy == "stop":
            with pytest.raises(NonFiniteLoss):  # noqa: PT012 - in this step, or when the next one looks back
                loop.step(next(batches))
                assert are_equal(parameters(loop), before)
                loop.step(next(batches))
        else:
            loop.step(next(batches))
            assert are_equal(parameters(loop), before)
            for _ in range(8):
                loop.step(next(batches))
            assert loop.guard.skipped == 1
            assert not are_equal(parameters(loop), before)
        assert all(torch.isfinite(tensor).all() for tensor in parameters(loop))


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_the_host_waits_for_the_device_no_more_often_than_documented(precision: str, tmp_path: Path, row: Row) -> None:
    steps = 8
    with begun(tmp_path, MANY, "trainer.log_every_n_steps=1000", f"trainer.precision={precision}") as (loop, batches):
        for _ in range(4):
            loop.step(next(batches))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(steps):
                    loop.step(next(batches))
            finally:
                torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    row(f"times that the host waits in a step, {precision} bit", f"{len(places) / steps:.2f} {sorted(set(places))}")
    assert len(places) <= steps * (SYNCS + (precision == "16"))  # the scale of fp16 is read, too


def test_a_profile_shows_kernels_and_curves_show_speed_and_memory(tmp_path: Path, row: Row) -> None:
    steps = 3
    done = command(*train_args(tmp_path, *NOTED, MANY, "trainer.max_epochs=1"), "--profile", str(steps))
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (folder(tmp_path) / "profile").iterdir()
    assert str(path) in done.stdout
    events = json.loads(path.read_text())["traceEvents"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    row("kernels of a step", f"{len(kernels) / steps:.0f}")
    assert kernels
    assert [event["name"] for event in events if event.get("cat") == "user_annotation"].count("Forward") == steps
    curves = scalars(folder(tmp_path))
    for name in ("images_per_second", "device_memory_mb"):
        number = curves[f"train_speed/{name}"][-1][1]
        row(f"{name.replace('_', ' ')} of a tiny run", f"{number:.0f}")
        assert number > 0


def test_benchmarks_run(row: Row) -> None:
    for words in (("step",), ("step", "--precision", "bf16"), ("step", "--naive")):
        options = "--size", "640", "192", "--device", DEVICE, "--rounds", "5", "--json"
        done = command("-m", "trainer.commands", "bench", *words, *options)
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout)["results"]["640x192 step"]["wall"]
        row(f"bench {' '.join(words)}, 640x192, batch 4", f"{found['median']:.1f} ms")
