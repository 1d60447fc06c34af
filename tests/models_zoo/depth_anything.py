"""Tiny Depth Anything and DINOv2 models of transformers with random weights, as folders and as files of the authors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

WIDTH, BLOCKS, HEADS, IMAGE = 32, 4, 2, 70
VIT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE,
    "patch_size": 14,
}
NECK: dict[str, Any] = {
    "reassemble_hidden_size": WIDTH,
    "neck_hidden_sizes": [8, 12, 16, 24],
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
}


def shaken(model: nn.Module) -> nn.Module:
    """Give every parameter random values, large enough that each matters to the output."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.randn(parameter.shape, generator=generator) * (0.3 if "position" in name else 0.15)
            parameter.copy_(value + (1 if re.search(r"norm\d?\.weight|lambda", name) else 0))
    return model.eval()


def depth_anything(vit: dict[str, Any] | None = None, **options: Any) -> Any:
    """A model of transformers in memory; its disparity is above 0 almost everywhere."""
    transformers = pytest.importorskip("transformers", reason="of the extra `export`")
    backbone = {"model_type": "dinov2", "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False} | VIT | (vit or {})
    config = transformers.DepthAnythingConfig(backbone_config=backbone, **(NECK | options))
    model = shaken(transformers.DepthAnythingForDepthEstimation(config))
    nn.init.constant_(model.head.conv3.bias, 2.0)
    return model


def as_folder(model: Any, folder: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="of the extra `export`")
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


HEAD = {  # of transformers -> of the authors; written from the published table, independent of `models_zoo`
    "neck.reassemble_stage.layers.{k}.projection": "depth_head.projects.{k}",
    "neck.reassemble_stage.layers.{k}.resize": "depth_head.resize_layers.{k}",
    "neck.convs.{k}": "depth_head.scratch.layer{k1}_rn",
    "neck.fusion_stage.layers.{k}.projection": "depth_head.scratch.refinenet{r}.out_conv",
    **{
        f"neck.fusion_stage.layers.{{k}}.residual_layer{a}.convolution{b}": (
            f"depth_head.scratch.refinenet{{r}}.resConfUnit{a}.conv{b}"
        )
        for a in (1, 2)
        for b in (1, 2)
    },
    "head.conv1": "depth_head.scratch.output_conv1",
    "head.conv2": "depth_head.scratch.output_conv2.0",
    "head.conv3": "depth_head.scratch.output_conv2.2",
}
BLOCK = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def as_authors(files: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a folder as the authors do."""
    table = {theirs.format(k=k): ours.format(k=k, k1=k + 1, r=4 - k) for theirs, ours in HEAD.items() for k in range(4)}
    found: dict[str, Tensor] = {}
    for name, tensor in files.items():
        layer, _, kind = name.rpartition(".")
        if layer in table:
            found[f"{table[layer]}.{kind}"] = tensor
        elif ".attention.attention." not in name:
            own = name.removeprefix("backbone.").replace("encoder.layer.", "blocks.").replace("layernorm.", "norm.")
            own = own.replace("patch_embeddings.projection", "patch_embed.proj").replace("position_emb", "pos_emb")
            own = own.replace("embeddings.", "").replace("pos_embeddings", "pos_embed")
            for theirs, ours in BLOCK.items():
                own = own.replace(theirs, ours)
            found[f"pretrained.{own}"] = tensor
    for i in range(BLOCKS):
        for kind in ("weight", "bias"):
            parts = [
                files[f"backbone.encoder.layer.{i}.attention.attention.{p}.{kind}"] for p in ("query", "key", "value")
            ]
            found[f"pretrained.blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    return found
