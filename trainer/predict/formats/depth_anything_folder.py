"""A folder that is a Depth Anything model of transformers: no code in it, and none of this project needed.

For networks that are one: a DINOv2 ViT without registers and the decoder `dpt`. All others get the folder of
`transformers_folder`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from models_zoo.depth import Depth
from models_zoo.encoders.vit import DINOV2_PATCH, SizedPositions, nearest_size
from models_zoo.weights.depth_anything import FACTORS
from models_zoo.weights.depth_anything_names import as_transformers, is_swiglu
from trainer.predict.formats.transformers_folder import WEIGHTS, packages
from trainer.predict.predictor import DepthPredictor
from trainer.runtime import files


def obstacle(predictor: DepthPredictor) -> str | None:
    """Say why a network is no Depth Anything model; None when it is one."""
    depth: Any = predictor.network.depth
    if not isinstance(depth, Depth) or not depth.patch:
        return "dec_name is not dpt"
    decoder: Any = depth.decoders["disp"]
    vit: Any = depth.encoder.vit
    if not isinstance(vit, SizedPositions) or depth.patch != DINOV2_PATCH:
        return "the encoder is not a DINOv2 ViT with patches of 14 pixels and without registers"
    more = {"a mask": depth.mask_name, "virtual stereo": depth.use_virtual_stereo, "a blend": depth.use_stereo_blend}
    if given := [
        name for name, value in (*more.items(), ("a blend of mirrored images", predictor.network.flip)) if value
    ]:
        return f"it has {' and '.join(given)}"
    if predictor.network.exponent != 1:
        return "its calibration raises depth to a power, which that model does not know"
    if decoder.out_scales != (0,):
        return f"out_scales is {list(decoder.out_scales)}, not [0]"
    if depth.activation == "sigmoid":
        return "activation sigmoid has two limits of depth, which that model does not know"
    if depth.activation == "metric" and predictor.scale.unit != "m":
        return f"activation metric with {predictor.scale} has no counterpart there"
    if depth.activation == "metric" and not _largest_depth(predictor).is_integer():
        return f"its largest depth, {_largest_depth(predictor):g} m, must be a whole number there"
    state = vit.state_dict()
    if len(state["blocks.0.mlp.fc1.weight"]) % vit.embed_dim and not is_swiglu(state):
        return "its MLPs are not a whole number of times as wide as the ViT"
    _, unknown = as_transformers(state, decoder.state_dict())
    return f"it has weights that are not in that model: {', '.join(unknown[:3])}, ..." if unknown else None


def write(predictor: DepthPredictor, facts: Mapping[str, str], folder: Path) -> None:
    """Write settings and weights of a network without `obstacle` to an empty folder.

    The sides of the images are the multiples of 14 nearest to those of the predictor. A ReLU disparity is in the unit
    of the predictor, for which the last convolution is scaled.
    """
    transformers = packages()
    depth: Any = predictor.network.depth
    height, width = input_size(predictor)
    head = depth.decoders["disp"].state_dict()
    if depth.activation == "relu":
        head |= {key: head[key] / predictor.network.factor for key in ("head.conv3.weight", "head.conv3.bias")}
    tensors, _ = as_transformers(depth.encoder.vit.state_dict(), head)
    config = {
        "model_type": "depth_anything",
        "architectures": ["DepthAnythingForDepthEstimation"],
        **_options(predictor),
        "input_size": [height, width],
        "dtype": "float32",
        "transformers_version": transformers.__version__,
        "facts": dict(facts),
    }
    processor = {
        "image_processor_type": "DPTImageProcessor",
        "size": {"height": height, "width": width},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": DINOV2_PATCH,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(value, 6) for value in depth.standardise.mean.flatten().tolist()],
        "image_std": [round(value, 6) for value in depth.standardise.std.flatten().tolist()],
        "do_pad": False,
    }
    for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
        files.write_text(folder / name, json.dumps(content, indent=2) + "\n")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, {"format": "pt"})


def _options(predictor: DepthPredictor) -> dict[str, Any]:
    """Describe the network in the words of `DepthAnythingConfig` and `Dinov2Config`."""
    depth: Any = predictor.network.depth
    vit, decoder = depth.encoder.vit, depth.decoders["disp"]
    is_gated, is_metric = is_swiglu(vit.state_dict()), depth.activation == "metric"
    return {
        "backbone_config": {
            "model_type": "dinov2",
            "hidden_size": vit.embed_dim,
            "num_hidden_layers": len(vit.blocks),
            "num_attention_heads": vit.blocks[0].attn.num_heads,
            "mlp_ratio": 4 if is_gated else vit.blocks[0].mlp.fc1.weight.shape[0] // vit.embed_dim,
            "use_swiglu_ffn": is_gated,
            "qkv_bias": vit.blocks[0].attn.qkv.bias is not None,
            "image_size": vit.patch_embed.grid_size[0] * DINOV2_PATCH,
            "patch_size": DINOV2_PATCH,
            "out_indices": [tap + 1 for tap in depth.encoder.taps],
            "out_features": [f"stage{tap + 1}" for tap in depth.encoder.taps],
            "apply_layernorm": True,
            "reshape_hidden_states": False,
        },
        "reassemble_hidden_size": vit.embed_dim,
        "reassemble_factors": FACTORS,
        "neck_hidden_sizes": list(decoder.neck),
        "fusion_hidden_size": decoder.fused,
        "head_hidden_size": decoder.hidden,
        "head_in_index": -1,
        "patch_size": DINOV2_PATCH,
        "depth_estimation_type": "metric" if is_metric else "relative",
        "max_depth": int(_largest_depth(predictor)) if is_metric else 1,
    }


def meaning(predictor: DepthPredictor) -> str:
    """Say what the model calls `predicted_depth`."""
    if predictor.network.depth.activation == "metric":
        return f"predicted_depth is depth up to {_largest_depth(predictor):g} m"
    return f"predicted_depth is disparity, its unit {predictor.scale.disparity_unit}"


def _largest_depth(predictor: DepthPredictor) -> float:
    """Return the depth at disparity 1 in metres, which of a metric network is the largest."""
    return predictor.network.min_depth * predictor.network.factor


def input_size(predictor: DepthPredictor) -> tuple[int, int]:
    """Return the height and width of the images that the network sees."""
    width, height = predictor.size
    return nearest_size((height, width), DINOV2_PATCH)


def largest_difference(folder: Path, predictor: DepthPredictor, pictures: Sequence[Image.Image]) -> float:
    """Compare what transformers and the network say of pictures of the input size: the pipeline keeps other shapes.

    Returns the largest difference over all pixels relative to the value, or to the mean of the picture where that is
    larger: a ReLU disparity has zeros.
    """
    transformers = packages()
    logs, worst = transformers.utils.logging, 0.0
    had_bars = logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    if had_bars:
        logs.enable_progress_bar()
    for picture in pictures:
        frame = picture.resize(input_size(predictor)[::-1], Image.Resampling.BILINEAR)
        with torch.no_grad():
            mine = model(**processor(frame, return_tensors="pt")).predicted_depth[0]
            image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].to(predictor.device)
            disp = predictor.network.depth(image / 255)["disp"][0][0, 0].cpu()
        is_metric = model.config.depth_estimation_type == "metric"
        true = _largest_depth(predictor) / disp if is_metric else disp / predictor.network.factor
        if mine.shape != true.shape or not mine.isfinite().all():
            return float("inf")
        worst = max(worst, float(((mine - true).abs() / true.clamp_min(float(true.mean()) or 1.0)).max()))
    return worst
