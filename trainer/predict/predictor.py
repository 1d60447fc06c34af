"""Depth of pictures: of any kind and size, one or many."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from models_zoo.adapters import merge
from trainer.checkpoint import Saved, find_checkpoint, load_with_config
from trainer.checkpoint.safefile import read_metadata
from trainer.checkpoint.units import metres_of
from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.files.pictures import DEEP_MODES, at_size, open_picture
from trainer.predict.camera import Camera, camera_of
from trainer.predict.depthmap import DepthMap
from trainer.predict.network import DepthNetwork
from trainer.predict.scale import Scale, scale_of
from trainer.runtime.errors import DataError, UserError, exhausted
from trainer.runtime.files import sha256

Picture: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"
Precision = Literal["32", "bf16", "16"]
PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class DepthPredictor:
    """Predict depth of pictures of any size with a trained network.

        predictor = DepthPredictor.load("models/kitti/monodepth2/42")
        result = predictor("street.jpg")  # or a PIL image, an array, a tensor; a list of them gives a list

    Each picture is resized to the size the network was trained with, and the disparity back to that of the picture,
    bilinearly. The steps are there one by one for pipelines: `prepare`, `disparities`, `restore`.
    """

    def __init__(
        self,
        network: DepthNetwork,
        size: tuple[int, int],
        scale: Scale,
        precision: Precision = "32",
        batch_size: int = 8,
        camera: Camera | None = None,
        model: str = "",
    ):
        self.network, self.size, self.scale = network, size, scale
        self.precision, self.batch_size = precision, batch_size
        self.camera = camera or Camera()  # that of the pictures, for points in space
        self.model = model  # SHA-256 of the checkpoint

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        hparams: str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "32",
        compile: bool = False,
        flip: bool = False,
        size: tuple[int, int] | None = None,
        scale: float | str | Path | None = None,
        batch_size: int = 8,
    ) -> DepthPredictor:
        """Load the depth network of a checkpoint, of the folder of a run, or of a shared folder or Hub name.

        Args:
            path: what `trainer.checkpoint.load_objective` takes.
            hparams: a corrected hparams.yaml, used instead of the settings in the file.
            device: None for a GPU where there is one.
            precision: "32", or "bf16" or "16" for autocast; disparity and depth are float32 all the same.
            compile: compile the network (`torch.compile`); the first batch takes longer.
            flip: blend with the prediction for the mirrored picture (arXiv:1609.03677).
            size: (width, height) of the network's input, multiples of 32; None for that of the training.
            scale: see `scale_of`.
            batch_size: pictures per pass of the network, at most.

        Adapters are folded into the weights. Raises UserError for a checkpoint without depth network, and for what
        `load_objective` and `scale_of` refuse.
        """
        wanted = _device(device)
        path = find_checkpoint(path)
        saved = Saved(path, {}, read_metadata(path))
        saved.require_depth()
        objective, config = load_with_config(path, hparams)
        if "depth" not in objective.networks:
            raise UserError(f"{path}: holds no depth network, only {', '.join(objective.networks)}")
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        known = metres_of(saved, config)
        found = scale_of(objective.supp_idxs, scale, config.net["depth"]["activation"], known)
        limits = objective.min_depth, objective.max_depth
        network = DepthNetwork(merge(objective.networks["depth"]), *limits, found.factor, flip, found.exponent).eval()
        if size is not None:
            try:
                network(torch.zeros(1, 3, size[1], size[0]))
            except ValueError as error:
                raise UserError(f"size {list(size)}: {error}") from error
        try:
            network.to(wanted)
        except (RuntimeError, AssertionError) as error:  # what torch raises for names and devices that are not there
            raise exhausted(error) or UserError(f"device {device}: {str(error).splitlines()[0]}") from error
        if compile:
            network.compile()
        camera = camera_of(config, saved.camera)
        return cls(network, size or input_size(config), found, precision, batch_size, camera, sha256(path))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @overload
    def __call__(self, pictures: Picture) -> DepthMap: ...
    @overload
    def __call__(self, pictures: list[Picture] | tuple[Picture, ...]) -> list[DepthMap]: ...
    def __call__(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> DepthMap | list[DepthMap]:
        """Predict depth at the size of each picture; one `DepthMap` for one picture, a list for a list or tuple.

        pictures: paths, PIL images, arrays (H W), (H W 3) or (H W 4), or tensors (3 H W), of 8 or 16 bits or float in
            [0, 1]; turned as EXIF says, alpha dropped, grey made RGB.

        Raises UserError for a picture that is missing or cannot be read.
        """
        if not isinstance(pictures, list | tuple):
            return next(self._predict([pictures]))
        return list(self._predict(pictures))

    def _predict(self, pictures: Sequence[Picture]) -> Iterator[DepthMap]:
        for first in range(0, len(pictures), self.batch_size):
            rgb = [as_rgb(picture) for picture in pictures[first : first + self.batch_size]]
            batch = self.disparities(torch.stack([self.prepare(picture) for picture in rgb]))
            for disparity, picture in zip(batch.cpu(), rgb, strict=True):
                yield self.restore(disparity, picture.size, picture)

    def prepare(self, picture: Image.Image) -> Tensor:
        """Resize an RGB picture to the network's size, as `read_image` does. Returns (3 h w) uint8."""
        return torch.from_numpy(at_size(np.array(picture), self.size)).permute(2, 0, 1)

    def disparities(self, images: Tensor) -> Tensor:
        """Predict disparity (b 1 h w) on the device, of images (b 3 h w) uint8 or float in [0, 1], on any device."""
        dtype = PRECISIONS[self.precision]
        autocast = torch.autocast(self.device.type, dtype) if dtype else nullcontext()
        with torch.inference_mode(), autocast:
            disparity: Tensor = self.network(images.to(self.device, non_blocking=True))[0]
        return disparity

    def restore(self, disparity: Tensor, size: tuple[int, int], picture: Image.Image | None = None) -> DepthMap:
        """Bring a disparity (1 h w), on the CPU, to the size (W, H) of its picture, bilinearly.

        By Pillow: torch would start as many threads again in each thread of a pipeline.
        """
        array = disparity[0].numpy()
        if array.shape[::-1] != size:
            array = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BILINEAR))
        return DepthMap(array, self.scale, picture, self.model, self.camera)


