"""Names of the tensors of Depth Anything and DINOv2: ours, of files of transformers, and of the authors' .pth files.

Ours are those of timm's ViT, and of `models_zoo.decoders.dpt`. In memory transformers 5 has other names than in files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from models_zoo.weights.base import UnreadableWeights, listed

State = dict[str, Tensor]

# Names of ours -> those of transformers, by their beginnings; all after it is the same.
VIT = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "norm.": "layernorm.",
}
BLOCK = {  # below blocks.i. and encoder.layer.i.
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "attn.proj.": "attention.output.dense.",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
SWIGLU = {"mlp.fc1.": "mlp.weights_in.", "mlp.fc2.": "mlp.weights_out."}  # of ViT-g
ATTENTION = tuple(f"attention.attention.{part}." for part in ("query", "key", "value"))  # rows of attn.qkv, in order
HEAD = {
    "reassemble.": "neck.reassemble_stage.layers.",
    "convs.": "neck.convs.",
    "fusion.": "neck.fusion_stage.layers.",
    "head.": "head.",
}
MASK_TOKEN = "embeddings.mask_token"
MASK = "the mask token of the pre-training, which no prediction uses"
KINDS = (".weight", ".bias", ".gamma", "_token", "pos_embed")  # ends of names

# Names of the authors, patterns -> ours.
AUTHORS: dict[str, str] = {
    r"depth_head\.projects\.(\d)\.(\w+)": r"reassemble.\1.projection.\2",
    r"depth_head\.resize_layers\.(\d)\.(\w+)": r"reassemble.\1.resize.\2",
    r"depth_head\.scratch\.output_conv1\.(\w+)": r"head.conv1.\1",
    r"depth_head\.scratch\.output_conv2\.0\.(\w+)": r"head.conv2.\1",
    r"depth_head\.scratch\.output_conv2\.2\.(\w+)": r"head.conv3.\1",
    **{rf"depth_head\.scratch\.layer{k + 1}_rn\.(\w+)": rf"convs.{k}.\1" for k in range(4)},
    **{
        rf"depth_head\.scratch\.refinenet{4 - j}\.resConfUnit(\d)\.conv(\d)\.(\w+)": (
            rf"fusion.{j}.residual_layer\1.convolution\2.\3"
        )
        for j in range(4)
    },
    **{rf"depth_head\.scratch\.refinenet{4 - j}\.out_conv\.(\w+)": rf"fusion.{j}.projection.\1" for j in range(4)},
}
AUTHORS_MLP = {"w12": "fc1", "w3": "fc2"}  # of ViT-g


def of_transformers(tensors: Mapping[str, Tensor], prefix: str, dropped: dict[str, list[str]]) -> tuple[State, State]:
    """Translate a file of transformers. Returns the tensors of ViT and decoder, named from there on.

    prefix: of the names of the ViT, "" for a file that holds it alone. Raises UnreadableWeights for other entries.
    """
    vit: State = {}
    head: State = {}
    attention: dict[str, State] = {}
    unknown = []
    for name, tensor in tensors.items():
        is_vit, own = name.startswith(prefix), name.removeprefix(prefix)
        block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", own) if is_vit else None
        if is_vit and own == MASK_TOKEN:
            dropped[MASK] = [name]
        elif block and block[2].startswith(ATTENTION):
            attention.setdefault(f"blocks.{block[1]}.attn.qkv.{own.rpartition('.')[2]}", {})[block[2]] = tensor
        elif block and (mine := _renamed(block[2], BLOCK, SWIGLU)):
            vit[f"blocks.{block[1]}.{mine}"] = tensor
        elif is_vit and not block and (mine := _renamed(own, VIT)):
            vit[mine] = tensor
        elif not is_vit and (mine := _renamed(name, HEAD)):
            head[mine] = tensor
        else:
            unknown.append(name)
    for name, parts in attention.items():
        wanted = [part + name.rpartition(".")[2] for part in ATTENTION]
        if missing := [part for part in wanted if part not in parts]:
            raise UnreadableWeights(f"{name} cannot be made: {listed(missing)} of the same layer is missing")
        vit[name] = torch.cat([parts[part] for part in wanted])
    _refuse(unknown)
    return vit, head


def of_authors(tensors: Mapping[str, Tensor], dropped: dict[str, list[str]]) -> tuple[State, State]:
    """Translate a file of the authors. Returns the tensors of ViT and decoder, named from there on.

    Raises UnreadableWeights for other entries.
    """
    vit: State = {}
    head: State = {}
    unknown = []
    for name, tensor in tensors.items():
        own = name.removeprefix("pretrained.")
        if own != name and own == "mask_token":
            dropped[MASK] = [name]
        elif own != name and (re.match(r"blocks\.\d+\.", own) or _translated(own, VIT)):
            vit[re.sub(r"\.mlp\.(w12|w3)\.", lambda found: f".mlp.{AUTHORS_MLP[found[1]]}.", own)] = tensor
        elif mine := next((re.sub(p, new, name) for p, new in AUTHORS.items() if re.fullmatch(p, name)), None):
            head[mine] = tensor
        else:
            unknown.append(name)
    _refuse(unknown)
    return vit, head


def as_transformers(vit: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Translate a network to the names of a `depth_anything` file; also return names that it has no place for.

    vit: state of the ViT, without registers. head: of the decoder. A mask token of zeros, (1 d), is added, which such
    files have.
    """
    tensors: State = {}
    unknown = [name for name in (*vit, *head) if not name.endswith(KINDS)]
    block_table = {**BLOCK, **(SWIGLU if is_swiglu(vit) else {})}
    for name, tensor in vit.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        before = f"backbone.encoder.layer.{block[1]}." if block else "backbone."
        if block and block[2].startswith("attn.qkv."):
            for part, rows in zip(ATTENTION, tensor.chunk(3), strict=True):
                tensors[before + part + name.rpartition(".")[2]] = rows.clone()
        elif theirs := _translated(block[2], block_table) if block else _translated(name, VIT):
            tensors[before + theirs] = tensor
        else:
            unknown.append(name)
    for name, tensor in head.items():
        if theirs := _translated(name, HEAD):
            tensors[theirs] = tensor
        else:
            unknown.append(name)
    tensors[f"backbone.{MASK_TOKEN}"] = torch.zeros_like(vit["cls_token"][0])
    return tensors, unknown


def is_swiglu(vit: Mapping[str, Tensor]) -> bool:
    """Return whether the MLPs of a ViT, in our names, are gated: their first layer is twice as wide."""
    return vit["blocks.0.mlp.fc1.weight"].shape[0] == 2 * vit["blocks.0.mlp.fc2.weight"].shape[1]


def _renamed(name: str, *tables: Mapping[str, str]) -> str | None:
    """Translate a name of transformers to ours; None when no table has it."""
    pairs = ((mine, theirs) for table in tables for mine, theirs in table.items())
    return next((mine + name[len(theirs) :] for mine, theirs in pairs if name.startswith(theirs)), None)


def _translated(name: str, table: Mapping[str, str]) -> str | None:
    """Translate a name of ours to that of transformers; None when the table does not have it."""
    return next((theirs + name[len(mine) :] for mine, theirs in table.items() if name.startswith(mine)), None)


def _refuse(unknown: list[str]) -> None:
    if unknown:
        raise UnreadableWeights(f"{len(unknown)} entries belong to no network: {listed(unknown)}")
