"""The depth network as one ONNX file, run by onnxruntime, TensorRT, OpenVINO and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from trainer.predict.formats.program import OUTPUTS, Interface, Outputs, Run, first_line, quiet, trace
from trainer.predict.network import DepthNetwork
from trainer.runtime.errors import UserError
from trainer.runtime.optional import require

OPSET = 18  # the oldest that the exporter writes without converting; 17 is the first that TensorRT gets right
INPUT = "image"
OLDEST_TORCH = (2, 5)  # the first whose exporter takes a traced network
LARGEST = 2**31 - 2**20  # bytes; the limit of one protobuf message


def packages() -> tuple[Any, Any]:
    """Import onnx and onnxruntime. Raises UserError when one is missing, or torch is too old."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, "export", "An ONNX file")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise UserError(
            f"an ONNX file needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, this is {torch.__version__}."
            " Update it, or use --format torch"
        )
    return require("onnx", "export", "An ONNX file"), require("onnxruntime", "export", "An ONNX file")


def write(network: DepthNetwork, interface: Interface, facts: Mapping[str, str], path: Path) -> None:
    """Write the file; `facts` become its metadata. Raises UserError where ONNX lacks an operator of the network."""
    onnx, _ = packages()
    program = trace(network, interface)
    if sum(tensor.nbytes for tensor in program.state_dict.values()) > LARGEST:
        raise UserError("an ONNX file holds at most 2 GB, and the weights of this network are more. Use --precision 16")
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                verbose=False,
            )
    except Exception as error:  # the exporter has dozens of types
        raise UserError(f"the network cannot be written as ONNX ({first_line(error)}). Use --format torch") from error
    model = cast(Any, exported).model_proto
    for entry in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del entry.metadata_props[:]  # notes of the exporter
    del model.graph.metadata_props[:]
    model.producer_name, model.doc_string = "monodepth", facts["description"]
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path), format="protobuf")


def load(path: Path, threads: int = 0) -> Run:
    """Load a file as a function of images, as the interface has them, on the CPU. threads: 0 = all cores."""
    _, onnxruntime = packages()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        disparity, depth = session.run(list(OUTPUTS), {INPUT: images.numpy()})
        return torch.from_numpy(disparity), torch.from_numpy(depth)

    return run
