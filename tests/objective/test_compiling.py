"""Compiled networks compute what they compute without, in training and evaluation, frozen and recomputed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch._inductor import config as inductor_config
from torch.nn.parallel import DistributedDataParallel

from tests.fakes import FakeDepth, make_batch, make_objective
from tests.world import run_world
from trainer.objective import Objective, compiling
from trainer.objective.batchnorm import synchronise_batchnorm
from trainer.objective.compiling import (
    VARIANTS,
    CompiledFormulas,
    as_it_is,
    check_options,
    choose_formulas,
    compile_networks,
)
from trainer.objective.freezing import freeze
from trainer.objective.recompute import recompute
from trainer.runtime.errors import UserError

CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # a compiler may reorder sums


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Neither compiled code nor raised limits are left to the next test, nor an accelerator of an earlier one."""
    torch._dynamo.reset()
    AcceleratorState._reset_state(reset_partial_state=True)
    limits = torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit
    yield
    torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit = limits
    torch._dynamo.reset()


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ELU())


class Depth(FakeDepth):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(), block())

    def forward(self, images):
        return super().forward(self.blocks(images))


def make() -> Objective:
    torch.manual_seed(0)
    return make_objective(depth=Depth())


def result(objective: Objective, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
    """Loss and gradients of one step, the running statistics after it, and the loss in evaluation."""
    model = model or objective
    model.train()
    loss = model(make_batch()).loss
    loss.backward()
    grads = {f"grad of {name}": p.grad for name, p in objective.named_parameters() if p.grad is not None}
    objective.eval()
    with torch.no_grad():
        evaluated = objective(make_batch(b=1)).loss
    objective.train()
    return {"loss": loss.detach(), "evaluated": evaluated, **grads, **dict(objective.named_buffers())}


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.long), "aot_eager"])
@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("again", [False, True])
def test_the_numbers_stay(backend: str, frozen: bool, again: bool) -> None:
    plain = make()
    if frozen:
        freeze(plain, ["depth.blocks.0"], batchnorm=True)
    ours = copy.deepcopy(plain)
    if again:
        recompute(ours)
    torch._dynamo.utils.counters.clear()
    compile_networks(ours, {"backend": backend})
    torch.testing.assert_close(result(ours), result(plain), **CLOSE)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # it was compiled
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_notes_say_what_is_compiled() -> None:
    ours = make()
    recompute(ours)
    options = {"backend": "aot_eager", "mode": None, "dynamic": None, "fullgraph": False}
    assert compile_networks(ours, options) == [
        "compiled: depth, its 2 recomputed blocks (aot_eager)",
        "compiled: pose (aot_eager)",
    ]


def test_a_copy_computes_the_same_and_can_be_compiled() -> None:
    ours = make()
    compile_networks(ours, {"backend": "eager"})
    result(ours)
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    compile_networks(twin, {"backend": "eager"})
    sigmoid_of_0 = twin.predict_disp(make_batch()["target"])[0]
    torch.testing.assert_close(sigmoid_of_0, torch.full_like(sigmoid_of_0, 0.5))
    assert not torch.allclose(ours.predict_disp(make_batch()["target"])[0], sigmoid_of_0)


def test_accelerate_wraps_it() -> None:
    plain, ours = make(), make()
    compile_networks(ours, {"backend": "eager"})
    model = Accelerator(cpu=True).prepare(ours)
    torch.testing.assert_close(result(ours, model), result(plain), **CLOSE)


