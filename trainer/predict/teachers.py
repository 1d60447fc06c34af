"""Teachers: depth networks of any origin that label pictures, behind one function from pictures to disparity.

A folder or Hub name of transformers, an ONNX file, or a checkpoint of this trainer. Nothing that they bring is run, and
what went into a label is kept as text beside it: network, revision, checksum, sizes, licence.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models_zoo.pretrained import licence_of
from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD
from trainer.checkpoint import find_checkpoint
from trainer.checkpoint.hub import LIBRARY, SETTINGS, HubName, as_hub_name, fetch
from trainer.checkpoint.safefile import read_metadata
from trainer.predict.formats.program import first_line
from trainer.predict.predictor import PRECISIONS, DepthPredictor, Precision
from trainer.runtime.errors import UserError, exhausted
from trainer.runtime.files import read_file, sha256
from trainer.runtime.optional import require

Kind = Literal["disparity", "depth"]
Pictures = NDArray[np.uint8]  # (b h w 3) RGB
Maps = NDArray[np.float32]  # (b H W)
Normalise = Literal["imagenet", "none"]

_PURPOSE = "A teacher of transformers"
_FILES = ("*.json", "*.safetensors", "README.md")  # of a model on the Hub
_METRIC = ("zoedepth", "depth_pro", "glpn")  # types of transformers that predict metres and do not say so
# Depth Anything (arXiv:2401.10891): both sides of its input are at least 518 pixels, and multiples of 14.
_LEAST, _STEP = 518, 14


@dataclass(frozen=True)
class Teacher:
    """A network that labels pictures of one size.

    Args:
        predict: pictures (b h w 3) -> maps (b H W), depth or disparity as `kind` says.
        size: (width, height) of the pictures.
        kind: what it predicts; disparity is 1 / depth.
        facts: what labels say about it.
    """

    predict: Callable[[Pictures], Maps]
    size: tuple[int, int]
    kind: Kind
    facts: Mapping[str, str]

    def disparities(self, pictures: Pictures) -> Maps:
        """Return disparity (b H W); NaN where the network gives no number, or a depth that is not positive."""
        return as_disparity(self.predict(pictures), self.kind)


@dataclass(frozen=True)
class Request:
    """How a teacher is asked for; None = it decides."""

    shown: tuple[int, int]  # (width, height) of the pictures, whose aspect ratio counts
    size: tuple[int, int] | None = None  # of its input
    kind: Kind | None = None
    normalise: Normalise = "imagenet"  # of pictures for a foreign ONNX file of floats
    device: str | None = None
    precision: Precision = "32"

    @property
    def place(self) -> torch.device:
        """Where the network is. Raises UserError for a name that torch does not know."""
        try:
            return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise UserError(f"--device {self.device}: {str(error).splitlines()[0]}") from error


def as_disparity(maps: Maps, kind: Kind) -> Maps:
    """Turn depth or disparity of any shape into disparity, NaN where there is no number or no positive depth."""
    with np.errstate(divide="ignore", invalid="ignore"):
        disparity = maps if kind != "depth" else np.where(maps > 0, 1 / maps, np.nan)
    return np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float32)


def least_size(shown: tuple[int, int], least: tuple[int, int] = (_LEAST, _LEAST), step: int = _STEP) -> tuple[int, int]:
    """Scale (width, height) by the rule of Depth Anything: aspect ratio kept, sides >= `least`, multiples of `step`.

    Sides are rounded to the nearest multiple, but up where that is less than `least`.
    """
    scale = max(low / side for low, side in zip(least, shown, strict=True))
    width, height = (
        max(round(scale * side / step), math.ceil(low / step)) * step for low, side in zip(least, shown, strict=True)
    )
    return width, height


def open_teacher(name: str, request: Request) -> Teacher:
    """Open an ONNX file, a folder or Hub name of transformers, or a checkpoint of this trainer.

    Raises UserError when it does not exist, cannot be loaded, is no network of depth, or refuses the size.
    """
    if name.endswith(".onnx"):
        return _from_onnx(Path(name), request)
    hub = None if os.path.exists(name) else as_hub_name(name)
    folder = Path(name) if hub is None else fetch(hub, (SETTINGS,))
    if not os.path.isfile(folder / SETTINGS) or _settings(folder).get("library_name") == LIBRARY:
        return _from_checkpoint(name, request)
    return _from_transformers(folder if hub is None else fetch(hub, _FILES), hub, request)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_file(folder / SETTINGS)))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / SETTINGS}: holds no settings of a model ({error}). Copy it again") from error


def _from_checkpoint(name: str, request: Request) -> Teacher:
    _refuse_kind(name, request)
    predictor = DepthPredictor.load(name, device=request.device, precision=request.precision, size=request.size)
    hparams = json.loads(read_metadata(find_checkpoint(name)).get("hparams", "{}"))

    def predict(pictures: Pictures) -> Maps:
        maps: Maps = predictor.disparities(torch.from_numpy(pictures).permute(0, 3, 1, 2))[:, 0].cpu().numpy()
        return maps

    run = "/".join(str(hparams[key]) for key in ("name", "version") if hparams.get(key) is not None)
    facts = {"model": run or Path(name).name, "sha256": predictor.model, "unit": predictor.scale.disparity_unit}
    return Teacher(predict, predictor.size, "disparity", facts)


def _refuse_kind(name: str, request: Request) -> None:
    if request.kind == "depth":
        raise UserError(f"--kind depth: {name} is a network of this trainer, whose disparity is taken. Leave it out")


def _from_onnx(path: Path, request: Request) -> Teacher:
    runtime = require("onnxruntime", "export", "An ONNX file as teacher")
    if not os.path.isfile(path):
        raise UserError(f"--teacher {path}: no such file")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] * (request.place.type == "cuda") + ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in runtime.get_available_providers()]
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # it has types of its own
        raise UserError(f"--teacher {path}: cannot be loaded as ONNX ({first_line(error)})") from error
    entry, about = session.get_inputs()[0], session.get_modelmeta().custom_metadata_map
    ours = "trainer_version" in about
    if ours:
        _refuse_kind(str(path), request)
    if request.precision != "32":
        raise UserError(f"--precision {request.precision}: an ONNX file has its own. Leave it out")
    if len(entry.shape) != 4 or len(session.get_inputs()) != 1 or 3 not in (entry.shape[1], entry.shape[-1]):
        raise UserError(f"--teacher {path}: takes {entry.name} {entry.shape}, but one batch of RGB pictures is given")
    axes = (1, 2) if entry.shape[-1] == 3 else (2, 3)  # of height and width
    fixed = [entry.shape[i] for i in reversed(axes)]
    known = (int(about["width"]), int(about["height"])) if ours else least_size(request.shown)
    size = request.size or (known if not all(isinstance(side, int) for side in fixed) else (fixed[0], fixed[1]))
    names = [output.name for output in session.get_outputs()]
    output = next(name for name in ("disparity", *names[:1]) if name in names)
    normalised = not ours and "uint8" not in entry.type and request.normalise == "imagenet"

    def predict(pictures: Pictures) -> Maps:
        images: NDArray[Any] = pictures
        if "uint8" not in entry.type:
            images = pictures.astype(np.float32) / np.float32(255)
        if normalised:
            images = (images - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
        if "float16" in entry.type:
            images = images.astype(np.float16)
        images = images if axes == (1, 2) else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        parts = [images] if not isinstance(entry.shape[0], int) else np.split(images, len(images))
        maps = np.concatenate([session.run([output], {entry.name: part})[0] for part in parts])
        return maps.astype(np.float32).reshape(len(pictures), *maps.shape[-2:])

    facts = {"model": path.name, "sha256": sha256(path), "unit": about.get("disparity_unit", "")}
    return _tried(Teacher(predict, size, "disparity" if ours else request.kind or "disparity", facts), str(path))


def _from_transformers(folder: Path, hub: HubName | None, request: Request) -> Teacher:
    transformers = require("transformers", "export", _PURPOSE)
    name = str(hub or folder)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    offline = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, loading = transformers.AutoModelForDepthEstimation.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **offline
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **offline)
    except Exception as error:  # of the library and of what it builds on
        raise UserError(
            f"--teacher {name}: transformers cannot load it as a network of depth ({first_line(error)})"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"--teacher {name}: its weights lack {len(missing)} tensors, the first: {missing[0]}")
    try:
        model = model.float().eval().to(request.place)
    except (RuntimeError, AssertionError) as error:
        raise exhausted(error) or UserError(f"--device {request.device}: {str(error).splitlines()[0]}") from error
    plain = {"do_resize": False, **({"do_pad": False} if hasattr(processor, "do_pad") else {})}
    dtype = PRECISIONS[request.precision]

    def predict(pictures: Pictures) -> Maps:
        values = processor(images=list(pictures), return_tensors="pt", **plain)["pixel_values"].to(request.place)
        with torch.inference_mode(), torch.autocast(request.place.type, dtype) if dtype else nullcontext():
            maps: Maps = model(pixel_values=values).predicted_depth.float().cpu().numpy()
        return maps

    config = model.config
    metric = getattr(config, "depth_estimation_type", None) == "metric" or config.model_type in _METRIC
    kind = request.kind or ("depth" if metric else "disparity")
    facts = {
        "model": hub.repo if hub else folder.resolve().name,
        "revision": folder.name if hub else "",
        "sha256": _checksum(sorted(folder.glob("*.safetensors"))),
        "unit": "1/m" if metric else "",
        "licence": _licence(folder) or licence_of(name),
    }
    return _tried(Teacher(predict, _input_size(processor, request.shown, request.size), kind, facts), name)


def _input_size(processor: Any, shown: tuple[int, int], wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Return the (width, height) `wanted`, or the one that an image processor gives to pictures of the size `shown`.

    Where it keeps the aspect ratio the rule is that of `least_size`: the code of transformers chooses the side that
    changes least, which makes wide pictures of few pixels smaller still. Raises UserError for sides that are not
    multiples of what the processor asks for: networks of patches drop the rest.
    """
    step = getattr(processor, "ensure_multiple_of", None) or 1
    if wanted is not None:
        if any(side % step for side in wanted):
            near = "x".join(str(max(1, round(side / step)) * step) for side in wanted)
            raise UserError(f"--size {wanted[0]}x{wanted[1]}: sides must be multiples of {step}. Nearest: {near}")
        return wanted
    if getattr(processor, "keep_aspect_ratio", False):
        return least_size(shown, (processor.size["width"], processor.size["height"]), step)
    values = processor(images=np.zeros((*shown[::-1], 3), np.uint8), return_tensors="np")["pixel_values"]
    return values.shape[-1], values.shape[-2]


def _tried(teacher: Teacher, name: str) -> Teacher:
    """Label a grey picture. Raises UserError when the network refuses its size, or gives something else than a map."""
    width, height = teacher.size
    try:
        shape = teacher.predict(np.full((1, height, width, 3), 128, np.uint8)).shape
    except Exception as error:
        known = exhausted(error)
        raise known or UserError(f"--teacher {name}: refuses {width}x{height} pixels ({first_line(error)})") from error
    if len(shape) != 3 or shape[0] != 1 or min(shape) < 1:
        raise UserError(f"--teacher {name}: gives an array {shape} for a picture, not a map of depth (1, H, W)")
    return teacher


def _checksum(files: list[Path]) -> str:
    """Return the SHA-256 of a file; of several, that of theirs in order."""
    sums = [sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _licence(folder: Path) -> str:
    """Return the licence that the card of a model states; "" without one."""
    try:
        head = read_file(folder / "README.md").decode("utf-8", "replace")
    except OSError:
        return ""
    found = re.search(r"^license: *[\"']?([\w.-]+)", head, re.MULTILINE)
    return found[1] if found else ""
