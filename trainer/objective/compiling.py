"""torch.compile for the networks, in place: names in the state dict stay; what cannot run is an error before training.

Of geometry and losses only the formulas over all supports and scales are compiled (`CompiledFormulas`). A network with
recomputed blocks (`trainer.objective.recompute`) is compiled block by block, so that a block is recomputed by the code
that ran forward: torch's own way, a checkpoint inside a graph, fails at graph breaks and under DistributedDataParallel.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from models_zoo.registry import did_you_mean
from trainer.geometry import Runner
from trainer.objective.batchnorm import GlobalBatchNorm2d
from trainer.objective.objective import Objective
from trainer.runtime.errors import UserError
from trainer.runtime.streams import say

OPTIONS = ("backend", "mode", "dynamic", "fullgraph")
INDUCTOR = "inductor"  # torch's default backend, the only one that knows modes and needs a compiler
C_COMPILERS = ["cc", "gcc", "clang"]  # what Triton builds its launchers with, unless $CC says otherwise
SYNCHRONISED = (GlobalBatchNorm2d, nn.SyncBatchNorm)
VARIANTS = 8  # of one module: training or not, with gradients or not, shapes; torch's own limit


def compile_networks(objective: Objective, options: Mapping[str, Any]) -> list[str]:
    """Compile every network when it is first called. Returns notes: "compiled: depth (inductor)".

    Call it when the networks are on their device, frozen and made to recompute, and before Accelerate wraps them. Deep
    copies of the objective are not compiled, but can be. Every mode and shape (training, validation, the last batch) is
    compiled once.

    Args:
        options: of `torch.compile`: `backend` ("inductor" by default), `mode`, `dynamic`, `fullgraph`.

    Raises UserError as `check_options` does.
    """
    check_options(options, next(objective.parameters()).device.type)
    given = {key: value for key, value in options.items() if value is not None}
    if given.get("fullgraph") and any(isinstance(m, SYNCHRONISED) for m in objective.networks.modules()):
        raise UserError(
            "trainer.compile.fullgraph: batch norm synchronised between processes is not compiled. Set fullgraph or"
            " trainer.sync_batchnorm to false"
        )
    how = ", ".join([given.get("backend", INDUCTOR), *([given["mode"]] if "mode" in given else [])])
    notes = []
    for name, network in objective.networks.items():
        blocks = [module for module in network.modules() if hasattr(module, "recomputed_path")]
        _allow_variants(VARIANTS * (1 + len(blocks)))
        for module in network.modules():
            if isinstance(module, SYNCHRONISED) and not hasattr(module, "is_uncompiled"):
                module.__class__ = _uncompiled(type(module))  # type: ignore[arg-type]
        for module in blocks or [network]:
            module.compile(**given)
        notes.append(f"compiled: {name}{f', its {len(blocks)} recomputed blocks' if blocks else ''} ({how})")
    return notes


def choose_formulas(fuse: str, device_type: str) -> Runner | None:
    """Choose how photometric error and projection are computed (`Scene.fused`) by `trainer.fuse` and the device.

    auto: by hand, piece by piece, on a CPU, where caches decide; compiled on CUDA, where launches do; as plain formulas
    on other devices. on: compiled everywhere. off: never compiled.
    """
    if fuse == "on" or (fuse == "auto" and device_type == "cuda"):
        return CompiledFormulas(device_type)
    return None if device_type == "cpu" else as_it_is


def as_it_is(formula: Runner, *args: Any) -> Any:
    """Call a formula without a compiler."""
    return formula(*args)


class CompiledFormulas:
    """Call formulas compiled by inductor when they are first called; as they are, after one warning, if that fails.

    That first call runs the backward pass too, apart from the graph: a failure shows before anything depends on it.
    """

    def __init__(self, device_type: str, warn: Callable[[str], None] = say):
        self.device_type, self.warn = device_type, warn
        self._compiled: dict[Runner, Runner] | None = {}  # None once something could not be compiled

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFormulas:
        return self  # an average of weights uses the same code

    def __call__(self, formula: Runner, *args: Any) -> Any:
        try:
            if self._compiled is not None:
                return self._compile(formula, args)(*args)
        except Exception as error:
            if not isinstance(error, (torch._dynamo.exc.TorchDynamoException, _NotCompiled)):
                raise
            said = shorten(str(error).split("\n\n")[0], 300, placeholder=" ...") or type(error).__name__
            self._compiled = None
            self.warn(f"warning: the losses are not compiled ({said}); the same numbers take more launches")
        return formula(*args)

    def _compile(self, formula: Runner, args: tuple[Any, ...]) -> Runner:
        """Return the compiled formula, tried on `args` when it is new. Raises _NotCompiled when that failed."""
        assert self._compiled is not None
        if formula in self._compiled:
            return self._compiled[formula]
        if missing := _missing(self.device_type):
            raise _NotCompiled(missing)
        _allow_variants(VARIANTS)
        compiled = torch.compile(formula)
        apart = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in args]
        try:
            with torch.enable_grad():
                out = [x for x in compiled(*apart) if isinstance(x, Tensor) and x.requires_grad]
                if out:
                    sum(x.sum() for x in out).backward()  # type: ignore[union-attr]
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            raise _NotCompiled(f"{type(error).__name__}: {error}") from error
        self._compiled[formula] = compiled
        return compiled


class _NotCompiled(Exception):
    """A formula could not be compiled; the message says why."""


def check_options(options: Mapping[str, Any], device_type: str) -> None:
    """Raise UserError for options that torch.compile does not take, or that cannot work on this machine."""
    for key in options:
        if key not in OPTIONS:
            raise UserError(f"trainer.compile.{key} is not an option. {did_you_mean(key, OPTIONS)}")
    backend, mode = options.get("backend") or INDUCTOR, options.get("mode")
    backends = torch._dynamo.list_backends(exclude_tags=())  # loads the compiler: seconds
    if backend not in backends:
        raise UserError(f"trainer.compile.backend: {backend!r} is not known. {did_you_mean(backend, backends)}")
    if mode is not None and backend != INDUCTOR:
        raise UserError(
            f"trainer.compile.mode: {mode!r} belongs to backend {INDUCTOR!r}, not to {backend!r}. Leave it out"
        )
    modes = list(torch._inductor.list_mode_options())
    if mode is not None and mode not in modes:
        raise UserError(f"trainer.compile.mode: {mode!r} is not known. {did_you_mean(mode, modes)}")
    if mode is not None and torch._inductor.list_mode_options(mode).get("triton.cudagraphs"):
        raise UserError(
            f"trainer.compile.mode: {mode!r} uses CUDA graphs, whose outputs the next network may overwrite. Use"
            " max-autotune-no-cudagraphs or leave it out"
        )
    if backend == INDUCTOR and (missing := _missing(device_type)):
        raise UserError(
            f"trainer.compile: {missing}. Install it, choose backend aot_eager, or set trainer.compile to false"
        )


def _allow_variants(number: int) -> None:
    """Raise torch's limit of variants of one code, beyond which it runs eager: blocks of one class share theirs."""
    config: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # until torch 2.6
    for key in (name, f"accumulated_{name}"):
        setattr(config, key, max(getattr(config, key), number))


@cache
def _uncompiled(cls: Any) -> type:
    """Derive a layer that torch.compile leaves out: collectives with other processes must keep their order."""
    own = {"forward": torch.compiler.disable(cls.forward), "is_uncompiled": True}
    return type(f"Uncompiled{cls.__name__}", (cls,), own)


def _missing(device_type: str) -> str | None:
    if device_type == "cpu":
        tried = [name for name in torch._inductor.config.cpp.cxx if name]  # None: downloaded on request
        if not any(map(shutil.which, tried)) and not os.environ.get("TORCH_INDUCTOR_INSTALL_GXX"):
            return f"inductor needs a C++ compiler on a CPU and finds no {' or '.join(tried)} ($CXX names another)"
    else:
        if importlib.util.find_spec("triton") is None:
            return "inductor needs the package 'triton' on this device"
        tried = [os.environ["CC"]] if os.environ.get("CC") else C_COMPILERS
        if not any(map(shutil.which, tried)):
            return f"Triton needs a C compiler and finds none of {', '.join(tried)} ($CC names another)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return None if header.exists() else f"inductor needs the headers of Python and finds no {header}"
