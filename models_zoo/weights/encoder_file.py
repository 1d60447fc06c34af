"""First weights of an encoder from a file: read without running anything, matched by name, else by order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from models_zoo.pretrained import one_line
from models_zoo.weights import looks_pickled
from models_zoo.weights.base import UnreadableWeights, complete_batchnorm, in_float32, listed, tensors_of
from models_zoo.weights.unpickling import unpickle

HEADS = ("classifier.", "fc.", "head.", "head_", "heads.")  # behind the features; files and encoders may lack them
COUNTER = "num_batches_tracked"  # of batch norm; old files lack it
LISTED = 3  # entries that a message lists


def read_encoder(path: Path, network: str) -> dict[str, Tensor]:
    """Read the state dict of an encoder in float32: safetensors, or a file of `torch.save` with or without wrappers.

    Of a checkpoint of this project it is the encoder of `network`, else that of the depth network.
    Raises UnreadableWeights when the file is missing, damaged or refused, and for entries that are not finite weights.
    """
    if not os.path.isfile(path):
        reason = "is a folder" if os.path.isdir(path) else "no such file"
        raise UnreadableWeights(f"{path}: {reason}. Set pretrained to a file of weights, to true (timm's) or to false")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        is_pickle = looks_pickled(start) or start[8:9] != b"{"
        content: Any = unpickle(path) if is_pickle else load_file(path)
    except UnreadableWeights:
        raise
    except Exception as error:  # of the disk or of safetensors
        raise UnreadableWeights(f"{path}: cannot be read ({one_line(error)}). Copy or download it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise UnreadableWeights(f"{path}: holds no state dict but a {type(content).__name__}. Choose another file")
    state = tensors_of(content, path)
    prefixes = [f"networks.{network}.encoder.", "networks.depth.encoder."]
    if all(name.startswith("module.") for name in state):
        prefixes.append("module.")
    for prefix in prefixes:
        if own := {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}:
            state = own
            break
    in_float32(state, path)
    return state


def match_encoder(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], in_chans: int = 3
) -> tuple[dict[str, Tensor], list[str]]:
    """Give the weights of a file the names that an encoder has for them.

    Names decide; where none agrees, weights are matched by order if their number and every shape agree. Filters of RGB
    are adapted to `in_chans` as timm does it. Heads may be left over, missing or of another shape, counters missing.

    Returns the weights and what does not fit, one line per kind of mistake; both are complete when that is empty.
    """
    if not state.keys() & wanted.keys():
        theirs, ours = ([name for name in names if not name.endswith(COUNTER)] for names in (state, wanted))
        if [state[name].shape for name in theirs] == [wanted[name].shape for name in ours]:
            state = {new: state[old] for old, new in zip(theirs, ours, strict=True)}
    found = dict(state)
    complete_batchnorm(found)
    found = {name: tensor for name, tensor in found.items() if name in wanted or not name.endswith(COUNTER)}
    for name, tensor in state.items():
        shape = tuple(wanted[name].shape) if name in wanted else ()
        if tensor.ndim == 4 and tensor.shape[1] == 3 and shape == (len(tensor), in_chans, *tensor.shape[2:]):
            found[name] = adapt_input_conv(in_chans, tensor)
        if name.startswith(HEADS) and shape != tuple(tensor.shape):
            del found[name]
    missing = [
        f"{name} {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name not in found and not name.startswith(HEADS) and not name.endswith(COUNTER)
    ]
    others = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
        for name, tensor in found.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    unknown = [f"{name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in wanted]
    kinds = {"missing": missing, "of another shape": others, "unknown to the encoder": unknown}
    return found, [f"{len(names)} {kind}: {listed(names, LISTED)}" for kind, names in kinds.items() if names]


def unfit(path: Path, enc_name: str, problems: Sequence[str]) -> UnreadableWeights:
    """Make the error for a file whose weights do not fit the encoder `enc_name`."""
    return UnreadableWeights(
        f"{path}: these are not weights of {enc_name}:\n"
        + "".join(f"  - {problem}\n" for problem in problems)
        + "Set enc_name to the encoder that the file belongs to, or pretrained to another file"
    )
