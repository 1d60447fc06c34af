"""Replay a capsule: recompute its step and print what is not finite."""

from __future__ import annotations

import argparse

import torch

from trainer.checkpoint import load_capsule, load_objective
from trainer.config.plugins import load_plugins
from trainer.data.aspect import AspectRatios
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import read_hparams
from trainer.runtime.seeding import TRAINING
from trainer.training.replay import Moment, name_operation, replay

TYPES = {"32": None, "16": torch.float16, "bf16": torch.bfloat16}


def run(args: argparse.Namespace) -> int:
    """Recompute the step and print the findings; return 0 when there are any, 1 when the step is finite here."""
    load_plugins(args.plugins)
    capsule = load_capsule(args.capsule)
    hparams = capsule.hparams if args.hparams is None else read_hparams(args.hparams)
    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: torch sees no GPU here. Leave it out, or use --device cpu")
    device = torch.device("cuda" if has_gpu and args.device != "cpu" else "cpu")
    objective = load_objective(args.capsule, args.hparams).to(device)
    objective.set_epoch(capsule.position.epoch)
    settings = hparams["config"].get("trainer", {})
    objective.use_channels_last(settings.get("channels_last", "auto"), device.type)
    precision = args.precision or str(settings.get("precision", 32))
    batch = {key: tensor.to(device) for key, tensor in capsule.batch.items()}
    moment = Moment(capsule.seed, capsule.position.step, capsule.micro_batch, capsule.rank)
    if aspect := settings.get("aspect_ratio"):
        batch = AspectRatios(**aspect)(batch, moment.seed, TRAINING, moment.step, moment.micro_batch)
    items = ", ".join(map(str, batch["index"].tolist())) if "index" in batch else "unknown"
    print(
        f"{args.capsule.name}: {hparams.get('name', '?')}/{hparams.get('version', '?')},"
        f" epoch {capsule.position.epoch}, step {moment.step}, micro-batch {moment.micro_batch}, process {moment.rank},"
        f" seed {moment.seed}; items {items}; on {device.type}, {precision} bits"
    )
    found = replay(objective, batch, moment, TYPES[precision])
    terms = ", ".join(f"{name} {value:.4g}" for name, value in found.losses.items())
    print(f"loss {found.loss:.6g} ({terms})")
    for name, values in found.ranges.items():
        print(f"  {name}: {values}")
    if not found.findings:
        print(
            "every number of this step is finite here; in the training it was not: try its --device and --precision."
            " Of several processes, only one is recomputed"
        )
        return 1
    print("first: " + "\nthen: ".join(found.findings))
    is_gradient = found.findings[0].startswith("the gradient")
    if is_gradient and (operation := name_operation(objective, batch, moment, TYPES[precision])):
        print(f"operation: {operation}")
    return 0
