"""One replay from parsed arguments to sentences."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from trainer.checkpoint import Capsule, load_capsule, load_objective
from trainer.checkpoint.safefile import read_metadata
from trainer.checkpoint.state import from_json
from trainer.config.plugins import load_plugins
from trainer.objective import Objective
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import read_hparams
from trainer.training.replay import Moment, Replayed, name_operation, replay

TYPES = {"32": None, "16": torch.float16, "bf16": torch.bfloat16}


def run(args: argparse.Namespace) -> int:
    """Recompute the step, say what was found; return 0 when something was, 1 when the step is finite here."""
    load_plugins(args.plugins)
    capsule = load_capsule(args.capsule)
    hparams = _hparams(args)
    device = _device(args.device)
    objective = load_objective(args.capsule, args.hparams).to(device)
    settings = hparams["config"].get("trainer", {})
    if settings.get("channels_last", True):
        objective.use_channels_last()
    precision = args.precision or str(settings.get("precision", 32))
    batch = {key: tensor.to(device) for key, tensor in capsule.batch.items()}
    moment = Moment(capsule.seed, capsule.position.step, capsule.micro_batch, capsule.rank)
    print(_what(args, capsule, hparams, device, precision))
    found = replay(objective, batch, moment, TYPES[precision])
    return _tell(found, objective, (batch, moment, TYPES[precision]))


def _tell(found: Replayed, objective: Objective, step: tuple[Any, Moment, torch.dtype | None]) -> int:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in found.losses.items())
    print(f"loss {found.loss:.6g} ({terms})")
    for name, told in found.ranges.items():
        print(f"  {name}: {told}")
    if not found.findings:
        print(
            "every number of this step is finite here. It was not in the training: try its --device and --precision;"
            " with several processes, only the share of one is computed"
        )
        return 1
    print(f"first: {found.findings[0]}")
    for line in found.findings[1:]:
        print(f"then: {line}")
    if found.findings[0].startswith("the gradient") and (operation := name_operation(objective, *step)):
        print(f"operation: {operation}")
    return 0


def _what(
    args: argparse.Namespace, capsule: Capsule, hparams: dict[str, Any], device: torch.device, precision: str
) -> str:
    position = capsule.position
    items = ", ".join(map(str, capsule.batch["index"].tolist())) if "index" in capsule.batch else "unknown"
    run = f"{hparams.get('name', '?')}/{hparams.get('version', '?')}"
    return (
        f"{args.capsule.name}: {run}, epoch {position.epoch}, step {position.step}, micro-batch {capsule.micro_batch},"
        f" process {capsule.rank}, seed {capsule.seed}; items {items}; on {device.type}, {precision} bits"
    )


def _hparams(args: argparse.Namespace) -> dict[str, Any]:
    if args.hparams is not None:
        return read_hparams(args.hparams)
    told: dict[str, Any] = from_json(read_metadata(args.capsule)["hparams"])
    return told


def _device(wanted: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if wanted == "auto" else wanted)
    if device.type == "cuda" and not has_gpu:
        raise UserError("--device cuda: torch sees no GPU here. Leave it out, or use --device cpu")
    return device
