"""Adapters: low-rank updates of the linear layers of a plain vision transformer, whose own weights stay as they are.

The layers keep the names of their weights, so checkpoints of the transformer load as before; what is new is called
`lora_*`. `merge` and `merged_state` fold the updates into the weights, after which nothing is left of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.registry import did_you_mean

TARGETS = ("mlp.fc1", "mlp.fc2")  # of every block, as EndoDAC; attention is left alone
PREFIX = "lora_"  # of the parameters of adapters


class LoRA(nn.Linear):
    """A linear layer with a low-rank update: (... in) -> (... out), y = W x + bias + (alpha / r) B A x.

    A (r in) starts as linear layers do, uniform up to 1 / sqrt(in), and B (out r) as zeros, so the first output is that
    of the layer alone, bit for bit. LoRA, arXiv:2106.09685.

    Args:
        base: the layer, whose weight and bias are taken over and frozen.
        rank: r.
        factor: alpha / r.
        warmup_steps: for classes whose adapters change what they train.
    """

    def __init__(self, base: nn.Linear, rank: int, factor: float, warmup_steps: int = 0):
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight.requires_grad_(False), base.bias
        if base.bias is not None:
            self.bias.requires_grad_(False)
        self.factor, self.warmup_steps = factor, warmup_steps
        self.lora_A = self._uniform(rank, self.in_features)
        self.lora_B = nn.Parameter(self.lora_A.new_zeros(self.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.factors()
        return F.linear(x, self.weight, self.bias) + self.factor * F.linear(F.linear(x, down), up)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the matrices (r in) and (out r) of the update."""
        return self.lora_A, self.lora_B

    def set_step(self, step: int) -> None:
        """Choose what is trained in the optimizer step number `step`, from 0: here always the same."""

    def merged(self) -> nn.Linear:
        """Return a plain layer with the update in its weight, computed in float64."""
        parts = {name: tensor for name, tensor in self.named_parameters() if name.startswith(PREFIX)}
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        layer.weight, layer.bias = nn.Parameter(_folded(self.weight.detach(), self.factor, parts)), self.bias
        return layer

    def _uniform(self, *shape: int) -> nn.Parameter:
        """Return a new matrix as `nn.Linear` initialises its own: uniform up to 1 / sqrt(columns)."""
        new = nn.Parameter(torch.empty(*shape, dtype=self.weight.dtype, device=self.weight.device))
        nn.init.kaiming_uniform_(new, a=math.sqrt(5))
        return new


class DVLoRA(LoRA):
    """LoRA with vectors u (r 1) and v (out 1) that scale its rows: y = W x + bias + (alpha / r) (v * B) (u * A) x.

    A and B are trained in the first `warmup_steps` optimizer steps of a run, afterwards u and v alone; which is a
    function of the step. u and v start uniform in (-1, 1). EndoDAC, arXiv:2405.08672.
    """

    def __init__(self, base: nn.Linear, rank: int, factor: float, warmup_steps: int = 20_000):
        super().__init__(base, rank, factor, warmup_steps)
        self.lora_U, self.lora_V = self._uniform(rank, 1), self._uniform(self.out_features, 1)
        self.set_step(0)

    def factors(self) -> tuple[Tensor, Tensor]:
        # Constants for a step, rather than frozen: DDP and the optimizer know all four from the start.
        if self.trains_matrices:
            return self.lora_U.detach() * self.lora_A, self.lora_V.detach() * self.lora_B
        return self.lora_U * self.lora_A.detach(), self.lora_V * self.lora_B.detach()

    def set_step(self, step: int) -> None:
        """Train A and B in the optimizer steps before `warmup_steps`, counted from 0, then u and v."""
        self.trains_matrices = step < self.warmup_steps


ADAPTERS: dict[str, type[LoRA]] = {"lora": LoRA, "dv_lora": DVLoRA}


