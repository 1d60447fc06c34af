"""The depth network as a folder for `pipeline("depth-estimation")` of transformers, with its code.

The folder needs transformers, torch and timm, not this project. `model.safetensors` in it is a checkpoint as any other:
`load_objective` and transformers read the same file.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trainer import __version__
from trainer.checkpoint import Saved, safefile
from trainer.predict.predictor import DepthPredictor
from trainer.runtime import files
from trainer.runtime.errors import UserError
from trainer.runtime.optional import require

ENTRY, ENTRY_FILE = "models_zoo.hub.modeling", "modeling_monodepth"
HOUSE = "models_zoo"  # the package whose files go along
WEIGHTS = "model.safetensors"
CLASSES = {
    "AutoConfig": "MonodepthConfig",
    "AutoModelForDepthEstimation": "MonodepthForDepthEstimation",
    "AutoImageProcessor": "MonodepthImageProcessor",
}


def packages() -> Any:
    """Import transformers. Raises UserError when it is missing."""
    return require("transformers", "export", "A folder for transformers")


def write(
    predictor: DepthPredictor, saved: Saved, options: Mapping[str, Any], facts: Mapping[str, str], folder: Path
) -> None:
    """Write code, settings and weights to an empty folder.

    saved: as `checkpoint.publish.published` returns it. options: keywords of the depth network.

    Raises UserError for a network that has parts from a plugin.
    """
    packages()
    network = predictor.network
    notice = f"# Of monodepth-trainer {__version__}, Apache-2.0; imports made relative.\n"
    for module, text in sources(network.depth).items():
        files.write_text(folder / f"{flat_name(module)}.py", notice + text)
    kind = "metric" if predictor.scale.unit == "m" else "relative"
    width, height = predictor.size
    config = {
        "model_type": "monodepth",
        "architectures": [CLASSES["AutoModelForDepthEstimation"]],
        # Not in the settings of the processor too: the pipeline would ask for trust even where `register` was called.
        "auto_map": {key: f"{ENTRY_FILE}.{name}" for key, name in CLASSES.items()},
        "library_name": "monodepth",
        "depth": {**options, "pretrained": False},
        "min_depth": network.min_depth,
        "max_depth": network.max_depth,
        "factor": network.factor,
        **({} if network.exponent == 1 else {"exponent": network.exponent}),
        "depth_estimation_type": kind,
        "image_size": [height, width],
        "dtype": "float32",
        "facts": dict(facts),
    }
    processor = {"size": {"height": height, "width": width}, "depth_estimation_type": kind}
    for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
        files.write_text(folder / name, json.dumps(content, indent=2) + "\n")
    safefile.write(folder / WEIGHTS, saved.tensors, saved.metadata)


def sources(depth: Any) -> dict[str, str]:
    """The files of the zoo that a depth network is made of, by module name, with imports as in one flat folder.

    The entry also imports all other files.
    """
    parts = sorted({type(module).__module__ for module in (depth, *depth.modules())})
    if others := [part for part in parts if part.partition(".")[0] not in (HOUSE, "torch", "timm")]:
        raise UserError(
            f"the network has parts from {', '.join(others)}, which a folder for transformers cannot hold: it takes"
            f" files of {HOUSE} alone. Use --format onnx or torch"
        )
    parts = [part for part in parts if part.startswith(f"{HOUSE}.")]
    texts: dict[str, str] = {}
    waiting = [ENTRY, *parts]
    while waiting:
        module = waiting.pop()
        if module not in texts:
            texts[module], needed = flattened(inspect.getsource(importlib.import_module(module)))
            waiting += needed
    others = sorted(texts.keys() - {ENTRY})
    lines = [f"from .{flat_name(module)} import __name__ as _{i}\n" for i, module in enumerate(others)]
    texts[ENTRY] += "\n# All other files: transformers 4 copies what this one imports, and parts register themselves.\n"
    texts[ENTRY] += "".join(lines)
    return texts


def flattened(source: str) -> tuple[str, list[str]]:
    """Make the imports of the zoo in a source relative; return it, and the modules that it imports."""
    lines, needed = source.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == HOUSE:
            needed.append(node.module)
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(
                f"from {node.module} import", f"from .{flat_name(node.module)} import"
            )
    return "".join(lines), needed


def flat_name(module: str) -> str:
    """Name of a module in the folder, which has no sub-folders: unique, because it spells the whole path."""
    return ENTRY_FILE if module == ENTRY else module.replace(".", "_")


def predict(folder: Path, pictures: Sequence[Image.Image]) -> list[NDArray[np.float32]]:
    """Predict pictures by the code in a folder, as the pipeline does: (H W) each, see `MonodepthConfig`."""
    logs, maps = packages().utils.logging, []
    had_bars = logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    with imported(folder) as code, torch.no_grad():
        model = code.MonodepthForDepthEstimation.from_pretrained(folder).eval()
        processor = code.MonodepthImageProcessor.from_pretrained(folder)
        for picture in pictures:
            outputs = model(**processor(picture, return_tensors="pt"))
            sizes = [(picture.height, picture.width)]
            maps.append(processor.post_process_depth_estimation(outputs, sizes)[0]["predicted_depth"].numpy())
    if had_bars:
        logs.enable_progress_bar()
    return maps


def largest_difference(folder: Path, predictor: DepthPredictor, pictures: Sequence[Image.Image]) -> float:
    """Compare what a folder and a predictor say of pictures. Returns the largest of |a - b| / b over all pixels."""
    worst = 0.0
    for mine, true in zip(predict(folder, pictures), predictor(list(pictures)), strict=True):
        expected = true.depth if predictor.scale.unit == "m" else true.disparity
        if mine.shape != expected.shape or not np.isfinite(mine).all():
            return float("inf")
        worst = max(worst, float(np.abs(mine / expected - 1).max()))
    return worst


@contextmanager
def imported(folder: Path) -> Iterator[Any]:
    """Import the code in a folder as a package of its own for this block, and leave no compiled files there."""
    name, before = "_exported_monodepth", sys.dont_write_bytecode
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name], sys.dont_write_bytecode = package, True
    try:
        importlib.invalidate_caches()
        yield importlib.import_module(f"{name}.{ENTRY_FILE}")
    finally:
        sys.dont_write_bytecode = before
        for module in [key for key in sys.modules if key.partition(".")[0] == name]:
            del sys.modules[module]
