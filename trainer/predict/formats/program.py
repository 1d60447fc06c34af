"""The depth network as a graph, and as an archive of `torch.export` that PyTorch alone runs."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.predict.network import DepthNetwork
from trainer.runtime.errors import UserError

METADATA = "metadata.json"  # of the archive, in its `extra_files`
OUTPUTS = ("disparity", "depth")
STEP = 32  # pixels: sides of the images are multiples of it, at least two of it

Outputs = tuple[Tensor, Tensor]
Run = Callable[[Tensor], Outputs]  # images as the interface has them -> OUTPUTS


@dataclass(frozen=True)
class Interface:
    """What goes into an exported network, and in which precision it computes."""

    size: tuple[int, int]  # width, height
    dtype: str = "uint8"  # "uint8" 0..255, or "float": float32 in [0, 1]
    layout: str = "NCHW"  # or "NHWC"
    dynamic: frozenset[str] = frozenset()  # of "batch" and "size": what the file leaves open
    precision: str = "32"  # or "16": float16 networks; outputs are float32

    def images(self, frames: Tensor) -> Tensor:
        """Bring frames (b 3 h w) uint8 to the form of the input."""
        images = frames if self.dtype == "uint8" else frames.float() / 255
        return images if self.layout == "NCHW" else images.permute(0, 2, 3, 1).contiguous()

    def __str__(self) -> str:
        values = "uint8, 0 to 255" if self.dtype == "uint8" else "float32, 0 to 1"
        return f"images {self.layout} RGB, {values}"


class Deployed(nn.Module):
    """Depth network behind an interface."""

    def __init__(self, network: DepthNetwork, interface: Interface):
        super().__init__()
        self.network, self.interface = network, interface
        if interface.precision == "16":
            self.network = copy.deepcopy(network)
            self.network.depth.half()

    def forward(self, images: Tensor) -> Outputs:
        """Predict disparity and depth (b 1 h w) float32."""
        if self.interface.layout == "NHWC":
            images = images.permute(0, 3, 1, 2)
        if not images.is_floating_point():
            images = images.float() / 255
        outputs: Outputs = self.network(images.half() if self.interface.precision == "16" else images)
        return outputs


def trace(network: DepthNetwork, interface: Interface) -> Any:
    """Trace the network to a `torch.export.ExportedProgram`.

    Raises UserError for a size that the network refuses, for windows whose size is left open, and where the network
    cannot be traced.
    """
    width, height = interface.size
    if "size" in interface.dynamic and any(hasattr(module, "window_size") for module in network.modules()):
        raise UserError(  # the tracer does not refuse: it works on such a network for a quarter of an hour and more
            "--dynamic size: the encoder attends within windows (as Swin), which it cuts by the size of the image."
            " Leave it out, and export one file per size"
        )
    frames = torch.zeros(2 if "batch" in interface.dynamic else 1, 3, height, width, dtype=torch.uint8)
    images = interface.images(frames)
    rows = 2 if interface.layout == "NCHW" else 1
    dims: dict[int, Any] = {}
    if "batch" in interface.dynamic:
        dims[0] = torch.export.Dim("batch", min=1)
    if "size" in interface.dynamic:
        dims |= {rows + i: STEP * torch.export.Dim(f"{name}_{STEP}", min=2) for i, name in enumerate(("h", "w"))}
    module = Deployed(network, interface).eval()
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, (images,), dynamic_shapes=(dims or None,), strict=False)
    except Exception as error:  # the tracer has dozens of types
        if isinstance(error, ValueError) and "multiples of" in str(error):
            raise UserError(f"--size {width}x{height}: {error}") from error
        fixed = "with --dynamic size " if "size" in interface.dynamic else ""
        advice = "Leave it out, and export one file per size" if fixed else "This network has no such form"
        raise UserError(f"the network cannot be traced {fixed}({first_line(error)}). {advice}") from error
    for node in program.graph.nodes:  # paths of this machine
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    return program


def write(network: DepthNetwork, interface: Interface, facts: Mapping[str, str], path: Path) -> None:
    """Write the archive; `facts` become a file in it, METADATA. Raises UserError as `trace`."""
    program = trace(network, interface)
    with quiet(), open(path, "wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(facts)})


def load(path: Path, threads: int = 0) -> Run:
    """Load an archive as a function of images, as the interface has them. threads: those of PyTorch are taken."""
    with quiet(), open(path, "rb") as file:
        run: Run = torch.export.load(file).module()
    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters, which warn of their own deprecations and log their progress."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
