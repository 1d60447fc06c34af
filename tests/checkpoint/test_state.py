"""A run packed into tensors and text, unpacked into new objects, takes the very same next step."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import lr_scheduler

from trainer.checkpoint import safefile
from trainer.checkpoint.encoding import from_json, to_json
from trainer.checkpoint.state import Position, TrainState, WrongOptimizer, pack_state, read_state, unpack_state, weights


class Tiny(nn.Module):
    """Two networks with all that matters: convolution, BatchNorm, bias, a parameter that gets no gradient."""

    def __init__(self, seed: int = 0, width: int = 4):
        super().__init__()
        torch.manual_seed(seed)
        depth = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1))
        self.networks = nn.ModuleDict({"depth": depth, "pose": nn.Linear(2, 2)})
        self.networks["pose"].register_parameter("unused", nn.Parameter(torch.ones(2)))

    def forward(self, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(2, 3, 8, 8, generator=generator)
        depth, pose = self.networks["depth"](x), self.networks["pose"](x[0, 0, :2, :2])
        return depth.square().mean() + pose.square().mean()


def train(objective: nn.Module, optimizer: Any, steps: range, scheduler: Any = None) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss = objective(step)
        loss.backward(create_graph=False)
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([loss.item()] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


def through_a_file(
    folder: Path, objective: nn.Module, optimizer: Any, scheduler: Any = None, state: TrainState | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    safefile.write(folder / "x", *pack_state(objective, optimizer, scheduler, None, state or TrainState()))
    return safefile.read(folder / "x")


def assert_resumes(folder: Path, build: Callable[[int], tuple[Tiny, Any, Any]], start: int, stop: int) -> Any:
    """Check that a run saved at step `start` and continued by new objects reaches `stop` with the same weights."""
    straight, optimizer, scheduler = build(0)
    train(straight, optimizer, range(start), scheduler)
    tensors, metadata = through_a_file(folder, straight, optimizer, scheduler)
    train(straight, optimizer, range(start, stop), scheduler)
    resumed, other, scheduler = build(1)
    resumed.load_state_dict({k: v for k, v in tensors.items() if k.startswith("networks.")})
    unpack_state(resumed, other, scheduler, None, tensors, metadata)
    train(resumed, other, range(start, stop), scheduler)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for (name, left), right in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"weight_decay": 0.1},
    "adam amsgrad": {"amsgrad": True},
    "adam fused": {"fused": True},
    "sgd": {"momentum": 0.9},
    **{name: {} for name in ("rmsprop", "rmsproptf", "lamb", "lion", "adan", "radam", "nadamw", "novograd")},
    "adabelief": {},  # step is an int
    "adafactorbv": {},  # momentum in bfloat16, a dtype among the options
    "laprop": {},  # floats beside tensors
    **{name: {} for name in ("adafactor", "madgrad", "muon", "lookahead_adamw")},
}


@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_the_next_steps_are_the_same_to_the_bit(tmp_path: Path, spec: str) -> None:
    def build(seed: int) -> tuple[Tiny, Any, None]:
        objective = Tiny(seed)
        name, options = spec.split(" ")[0], OPTIMIZERS[spec]
        return objective, create_optimizer_v2(objective.networks, opt=name, lr=0.01, **options), None

    assert_resumes(tmp_path, build, 8, 11)


def test_packing_changes_nothing_and_repacking_gives_the_same_bytes(tmp_path: Path) -> None:
    objective = Tiny()
    optimizer = create_optimizer_v2(objective, opt="adamw", lr=0.01)
    train(objective, optimizer, range(2))
    tensors, metadata = through_a_file(tmp_path, objective, optimizer)
    first = (tmp_path / "x").read_bytes()
    unpack_state(objective, optimizer, None, None, tensors, metadata)
    through_a_file(tmp_path, objective, optimizer)
    assert (tmp_path / "x").read_bytes() == first


def test_state_is_filed_under_the_names_of_parameters(tmp_path: Path) -> None:
    objective = Tiny()
    optimizer = torch.optim.Adam(objective.parameters())
    train(objective, optimizer, range(1))
    tensors, metadata = through_a_file(tmp_path, objective, optimizer)
    assert {"networks.depth.0.weight", "networks.depth.1.running_mean"} < tensors.keys()
    names = [k for k in tensors if k.startswith("optim.networks.pose.weight.")]
    assert sorted(names) == [f"optim.networks.pose.weight.{s}" for s in ("exp_avg", "exp_avg_sq", "step")]
    assert tensors["optim.networks.pose.weight.step"] == 1
    assert json.loads(metadata["optimizer"])["groups"][0]["options"]["lr"] == 0.001


def test_parameters_in_another_order_get_their_own_momenta(tmp_path: Path) -> None:
    def build(seed: int) -> tuple[Tiny, Any, None]:
        objective = Tiny(seed)
        parameters = list(objective.parameters())[:: -1 if seed else 1]
        return objective, torch.optim.Adam(parameters, lr=0.01, foreach=False), None

    assert_resumes(tmp_path, build, 3, 5)


def test_adam_keeps_memory_format_and_step_counters(tmp_path: Path) -> None:
    """Momenta stay channels last, steps 0-d float tensors on the CPU, as torch has them."""
    objective = Tiny().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(objective.parameters())
    train(objective, optimizer, range(2))
    parameter = objective.networks["depth"][0].weight
    before = optimizer.state[parameter]["exp_avg"].clone()
    tensors, metadata = through_a_file(tmp_path, objective, optimizer)
    assert tensors["optim.networks.depth.0.weight.exp_avg"].is_contiguous()
    unpack_state(objective, optimizer, None, None, tensors, metadata)
    after = optimizer.state[parameter]["exp_avg"]
    assert torch.equal(before, after)
    assert after.stride() == parameter.stride() == before.stride()
    steps = [entry["step"] for entry in optimizer.state.values()]
    assert all(s.shape == () and s.dtype == torch.float32 and s.device.type == "cpu" for s in steps)


class Exotic(torch.optim.SGD):
    """Keeps integers and 16 bit numbers, in a list as well; torch would cast those that are not in lists."""

    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {
                "count": torch.tensor([2**24 + 1]),
                "half": torch.ones(2, dtype=torch.bfloat16),
                "axes": [torch.ones(1), torch.zeros(2)],
            }


def test_states_keep_their_types_and_lists(tmp_path: Path) -> None:
    objective = Tiny()
    optimizer = Exotic(objective.parameters())
    optimizer.step()
    tensors, metadata = through_a_file(tmp_path, objective, optimizer)
    optimizer = Exotic(objective.parameters())
    unpack_state(objective, optimizer, None, None, tensors, metadata)
    state = optimizer.state[objective.networks["pose"].weight]
    assert state["count"].dtype == torch.int64
    assert state["count"].item() == 2**24 + 1  # which float32 does not have
    assert state["half"].dtype == torch.bfloat16
    assert [len(axis) for axis in state["axes"]] == [1, 2]


def test_groups_keep_their_rates_and_the_types_of_their_options(tmp_path: Path) -> None:
    def build(rate: float) -> tuple[Tiny, Any]:
        objective = Tiny()
        groups = [
            {"params": objective.networks["depth"].parameters(), "lr": rate},
            {"params": objective.networks["pose"].parameters(), "lr": torch.tensor(rate / 10), "betas": (0.5, 0.9)},
        ]
        return objective, torch.optim.Adam(groups, foreach=False)

    objective, optimizer = build(0.1)
    train(objective, optimizer, range(1))
    packed = through_a_file(tmp_path, objective, optimizer)
    objective, optimizer = build(0.2)
    unpack_state(objective, optimizer, None, None, *packed)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert torch.equal(optimizer.param_groups[1]["lr"], torch.tensor(0.01))
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.9)


def test_what_accelerate_prepared_is_unwrapped(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    objective = Tiny()
    optimizer = torch.optim.Adam(objective.parameters())
    model, wrapped = accelerator.prepare(objective, optimizer)
    train(model, wrapped, range(2))
    tensors, metadata = through_a_file(tmp_path, objective, wrapped)
    moments = optimizer.state[objective.networks["pose"].weight]["exp_avg"].clone()
    other = Tiny(1)
    model, wrapped = accelerator.prepare(other, torch.optim.Adam(other.parameters()))
    unpack_state(other, wrapped, None, None, tensors, metadata)
    assert torch.equal(wrapped.optimizer.state[other.networks["pose"].weight]["exp_avg"], moments)


def test_a_compiled_or_wrapped_module_is_refused() -> None:
    with pytest.raises(ValueError, match="give the raw objective"):
        weights(nn.ModuleDict({"module": Tiny()}))
    with pytest.raises(ValueError, match="give the raw objective"):
        weights(nn.ModuleDict({"networks": nn.ModuleDict({"_orig_mod": nn.Linear(1, 1)})}))


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda optimizer: None,
    "steplr": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "multistep": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 4, 4]),
    "exp": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "cos": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 7),
    "cos_warm": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2),
    "linear": lr_scheduler.LinearLR,
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20),
    "chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.1, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)], optimizer
    ),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, total_iters=2), lr_scheduler.MultiStepLR(optimizer, [1, 2])],
        milestones=[4],
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # torch's SequentialLR warns about its own call
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_continues_where_it_stopped(tmp_path: Path, name: str) -> None:
    def build(seed: int) -> tuple[Tiny, Any, Any]:
        objective = Tiny(seed)
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.05, momentum=0.9)
        return objective, optimizer, SCHEDULERS[name](optimizer)

    assert_resumes(tmp_path, build, 3, 10)


def test_the_gradient_scale_continues(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(1))  # the scale comes into being
    scaler.update(256.0)
    tensors, metadata = pack_state(Tiny(), None, None, scaler, TrainState())
    other = torch.amp.GradScaler("cpu")
    unpack_state(Tiny(), None, None, other, tensors, metadata)
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 256
    tensors, metadata = pack_state(Tiny(), None, None, torch.amp.GradScaler("cpu", enabled=False), TrainState())
    unpack_state(Tiny(), None, None, other, tensors, metadata)  # a run in 32 bit continued in 16
    assert other.get_scale() == 256


def test_position_best_and_metrics_return(tmp_path: Path) -> None:
    state = TrainState(
        position=Position(2, 5, 77),
        best=0.1 + 0.2,
        best_epoch=1,
        best_metrics={"AbsRel": 0.30000000000000004, "constant_AbsRel": 0.5},
        metrics={"AbsRel": np.float32(0.25), "RMSE": torch.tensor(math.nan)},  # type: ignore[dict-item]
        extra={"swa": {"count": 3, "weight": torch.arange(3)}},
    )
    tensors, metadata = through_a_file(tmp_path, Tiny(), None, state=state)
    read = read_state(metadata, tensors)
    assert read.position == Position(2, 5, 77)
    assert (metadata["epoch"], metadata["batch"], metadata["step"]) == ("2", "5", "77")
    assert (read.best, read.best_epoch) == (0.30000000000000004, 1)
    assert read.judged == read.best_metrics == {"AbsRel": 0.30000000000000004, "constant_AbsRel": 0.5}
    older = read_state({**metadata, "best": '{"value": 0.3, "epoch": 1}'}, tensors)  # of an earlier version
    assert older.judged == older.metrics
    assert read.metrics["AbsRel"] == 0.25
    assert math.isnan(read.metrics["RMSE"])
    assert read.extra["swa"]["count"] == 3
    assert torch.equal(read.extra["swa"]["weight"], torch.arange(3))
    assert read_state(*pack_state(Tiny(), None, None, None, TrainState())[::-1]).best is None


@pytest.mark.parametrize(
    "value",
    [
        [None, True, 3, 0.1 + 0.2, 1e-323, "ü\n"],
        {"inf": math.inf, "-inf": -math.inf},
        (1, (2.5, [3])),
        {1: "a", (2, 3): {"b": ()}},
        {"$float": "not a number"},
        Counter({4: 2, 2: 1}),
        torch.bfloat16,
    ],
)
def test_data_becomes_strict_json_and_returns_unchanged(value: Any) -> None:
    text = to_json(value)

    def refuse(token: str) -> None:
        raise AssertionError(token)

    json.loads(text, parse_constant=refuse)  # NaN and Infinity are not JSON
    read = from_json(text)
    assert read == value
    assert type(read) is type(value)


def test_what_is_not_data_is_named_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"^extra\.a\.1: <built-in function print> of type builtin"):
        pack_state(Tiny(), None, None, None, TrainState(extra={"a": [1, print]}))
    with pytest.raises(TypeError, match="Tensor cannot be stored"):
        to_json(torch.ones(1))


def packed(objective: nn.Module, optimizer: Any, scheduler: Any = None) -> tuple[Any, Any]:
    return pack_state(objective, optimizer, scheduler, None, TrainState())


def test_another_optimizer_is_refused() -> None:
    objective = Tiny()
    saved = packed(objective, torch.optim.Adam(objective.parameters()))
    with pytest.raises(WrongOptimizer, match=r"optimizer Adam, this run has SGD. Set optimizer\.type back"):
        unpack_state(objective, torch.optim.SGD(objective.parameters()), None, None, *saved)
    with pytest.raises(WrongOptimizer, match="weights only"):
        unpack_state(objective, torch.optim.SGD(objective.parameters()), None, None, *packed(objective, None))


def test_another_schedule_is_refused() -> None:
    objective = Tiny()
    optimizer = torch.optim.Adam(objective.parameters())
    steps, exp = (SCHEDULERS[name](optimizer) for name in ("steplr", "exp"))
    for saved, built, message in (
        (steps, exp, "schedule StepLR, this run has ExponentialLR"),
        (steps, None, "schedule StepLR, this run has none"),
        (None, exp, "schedule none, this run has ExponentialLR"),
    ):
        with pytest.raises(WrongOptimizer, match=message):
            unpack_state(objective, optimizer, built, None, *packed(objective, optimizer, saved))


def test_other_parameters_are_listed() -> None:
    objective = Tiny()
    saved = packed(objective, torch.optim.Adam(objective.networks["depth"].parameters()))
    with pytest.raises(WrongOptimizer, match=r"networks\.pose\.bias: trained now, not in the file") as caught:
        unpack_state(objective, torch.optim.Adam(objective.parameters()), None, None, *saved)
    assert "networks.depth" not in str(caught.value)
    saved = packed(objective, torch.optim.Adam(objective.parameters()))
    with pytest.raises(WrongOptimizer, match=r"networks\.depth\.0\.bias: trained in the file, not now"):
        unpack_state(objective, torch.optim.Adam(objective.networks["pose"].parameters()), None, None, *saved)


def test_other_groups_are_counted() -> None:
    objective = Tiny()
    saved = packed(objective, torch.optim.Adam(objective.parameters()))
    groups = [{"params": net.parameters()} for net in objective.networks.values()]
    with pytest.raises(WrongOptimizer, match=r"parameter groups: \[9\] in the file, \[6, 3\] now"):
        unpack_state(objective, torch.optim.Adam(groups), None, None, *saved)


def test_a_long_list_is_cut() -> None:
    objective = Tiny()
    objective.networks["many"] = nn.ModuleList(nn.Linear(1, 1) for _ in range(7))
    saved = packed(objective, torch.optim.SGD(objective.networks["depth"].parameters()))
    with pytest.raises(WrongOptimizer, match=r"\.\.\. and 7 more"):  # of 14 + 3
        unpack_state(objective, torch.optim.SGD(objective.parameters()), None, None, *saved)


def test_an_optimizer_of_other_modules_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="not those of the objective"):
        packed(Tiny(), torch.optim.SGD(Tiny().parameters()))