def adapt(
    encoder: nn.Module,
    type: str,
    rank: int = 4,
    alpha: float | None = None,
    targets: Sequence[str] = TARGETS,
    warmup_steps: int = 20_000,
) -> None:
    """Freeze the plain ViT in an encoder, in place, and put an adapter on linear layers of each of its blocks.

    Layers of the encoder around the ViT, which read out its maps, stay trained.

    Args:
        type: "lora" or "dv_lora".
        rank: r of the update; `alpha` scales it by alpha / r, None = r, which is a factor of 1.
        targets: ends of the names of linear layers, such as mlp.fc1 or attn.qkv.
        warmup_steps: of dv_lora: optimizer steps in which A and B are trained.

    Raises ValueError for options that `adapter_problems` lists, an encoder without a plain ViT, and targets that match
    nothing or a layer whose weight is read around it.
    """
    if problems := adapter_problems({"type": type, "rank": rank, "alpha": alpha, "targets": targets}):
        raise ValueError("; ".join(problems))
    plain = (m for m in encoder.modules() if isinstance(getattr(m, "blocks", None), nn.Module))
    vit: Any = next((m for m in plain if hasattr(m, "patch_embed")), None)
    if vit is None:
        raise ValueError("adapter: the encoder is no plain ViT. Choose e.g. vit_small_patch14_dinov2, or adapter: null")
    layers = {path: module for path, module in vit.blocks.named_modules() if isinstance(module, nn.Linear)}
    for target in targets:
        if not any(_is_below(path, target) for path in layers):
            known = {path.partition(".")[2] for path in layers}
            raise ValueError(f"adapter: targets: {target!r} matches no linear layer. {did_you_mean(target, known)}")
    vit.requires_grad_(False)
    for path, layer in layers.items():
        if any(_is_below(path, target) for target in targets):
            parent, name = _parent(vit.blocks, path)
            if rank > (most := min(layer.in_features, layer.out_features)):
                raise ValueError(f"adapter: rank: {rank} is more than the weight of blocks.{path} can have, {most}")
            if getattr(parent, "q_bias", None) is not None and name == "qkv":  # BEiT adds it to W x by itself
                raise ValueError("adapter: targets: attn.qkv of this ViT cannot be adapted; leave it out")
            setattr(parent, name, ADAPTERS[type](layer, rank, (rank if alpha is None else alpha) / rank, warmup_steps))


def adapter_problems(adapter: Mapping[str, Any] | None) -> list[str]:
    """List what is wrong with options of `adapt`, each sentence beginning with "adapter:"."""
    if adapter is None:
        return []
    known = [name for name in signature(adapt).parameters if name != "encoder"]
    problems = [f"{key!r} is not one of its keys. {did_you_mean(key, known)}" for key in adapter if key not in known]
    kind = adapter.get("type")
    if not isinstance(kind, str) or kind not in ADAPTERS:
        what = "missing" if kind is None else f"{kind!r} is not an adapter"
        problems.append(f"type: {what}. {did_you_mean(str(kind or ''), ADAPTERS)}")
    for key, least in (("rank", 1), ("warmup_steps", 0)):
        value = adapter.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            problems.append(f"{key}: expected a whole number >= {least}, got {value!r}")
    alpha = adapter.get("alpha")
    if alpha is not None and (not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6):
        problems.append(f"alpha: expected a number > 0, or null for the rank; got {alpha!r}")
    targets = adapter.get("targets", TARGETS)
    if not isinstance(targets, list | tuple) or not targets or not all(isinstance(t, str) for t in targets):
        problems.append(f"targets: expected names of linear layers, e.g. {list(TARGETS)}; got {targets!r}")
    return [f"adapter: {problem}" for problem in problems]


def adapters_of(network: nn.Module) -> list[LoRA]:
    """List the adapted layers below a module."""
    return [module for module in network.modules() if isinstance(module, LoRA)]


def is_adapter(name: str) -> bool:
    """Return whether a parameter, by its name in a state dict, belongs to an adapter."""
    return name.rpartition(".")[2].startswith(PREFIX)


@torch.no_grad()
def merge(network: nn.Module) -> nn.Module:
    """Replace all adapted layers below a network by plain ones with W' = W + (alpha / r) (v * B) (u * A), in place.

    Outputs agree to rounding, because W' is computed in float64. Returns the network.
    """
    for path, layer in [*network.named_modules()]:
        if isinstance(layer, LoRA):
            parent, name = _parent(network, path)
            setattr(parent, name, layer.merged())
    return network


def merged_state(state: Mapping[str, Tensor], adapter: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state that a network would have after `merge`; `adapter`: its options, as `adapt` takes them."""
    merged = {name: tensor for name, tensor in state.items() if not is_adapter(name)}
    for layer in [name.removesuffix(".lora_A") for name in state if name.endswith(".lora_A")]:
        parts = {name: state[f"{layer}.{name}"] for name in _names(layer, state)}
        rank, alpha = len(parts["lora_A"]), adapter.get("alpha")
        factor = (rank if alpha is None else alpha) / rank
        merged[f"{layer}.weight"] = _folded(state[f"{layer}.weight"], factor, parts)
    return merged


def _folded(weight: Tensor, factor: float, parts: Mapping[str, Tensor]) -> Tensor:
    down, up = parts["lora_A"].double(), parts["lora_B"].double()
    if "lora_U" in parts:
        down, up = parts["lora_U"].double() * down, parts["lora_V"].double() * up
    return (weight.double() + factor * up @ down).to(weight.dtype)


def _names(layer: str, state: Mapping[str, Tensor]) -> Iterator[str]:
    return (f"{PREFIX}{letter}" for letter in "ABUV" if f"{layer}.{PREFIX}{letter}" in state)


def _is_below(path: str, target: str) -> bool:
    return f".{path}".endswith(f".{target}")


def _parent(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    above, _, name = path.rpartition(".")
    return module.get_submodule(above), name