class Twelve(FakeDepth):
    """More blocks of one class, each of its own width, than torch compiles variants of one code."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *range(4, 15), 3]
        self.blocks = nn.ModuleList(Narrow(a, b) for a, b in pairwise(widths))

    def forward(self, images):
        for narrow in self.blocks:
            images = narrow(images)
        return super().forward(images)


class Narrow(nn.Module):
    def __init__(self, in_ch: int, out_ch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_ch, out_ch, 1)

    def forward(self, x):
        return self.conv(x).tanh()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch, while it looks for a reason to recompile
def test_many_blocks_of_one_class_are_all_compiled() -> None:
    ours = make_objective(depth=Twelve(), pose=False, supp_idxs=(), losses={})
    recompute(ours)
    assert len(ours.networks["depth"].blocks) > VARIANTS
    compile_networks(ours, {"backend": "eager", "dynamic": False})
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        maps = ours.networks["depth"](make_batch()["target"])["disp"]
        maps[0].mean().backward()
    assert math.isfinite(float(ours.networks["depth"].blocks[0].conv.weight.grad.sum()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "inducto"}, r"backend: 'inducto' is not known\. Did you mean 'inductor'\?"),
        ({"mode": "reduce_overhead"}, r"mode: 'reduce_overhead' is not known\. Did you mean 'reduce-overhead'\?"),
        ({"mode": "max-autotune"}, r"'max-autotune' uses CUDA graphs.*max-autotune-no-cudagraphs"),
        ({"backend": "eager", "mode": "default"}, r"mode: 'default' belongs to backend 'inductor'"),
        ({"backnd": "eager"}, r"trainer\.compile\.backnd is not an option\. Did you mean 'backend'\?"),
    ],
)
def test_what_torch_would_refuse_late_is_refused_at_once(options, message) -> None:
    with pytest.raises(UserError, match=message):
        check_options(options, "cpu")


def test_inductor_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = r"needs a C\+\+ compiler on a CPU and finds no g\+\+-of-nobody \(\$CXX"
    with inductor_config.patch({"cpp.cxx": (None, "g++-of-nobody")}), pytest.raises(UserError, match=message):
        compile_networks(make(), {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package 'triton'"):
        check_options({}, "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("CC", "cc-of-nobody")
    with pytest.raises(UserError, match="Triton needs a C compiler and finds none of cc-of-nobody"):
        check_options({}, "cuda")
    check_options({"backend": "aot_eager"}, "cuda")  # needs none


def test_inductor_without_the_headers_of_python_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda *args, **kwargs: str(tmp_path))
    with inductor_config.patch({"cpp.cxx": (None, str(compiler))}):
        with pytest.raises(UserError, match=r"needs the headers of Python and finds no .*Python\.h"):
            check_options({}, "cpu")
        (tmp_path / "Python.h").touch()
        check_options({}, "cpu")


def _two_processes(rank: int, world: int) -> None:
    batch = {key: value[2 * rank : 2 * rank + 2] for key, value in make_batch(b=4).items()}
    results = []
    for again, compiled in ((False, False), (False, True), (True, True)):
        torch._dynamo.reset()
        objective = make()
        synchronise_batchnorm(objective, torch.device("cpu"))
        if again:
            recompute(objective)
        if compiled:
            compile_networks(objective, {"backend": "aot_eager"})
        wrapped = DistributedDataParallel(objective, broadcast_buffers=False, find_unused_parameters=True)
        for _ in range(2):
            wrapped(batch).loss.backward()
        grads = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
        results.append(grads | dict(objective.named_buffers()))
    torch.testing.assert_close(results[1], results[0], **CLOSE)
    torch.testing.assert_close(results[2], results[0], **CLOSE)


@pytest.mark.long
def test_two_processes_with_global_batchnorm(tmp_path: Path) -> None:
    run_world(_two_processes, 2, tmp_path)


@pytest.mark.parametrize(
    ("fuse", "device", "kind"),
    [
        *[("auto", "cpu", None), ("auto", "cuda", CompiledFormulas), ("auto", "xpu", as_it_is)],
        *[("on", "cpu", CompiledFormulas), ("off", "cpu", None), ("off", "cuda", as_it_is)],
    ],
)
def test_formulas_are_compiled_where_launches_cost(fuse, device, kind) -> None:
    chosen = choose_formulas(fuse, device)
    assert isinstance(chosen, kind) if isinstance(kind, type) else chosen is kind


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.filterwarnings("default:The .grad attribute")  # the compiler asks for it, and hides the warning
@pytest.mark.long
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_formulas_give_the_same_step(backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in one graph, in training and evaluation, also for a copy of the objective."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    plain, fused = make_objective(), make_objective()
    said: list[str] = []
    fused.load_state_dict(plain.state_dict())
    fused.fused = CompiledFormulas("cpu", said.append)
    expected = result(plain)
    for name, value in result(copy.deepcopy(fused)).items():
        torch.testing.assert_close(value, expected[name], **CLOSE)
    assert said == []


class Broken(RuntimeError):
    pass


def test_what_cannot_be_compiled_runs_as_it_is_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(formula):
        def fail(*args):
            raise Broken("no such instruction\nat all")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    said: list[str] = []
    fused = CompiledFormulas("cpu", said.append)
    for _ in range(2):
        assert fused(torch.add, torch.ones(1), torch.ones(1)) == 2
        assert fused(torch.mul, torch.ones(1), torch.ones(1)) == 1
    assert said == [
        "warning: the losses are not compiled (Broken: no such instruction at all); the same numbers take more launches"
    ]
    monkeypatch.setattr(compiling, "_missing", lambda device_type: "inductor needs a compiler")
    assert CompiledFormulas("cuda", said.append)(torch.add, torch.ones(1), torch.ones(1)) == 2
    assert "(inductor needs a compiler)" in said[1]


def test_a_mistake_in_a_formula_is_not_taken_for_one_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda formula: formula)
    with pytest.raises(RuntimeError, match="must match"):
        CompiledFormulas("cpu", print)(torch.add, torch.ones(2), torch.ones(3))
