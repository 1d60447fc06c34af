"""What scoring costs: an evaluation beside a bare loop that feeds the same network from memory."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from trainer.commands.jobs.bench_step import make_batch, make_objective
from trainer.commands.jobs.measuring import document, publish, rate, ratio, take_turns
from trainer.evaluation import Execution, evaluate_side_by_side
from trainer.metrics.protocol import DepthProtocol

MEASURED = 0.05  # share of the pixels with a true depth, as of a LiDAR


class InMemory:
    """Items with random images of `size` (w, h) and random sparse truths of `truth` (w, h)."""

    def __init__(self, number: int, size: tuple[int, int], truth: tuple[int, int]):
        torch.manual_seed(0)
        self.images = make_batch(number, *size, "cpu")["target"]
        shape = number, 1, truth[1], truth[0]
        self.truths = (1 + 79 * torch.rand(shape)) * (torch.rand(shape) < MEASURED)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"target": self.images[index], "depth": self.truths[index]}

    def describe(self, index: int) -> str:
        return f"item {index}"

    def scene_of(self, index: int) -> str | None:
        return None


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises UserError for an unknown encoder or metric set."""
    protocol = DepthProtocol(args.metrics, "median", "garg")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    objective = make_objective(args).eval()
    items = InMemory(args.items, tuple(args.size), tuple(args.truth))

    def predict(images: Tensor) -> Tensor:
        return objective.predict_depth(images.to(args.device))

    def bare() -> None:
        for images in items.images.split(args.batch_size):
            predict(images).cpu()

    def evaluation() -> None:
        evaluate_side_by_side(predict, items, [protocol], Execution(args.batch_size))

    times = take_turns({"bare": bare, "evaluation": evaluation, "bare again": bare}, args.rounds, args.device)
    results = {name: rate(of, args.items, "pictures/s") for name, of in times.items()}
    results["evaluation / bare"] = ratio(times["evaluation"], times["bare"])
    results["A/A"] = ratio(times["bare again"], times["bare"])
    publish(args, document(args, results))
    return 0
