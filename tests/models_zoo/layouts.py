"""Key tables of the six decoders as other code bases store them: names and shapes, filled with random numbers.

Written from the published tables, independent of `models_zoo`.
Aliases share storage and dead tensors are present. Channels E and strides R of the encoder go from shallow to deep;
`scales` keep the order of the configuration.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

WIDTHS = (16, 32, 64, 128, 256)  # channels of decoder level 0..4


def conv(prefix: str, n_in: int, n_out: int, size: int = 3, bias: bool = True) -> Shapes:
    """Shapes of a convolution: `<prefix>.weight` and, if asked for, `<prefix>.bias`."""
    return {f"{prefix}.weight": (n_out, n_in, size, size)} | ({f"{prefix}.bias": (n_out,)} if bias else {})


def levels(E: Sequence[int], R: Sequence[int], use_skip: bool) -> list[tuple[int, int, int, int]]:
    """(level, channels in, channels out, channels of the skip, 0 = none) from deep to shallow."""
    skips = {r: c for c, r in zip(E, R, strict=True)} if use_skip else {}
    inputs = [*WIDTHS[1:], E[-1]]
    return [(i, inputs[i], WIDTHS[i], skips.get(2**i, 0) if i else 0) for i in (4, 3, 2, 1, 0)]


def plain(E, R, scales, out_ch: int, use_skip: bool, first: int = 0) -> Shapes:
    shapes: Shapes = {}
    for n, (_, n_in, n_out, skip) in enumerate(levels(E, R, use_skip)):
        shapes |= conv(f"decoder.{first + 2 * n}.conv", n_in, n_out)
        shapes |= conv(f"decoder.{first + 2 * n + 1}.conv", n_out + skip, n_out)
    for q, s in enumerate(scales):
        shapes |= conv(f"decoder.{first + 10 + q}", WIDTHS[s], out_ch)
    return shapes


def _cadepth(E, R, scales, out_ch: int, use_skip: bool) -> Shapes:
    shapes: Shapes = {}
    for n, (_, n_in, n_out, skip) in enumerate(levels(E, R, use_skip)):
        shapes |= conv(f"decoder.{3 * n}.conv", n_in, n_out) | conv(f"decoder.{3 * n + 1}.conv", n_out + skip, n_out)
        p, c = f"decoder.{3 * n + 2}", n_out + skip
        norm: Shapes = {f"{p}.conv.1.{t}": (c,) for t in ("weight", "bias", "running_mean", "running_var")}
        shapes |= conv(f"{p}.conv.0", c, c) | norm | {f"{p}.conv.1.num_batches_tracked": ()}
        shapes |= conv(f"{p}.att.1", c, c, 1) | conv(f"{p}.att.3", c, c, 1)
    for q, s in enumerate(scales):
        shapes |= conv(f"decoder.{15 + q}", WIDTHS[s], out_ch)
    return shapes


def _superdepth(E, R, scales, out_ch: int, use_skip: bool) -> Shapes:
    shapes: Shapes = {}
    for n, (_, n_in, n_out, skip) in enumerate(levels(E, R, use_skip)):
        shapes |= conv(f"decoder.{2 * n}.0.conv", n_in, n_out) | conv(f"decoder.{2 * n}.1.conv", 1, 4 * n_out)
        shapes |= conv(f"decoder.{2 * n + 1}.conv", n_out + skip, n_out)
    for q, s in enumerate(scales):
        if s == 0:
            shapes |= conv(f"decoder.{10 + q}.0", WIDTHS[s], out_ch)
        else:
            shapes |= conv(f"decoder.{10 + q}.0.conv", WIDTHS[s], out_ch)
            shapes |= conv(f"decoder.{10 + q}.1.conv", 1, out_ch * 4**s)
    return shapes


def _ddvnet(E, R, scales, out_ch: int, use_skip: bool) -> Shapes:
    shapes: Shapes = {"bins": (1, 128, 1, 1)}
    for part in ("query", "key", "value"):
        shapes |= conv(f"decoder.0.{part}_conv.0", E[-1], E[-1], 1)
    return shapes | plain(E, R, scales, 128 * out_ch, use_skip, first=1)


def _diffnet(E, R, scales, out_ch: int, use_skip: bool) -> Shapes:
    shapes: Shapes = {}
    for i, n_in, n_out, skip in levels(E, R, use_skip):
        p, n = f"convs.upconv_{i}", n_in + skip
        if skip:
            shapes |= {f"{p}.layers.0.fc.0.weight": (n // 16, n), f"{p}.layers.0.fc.2.weight": (n, n // 16)}
            shapes |= conv(f"{p}.layers.1", n, n_out)
        else:
            shapes |= conv(f"{p}.0.conv", n_in, n_out) | conv(f"{p}.2.conv", n_out, n_out)
    for s in range(4):  # all four, whatever `scales` says
        shapes |= conv(f"convs.outconv_{s}", WIDTHS[s], out_ch)
    return shapes


def _hrdepth(E, R, scales, out_ch: int, use_skip: bool) -> Shapes:
    if not use_skip:
        raise ValueError("hrdepth needs skips")
    E = [E[0], *E] if len(E) == 4 else list(E)
    dec = [E[1] // 4, E[1] // 2, E[2] // 2, E[3] // 2, E[4] // 2]
    shapes: Shapes = {}
    for c in range(4):  # sources; those of row 0 are dead
        for r in range((5, 4, 3, 2)[c]):
            n_in, n_out = (E[r + 1] // 2 if c else E[r]), E[r] // 2
            if r == 0 and c:
                n_in, n_out = E[0] // 2, E[0] // 4
            shapes |= conv(f"convs.{r}{c}_conv_0.conv", n_in, n_out)
    shapes |= conv("convs.04_conv_0.conv", E[1] // 2, E[1] // 4) | conv("convs.04_conv_1.conv", E[1] // 4, dec[0])
    for r, c in ((3, 1), (2, 2), (1, 3), (0, 4)):
        p, n = f"convs.{r}{c}_att", E[r + 1] // 2 + E[r] + (c - 1) * dec[r + 1]
        shapes |= {f"{p}.se.0.weight": (n // 16, n), f"{p}.se.2.weight": (n, n // 16)}
        shapes |= conv(f"{p}.conv.0", n, E[r + 1] // 2, 1)
    for r in (0, 1, 2):
        shapes |= conv(f"convs.{r + 1}0_conv_1.conv", E[r + 1] // 2 + E[r], dec[r + 1])
    for r, c in ((0, 2), (1, 2), (0, 3)):
        n = E[r + 1] // 2 + E[r] + (c - 1) * dec[r + 1]
        shapes |= conv(f"convs.{r}{c}_down", n, 2 * dec[r + 1], 1, bias=False)
        shapes |= conv(f"convs.{r + 1}{c - 1}_conv_1.conv", 2 * dec[r + 1], dec[r + 1])
    for s in sorted(scales):
        shapes |= conv(f"convs.outconv_{s}.0", dec[s], out_ch)
    return shapes


LAYOUTS: dict[str, Callable[..., Shapes]] = {
    "monodepth": plain,
    "hrdepth": _hrdepth,
    "cadepth": _cadepth,
    "diffnet": _diffnet,
    "superdepth": _superdepth,
    "ddvnet": _ddvnet,
}


@functools.lru_cache(maxsize=32)
def encoder_layout(enc_name: str, in_chans: int = 3) -> tuple[Shapes, tuple[int, ...], tuple[int, ...]]:
    """Tensors, channels and strides of a timm encoder; the keys of `features_only` models are the benchmark's."""
    with torch.device("meta"):  # no weights, and no random number drawn
        net = timm.create_model(enc_name, pretrained=False, features_only=True, in_chans=in_chans)
    info: Any = net.feature_info
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    return shapes, tuple(info.channels()), tuple(info.reduction())


