"""The depth network as a model of the library transformers: `pipeline("depth-estimation", model=...)`.

A folder of `monodepth export --format transformers` holds a copy of this file and of all that it imports from the
zoo, so that it works where this project is not installed (with `trust_remote_code=True`). Where it is installed,
`register` makes the flag unnecessary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation, PretrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import load_image
from transformers.modeling_outputs import DepthEstimatorOutput

from models_zoo.depth import Depth

MODEL_TYPE = "monodepth"


class MonodepthConfig(PretrainedConfig):
    """Options of the network, and what its numbers mean.

    Args:
        depth: keywords of `models_zoo.depth.Depth`.
        min_depth, max_depth: depth at disparity 1 and 0, in units of the network; max_depth null = no bound.
        factor, exponent: from those units to the unit of `predicted_depth`: factor * depth ** exponent.
        depth_estimation_type: "metric": `predicted_depth` is depth in metres; "relative": it is disparity, 1 / depth up
            to a factor, larger = nearer, as Depth Anything has it.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        depth: dict[str, Any] | None = None,
        min_depth: float = 0.1,
        max_depth: float | None = 100.0,
        factor: float = 1.0,
        exponent: float = 1.0,
        depth_estimation_type: str = "relative",
        **kwargs: Any,
    ):
        self.depth = {"pretrained": False, **(depth or {})}
        self.min_depth, self.max_depth, self.factor = min_depth, max_depth, factor
        self.exponent = exponent
        self.depth_estimation_type = depth_estimation_type
        super().__init__(**kwargs)


class MonodepthForDepthEstimation(PreTrainedModel):
    """Predict depth or disparity (b h w), see `MonodepthConfig`, from images (b 3 h w) in [0, 1].

    Parameters are named `networks.depth.*`, as in a checkpoint of this project; other networks in it are ignored.
    """

    config_class = MonodepthConfig
    main_input_name = "pixel_values"
    _keys_to_ignore_on_load_unexpected = [r"^networks\.(?!depth\.)", r"^trained_on\."]

    def __init__(self, config: MonodepthConfig):
        super().__init__(config)
        with torch.device("cpu"):  # transformers builds models without memory, which many encoders do not bear
            self.networks = nn.ModuleDict({"depth": Depth(**config.depth)})
            self._constants = {name: tensor.clone() for name, tensor in constants(self).items()}
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Do as transformers, which leaves buffers that are not in the file undefined, and set these."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, tensor in constants(model).items():
            tensor.copy_(model._constants[name])
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the initialisation to the networks."""

    def forward(self, pixel_values: Tensor, return_dict: bool | None = None, **_: Any) -> Any:
        """Return `.predicted_depth` (b h w) float32; sides of the images are multiples of 32, at least 64."""
        config = self.config
        disp = self.networks["depth"](pixel_values.to(self.dtype))["disp"][0][:, 0].float()
        near, far = 1 / config.min_depth, (1 / config.max_depth if config.max_depth else 0.0)
        inverse = (disp * (near - far) + far).clamp_min(torch.finfo(disp.dtype).eps)  # 1 / depth, arXiv:1609.03677
        depth = config.factor / (inverse if config.exponent == 1 else inverse**config.exponent)
        predicted = depth if config.depth_estimation_type == "metric" else 1 / depth
        return (predicted,) if return_dict is False else DepthEstimatorOutput(predicted_depth=predicted)


def constants(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of a model that are not in its state dict, by name."""
    stored = model.state_dict().keys()
    return {name: tensor for name, tensor in model.named_buffers() if name not in stored}


class MonodepthImageProcessor(BaseImageProcessor):
    """Resize pictures as in training, and predictions back to the size of the picture.

    Args:
        size: {"height": h, "width": w} of the network's input.
        depth_estimation_type: as in `MonodepthConfig`: what is resized is always 1 / depth.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, size: dict[str, int] | None = None, depth_estimation_type: str = "relative", **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size or {"height": 192, "width": 640}
        self.depth_estimation_type = depth_estimation_type

    def preprocess(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """Return `pixel_values` (b 3 h w), RGB in [0, 1], of one or several pictures (PIL, arrays, paths, links)."""
        several = isinstance(images, list | tuple)
        pixels = [self._resized(image) for image in (images if several else [images])]
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def _resized(self, image: Any) -> np.ndarray[Any, Any]:
        if not isinstance(image, str | Image.Image):
            image = np.asarray(image)
            image = Image.fromarray(image.transpose(1, 2, 0) if image.ndim == 3 and image.shape[0] == 3 else image)
        pixels = torch.from_numpy(np.array(load_image(image))).permute(2, 0, 1)[None]
        if (size := (self.size["height"], self.size["width"])) != tuple(pixels.shape[2:]):
            # In whole numbers, by torch, as in training: Pillow rounds a level differently here and there.
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        return pixels[0].numpy().astype(np.float32) / np.float32(255)

    def post_process_depth_estimation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """Resize `outputs.predicted_depth` (b h w) to the sizes (height, width) of the pictures."""
        predicted, metric = outputs.predicted_depth, self.depth_estimation_type == "metric"
        sizes = [None] * len(predicted) if target_sizes is None else target_sizes
        results = []
        for single, size in zip(predicted, sizes, strict=True):
            if size is not None and tuple(size) != tuple(single.shape):
                disparity = (1 / single if metric else single)[None, None]
                disparity = F.interpolate(disparity, tuple(map(int, size)), mode="bilinear", align_corners=False)[0, 0]
                single = 1 / disparity if metric else disparity
            results.append({"predicted_depth": single})
        return results


def register() -> None:
    """Make the pipelines and Auto classes of transformers know this model without `trust_remote_code`."""
    AutoConfig.register(MODEL_TYPE, MonodepthConfig, exist_ok=True)
    AutoModelForDepthEstimation.register(MonodepthConfig, MonodepthForDepthEstimation, exist_ok=True)
    AutoImageProcessor.register(MonodepthConfig, MonodepthImageProcessor, exist_ok=True)