def _device(name: str | torch.device | None) -> str | torch.device:
    """Return the device of that name, a GPU where none is named and one is there. Raises UserError without the GPU."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if str(name).partition(":")[0] == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        there = ["cpu", *(f"cuda:{i}" for i in range(count))]
        if str(name) not in ("cuda", *there) or not count:
            raise UserError(f"device {name}: is not there. PyTorch {torch.__version__} finds {', '.join(there)}")
    return name


def input_size(config: Config) -> tuple[int, int]:
    """Return (width, height) of the images a configuration trains with; ref_size where their shape is drawn."""
    if config.trainer.aspect_ratio is not None:
        return config.trainer.aspect_ratio.ref_size
    name, arguments = config.dataset_kwargs("train")
    width, height = arguments.get("size") or DATASETS.parameters(name)["size"].default
    return width, height


def as_rgb(picture: Picture) -> Image.Image:
    """Read any picture as 8-bit RGB, turned as EXIF says. Raises DataError for one that cannot be read."""
    if isinstance(picture, str | Path):
        if not os.path.exists(picture):
            raise UserError(f"{picture}: no such file")
        with open_picture(picture) as opened:
            return as_rgb(opened)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
        picture = picture.transpose(1, 2, 0) if picture.ndim == 3 else picture
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(_bytes(np.asarray(picture)))
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith(DEEP_MODES):
        turned = Image.fromarray(_bytes(np.asarray(turned)))
    return turned.convert("RGB")


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring floats in [0, 1] and integers of 16 bits to 8 bits. Raises DataError for other arrays."""
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)) or not values.size:
        raise DataError(f"an array of shape {values.shape} is no picture: (H W), (H W 3) or (H W 4) is")
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise DataError("a picture of floats must lie in [0, 1]. Divide by 255, or give uint8")
        return (values * 255).round().astype(np.uint8)
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 1 << 16:
        return (values >> 8).astype(np.uint8)
    raise DataError(f"a picture of {values.dtype} is not one of 8 or 16 bits or floats in [0, 1]")
