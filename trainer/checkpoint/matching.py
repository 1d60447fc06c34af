"""Match the weights of a file to the parameters of networks, by names and shapes alone.

Names are `<network>.<parameter>`; a part is a prefix of such names ("depth.encoder").
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models_zoo.adapters import is_adapter
from trainer.runtime.errors import first_lines, printable
from trainer.runtime.rundir import plain

CAMERA = ("pose.focal.", "pose.centre.", "pose.focal_length")  # what a pose network has with `learn_K`


@dataclass
class Fit:
    """What to load, what does not fit (name -> why), and notes on what starts from scratch."""

    tensors: dict[str, Tensor]
    wrong: dict[str, str]
    notes: list[str] = field(default_factory=list)


def fit(saved: Mapping[str, Tensor], built: Mapping[str, Tensor], parts: Sequence[str] = ()) -> Fit:
    """Match the weights of a file to networks that start from them.

    Every network, or part of one, that both have must fit completely. Networks missing from the file keep their
    weights, those that were not built are ignored; so are heads of the camera (`learn_K`) that only one side has. An
    encoder alone goes to every network with the same encoder. A network without adapters in the file fits one with
    adapters, which stay new.
    """
    networks = list(dict.fromkeys(map(_network, built)))
    unused = sorted({_network(name) for name in saved} - set(networks))
    notes = [f"net.{net}: in the file, but this run has none" for net in unused]
    if any(_network(name) in networks for name in saved):
        saved = {name: tensor for name, tensor in saved.items() if _network(name) in networks}
    held = {_network(name) for name in saved}
    lone = tuple(head for head in CAMERA if _has(saved, head) != _has(built, head)) if "pose" in held else ()
    if lone:
        new, old = "no head for the camera in the file; it starts as a new one does", "the learned camera is left out"
        notes.append(f"net.pose: {new if _has(built, lone[0]) else old}")
    saved = {name: tensor for name, tensor in saved.items() if not name.startswith(lone)}
    missing = [net for net in networks if net not in held]
    tensors = dict(saved)
    for part in parts:
        net, _, rest = part.partition(".")
        if net in held and rest:
            notes.append(f"net.{net}: only {rest} is in the file; the rest starts from random numbers")
        for other in list(missing) if rest == "encoder" else ():
            if copy := _encoder_for(other, part, saved, built):
                tensors |= copy
                missing.remove(other)
                notes.append(f"net.{other}: its encoder starts from the one in the file, the rest from random numbers")
    notes += [f"net.{net}: not in the file; it starts as a new network does" for net in missing]
    expected = {
        name: tensor for name, tensor in built.items() if _expects(name, held, parts) and not name.startswith(lone)
    }
    adapted = {_network(name) for name in saved if is_adapter(name)}
    fresh = {name for name in expected if is_adapter(name) and _network(name) not in adapted}
    for net in sorted({_network(name) for name in fresh}):
        notes.append(f"net.{net}: no adapters in the file; they start as new ones, which change nothing yet")
    expected = {name: tensor for name, tensor in expected.items() if name not in fresh}
    return Fit(tensors, compare(saved, expected or built), notes)


def _has(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in state)


def compare(saved: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe each weight that is missing, left over or of another shape, by name, in network order."""
    wrong = {}
    for name in {**built, **saved}:
        old, new = (str(tuple(t[name].shape)) if name in t else "" for t in (saved, built))
        if old != new:
            wrong[name] = f"{old or 'nothing'} in the file, {new or 'nothing'} in the network"
    return wrong


def planned(build: Callable[[], nn.Module]) -> dict[str, Tensor] | None:
    """Return the state that a module would have, as names and shapes that take no memory.

    Raises what `build` raises; None for a module that needs its numbers while it is built.
    """
    try:
        with torch.device("meta"):
            return build().state_dict()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # timm's own is the cause of ours
            if isinstance(cause, NotImplementedError) or "meta" in str(cause):
                return None
            cause = cause.__cause__
        raise


def mismatch_lines(wrong: Mapping[str, str], limit: int = 10) -> list[str]:
    """Lay out the first results of `compare` for a message."""
    return first_lines([f"networks.{printable(name)}: {reason}" for name, reason in wrong.items()], limit)


def other_options(trained: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Choose the options of the trained networks that are asked for otherwise, but for where weights come from."""
    found = {}
    for net, options in trained.items():
        ours = asked.get(net) or {}
        found[net] = {k: v for k, v in options.items() if k != "pretrained" and plain(ours.get(k)) != plain(v)}
    return {net: options for net, options in found.items() if options}


def to_type(net: Mapping[str, Mapping[str, Any]]) -> str:
    """Spell the options of networks as they are typed behind --set."""
    words = [
        f"net.{n}.{k}={v if isinstance(v, str) else json.dumps(v, separators=(',', ':'))}"
        for n, options in net.items()
        for k, v in options.items()
    ]
    return " ".join(map(shlex.quote, words))


def described(net: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out the options of networks for a message: "net.depth: enc_name resnet18, ...; net.pose: ..."."""
    return "; ".join(f"net.{n}: " + ", ".join(f"{k} {v}" for k, v in kw.items()) for n, kw in net.items())


def wrong_statistics(networks: Mapping[str, Any], net: Mapping[str, Any], parts: Sequence[str] = ()) -> str:
    """Describe which networks standardise images differently from how their weights were trained; "" if none.

    net: options of the networks of the file. Encoders that come alone are left out: the rest is trained anyway.
    """
    wanted = {}
    for name, options in net.items():
        own = getattr(networks[name], "standardise", None) if name in networks else None
        if own is None or f"{name}.encoder" in parts:
            continue
        given = {key: torch.tensor(options[key]) for key in ("mean", "std") if options.get(key)}
        if any(not torch.allclose(getattr(own, k).flatten()[:3].cpu(), value) for k, value in given.items()):
            pairs = ", ".join(f"{key}: {list(options[key])}" for key in given)
            wanted[name] = f"  {name}: {{{pairs}}}"
    if not wanted:
        return ""
    return (
        f"net.{', net.'.join(wanted)}: the weights want images that are standardised in another way, which no shape"
        " shows. Write in the YAML:\nnet:\n" + "\n".join(wanted.values())
    )


def is_part(name: str, parts: Sequence[str]) -> bool:
    """Return whether a weight belongs to one of the parts."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _network(name: str) -> str:
    return name.partition(".")[0]


def _expects(name: str, held: set[str], parts: Sequence[str]) -> bool:
    """Return whether the file should hold a weight: it has the network, and not only other parts of it."""
    own = [part for part in parts if _network(part) == _network(name)]
    return _network(name) in held and (not own or is_part(name, own))


def _encoder_for(net: str, part: str, saved: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder `part` of a file under the names of the encoder of `net`; empty when the two differ.

    A first layer that takes two images where the file has one gets its filters twice, halved, like timm does.
    """
    prefix = f"{net}.encoder."
    target = {name: tensor for name, tensor in built.items() if name.startswith(prefix)}
    copy = {prefix + name.removeprefix(f"{part}."): t for name, t in saved.items() if name.startswith(f"{part}.")}
    if copy.keys() != target.keys():
        return {}
    for name, tensor in copy.items():
        wanted = target[name].shape
        doubled = tensor.ndim == 4 and (wanted[0], *wanted[2:]) == (tensor.shape[0], *tensor.shape[2:])
        if doubled and (tensor.shape[1], wanted[1]) == (3, 6):
            copy[name] = tensor.repeat(1, 2, 1, 1) / 2
        elif tensor.shape != wanted:
            return {}
    return copy