def _spread(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=g) * (0.1 if len(shape) < 2 else 1 / math.sqrt(math.prod(shape[1:])))


FILLERS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "num_batches_tracked": lambda shape, g: torch.full(shape, 1000),
    "running_var": lambda shape, g: 0.5 + torch.rand(shape, generator=g),
    "weight": lambda shape, g: _spread(shape, g) + (1 if len(shape) == 1 else 0),
    "bins": lambda shape, g: torch.arange(128.0).view(shape) / 128 + 0.002 * torch.randn(shape, generator=g),
}


def fill(shapes: Shapes, generator: torch.Generator) -> State:
    """Random tensors that keep activations near unit size; a trained look for BatchNorm and bins."""
    return {key: FILLERS.get(key.rpartition(".")[2], _spread)(shape, generator) for key, shape in shapes.items()}


def with_aliases(state: State) -> State:
    """Add `decoder.<N>` beside every `convs.<name>`, sharing storage; N is the position of the name."""
    names = list(dict.fromkeys(key.split(".")[1] for key in state if key.startswith("convs.")))
    aliases = {}
    for key, value in state.items():
        if key.startswith("convs."):
            _, name, rest = key.split(".", 2)
            aliases[f"decoder.{names.index(name)}.{rest}"] = value
    return state | aliases


def decoder_state(dec_name: str, E, R, scales, out_ch: int, use_skip: bool, generator: torch.Generator) -> State:
    """A decoder as the benchmark stores it, aliases and dead tensors included."""
    return with_aliases(fill(LAYOUTS[dec_name](E, R, scales, out_ch, use_skip), generator))
