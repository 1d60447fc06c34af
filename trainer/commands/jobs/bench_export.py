"""ONNX files of every decoder on several encoders: how exact, how large, how fast beside PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import torch
from torch import nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.decoders.ddvnet import BINS
from models_zoo.depth import depth_problems, scales_of
from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD
from trainer.predict.formats import check, onnx_file
from trainer.predict.formats.program import Interface, first_line
from trainer.predict.network import DepthNetwork
from trainer.runtime.errors import UserError

ENCODERS = ("resnet18", "convnext_tiny", "hrnet_w18_small", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")
GAIN = 20.0  # largest factor on the last weights of an untrained network


class Row(NamedTuple):
    """What is measured of one network."""

    difference: float  # relative, largest
    megabytes: float
    milliseconds: float  # of onnxruntime
    reference: float  # milliseconds of PyTorch


def run(args: argparse.Namespace) -> int:
    """Print a Markdown table, row by row."""
    _, onnxruntime = onnx_file.packages()
    torch.set_num_threads(args.threads)
    decoders = args.decoders or DECODERS.names()
    pairs = [(encoder, decoder) for encoder in args.encoders or ENCODERS for decoder in decoders]
    statistics = IMAGENET_MEAN, IMAGENET_STD
    if problems := [p for pair in pairs for p in depth_problems(*pair, [0], None, None, None, *statistics)]:
        raise UserError("; ".join(dict.fromkeys(problems)))
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    size = f"{args.size[0]}x{args.size[1]}"
    print(f"{size}, {args.precision} bit, {args.threads} thread(s), {args.rounds} rounds, {versions}\n")
    print("| encoder | decoder | largest relative difference | MB | onnxruntime, ms | PyTorch, ms | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for encoder, decoder in pairs:
        try:
            row = measure(encoder, decoder, Interface(tuple(args.size), precision=args.precision), args)
        except (UserError, ValueError) as error:
            print(f"| {encoder} | {decoder} | no: {first_line(error)} | | | | |", flush=True)
            continue
        ratio = row.milliseconds / row.reference
        print(
            f"| {encoder} | {decoder} | {row.difference:.0e} | {row.megabytes:.1f} | {row.milliseconds:.1f}"
            f" | {row.reference:.1f} | {ratio:.2f} |",
            flush=True,
        )
    return 0


def measure(encoder: str, decoder: str, interface: Interface, args: argparse.Namespace) -> Row:
    """Export one network with random weights; compare and time it. Raises UserError and ValueError if it cannot be."""
    network = random_network(encoder, decoder)
    frames = check.generated_frames(interface.size)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx_file.write(network, interface, {"description": f"{encoder} {decoder}, untrained"}, path)
        graph = onnx_file.load(path, args.threads)
        difference = check.largest_difference(graph, network, interface, [frames[:1], frames[1:]])
        images = interface.images(frames[:1])
        with torch.inference_mode():
            times = check.time_ratio(lambda: graph(images), lambda: network(frames[:1]), args.rounds)
        return Row(difference, path.stat().st_size / 1e6, *times)


def random_network(encoder: str, decoder: str) -> DepthNetwork:
    """Build an untrained network whose depth varies: logits of mean 0, and deviation 1 where `GAIN` is enough for that.

    As PyTorch initialises them some decoders give one depth everywhere, others logits of 10 and more. Rounding errors
    grow with the factor.
    """
    torch.manual_seed(0)
    options = {"enc_name": encoder, "dec_name": decoder, "out_scales": scales_of(decoder)}
    depth: Any = models_zoo.create("depth", **options, pretrained=False).eval()

    def calibrate(conv: nn.Conv2d, _: object, logits: torch.Tensor) -> torch.Tensor:
        mean, gain = logits.mean(), (1 / logits.std()).clamp(max=GAIN)
        conv.weight.mul_(gain)
        cast("torch.Tensor", conv.bias).sub_(mean).mul_(gain)
        return (logits - mean) * gain

    convs = [module for module in depth.decoders["disp"].modules() if isinstance(module, nn.Conv2d)]
    heads = [conv for conv in convs if conv.out_channels in (1, BINS) and conv.bias is not None]
    hooks = [conv.register_forward_hook(calibrate) for conv in heads]
    with torch.no_grad():
        depth(check.generated_frames((96, 64), count=1).float() / 255)
    for hook in hooks:
        hook.remove()
    return DepthNetwork(depth).eval()
