"""A second implementation of the networks: plain functions of a state dict in the published layout.

A state dict holds the keys of one decoder, or of one network, exactly as published weights do. Decoders whose tensors
are stored under two names are read by number (`decoder.<N>`), so that a comparison with a network loaded by name
(`convs.<name>`) checks the table of names as well. Images arrive standardised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]
Maps = dict[int, Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "relu": lambda x: x.clamp(min=0),
    "none": lambda x: x,
}


def under(state: State, prefix: str) -> State:
    """The tensors below `prefix.`, with keys relative to it."""
    return {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(f"{prefix}.")}


def conv(s: State, p: str, x: Tensor, groups: int = 1) -> Tensor:
    """Zero-padded convolution of odd size with the weights under `p`."""
    return F.conv2d(x, s[f"{p}.weight"], s.get(f"{p}.bias"), padding=s[f"{p}.weight"].shape[-1] // 2, groups=groups)


def reflect(s: State, p: str, x: Tensor) -> Tensor:
    """3x3 convolution with reflected borders."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), s[f"{p}.weight"], s[f"{p}.bias"])


def block(s: State, p: str, x: Tensor) -> Tensor:
    """Reflect-padded convolution, then ELU."""
    return F.elu(reflect(s, f"{p}.conv", x))


def up2(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def join(x: Tensor, skip: Tensor | None) -> Tensor:
    return x if skip is None else torch.cat([x, skip], dim=1)


def gate(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    """Squeeze and excite: (b c h w) times a sigmoid per channel; two linear layers without biases."""
    hidden = F.relu(x.mean(dim=(2, 3)) @ first.T)
    return x * torch.sigmoid(hidden @ second.T)[:, :, None, None]


class Pyramid:
    """Encoder features and options of a decoder."""

    def __init__(self, feats: Sequence[Tensor], reductions: Sequence[int], scales: Sequence[int], use_skip: bool):
        self.feats, self.reductions, self.scales = list(feats), list(reductions), list(scales)
        self.use_skip = use_skip

    def levels(self) -> Iterator[tuple[int, Tensor | None]]:
        """(level, its skip or None) from 4 to 0."""
        for i in (4, 3, 2, 1, 0):
            has = self.use_skip and i > 0 and 2**i in self.reductions
            yield i, self.feats[self.reductions.index(2**i)] if has else None


def monodepth_loop(s: State, pyramid: Pyramid, x: Tensor, first: int) -> Maps:
    """Raw maps of the Monodepth2 loop; its blocks are numbered from `first`."""
    raw = {}
    for i, skip in pyramid.levels():
        n = first + 2 * (4 - i)
        x = block(s, f"decoder.{n + 1}", join(up2(block(s, f"decoder.{n}", x)), skip))
        if i in pyramid.scales:
            raw[i] = reflect(s, f"decoder.{first + 10 + pyramid.scales.index(i)}", x)
    return raw


def monodepth(s: State, pyramid: Pyramid, training: bool) -> Maps:
    return monodepth_loop(s, pyramid, pyramid.feats[-1], 0)


def ddvnet(s: State, pyramid: Pyramid, training: bool) -> Maps:
    """Disparities, not raw maps: the expectation over 128 bins per output channel."""
    q, k, v = (F.relu(conv(s, f"decoder.0.{part}_conv.0", pyramid.feats[-1])) for part in ("query", "key", "value"))
    weights = torch.einsum("bihw,bjhw->bij", q, k).softmax(dim=-1)
    raw = monodepth_loop(s, pyramid, torch.einsum("bij,bjhw->bihw", weights, v), 1)
    bins = s["bins"].flatten()
    return {
        i: torch.stack([torch.einsum("bjhw,j->bhw", group.softmax(1), bins) for group in r.split(128, 1)], 1)
        for i, r in raw.items()
    }


def cadepth(s: State, pyramid: Pyramid, training: bool) -> Maps:
    x = pyramid.feats[-1]
    gram = torch.einsum("bihw,bjhw->bij", x, x)
    x = x + torch.einsum("bij,bjhw->bihw", (gram.amax(-1, keepdim=True) - gram).softmax(-1), x)
    raw = {}
    for i, skip in pyramid.levels():
        n = 3 * (4 - i)
        z, p = join(up2(block(s, f"decoder.{n}", x)), skip), f"decoder.{n + 2}"
        mean, var = s[f"{p}.conv.1.running_mean"], s[f"{p}.conv.1.running_var"]
        gain, shift = s[f"{p}.conv.1.weight"], s[f"{p}.conv.1.bias"]
        y = F.relu(F.batch_norm(reflect(s, f"{p}.conv.0", z), mean, var, gain, shift, training))
        pooled = y.mean(dim=(2, 3), keepdim=True)
        y = y + y * torch.sigmoid(conv(s, f"{p}.att.3", F.relu(conv(s, f"{p}.att.1", pooled))))
        x = block(s, f"decoder.{n + 1}", y)
        if i in pyramid.scales:
            raw[i] = reflect(s, f"decoder.{15 + pyramid.scales.index(i)}", x)
    return raw


def diffnet(s: State, pyramid: Pyramid, training: bool) -> Maps:
    x, raw = pyramid.feats[-1], {}
    for i, skip in pyramid.levels():
        p = f"decoder.{4 - i}"
        if skip is None:
            x = block(s, f"{p}.2", up2(block(s, f"{p}.0", x)))
        else:
            z = gate(s[f"{p}.layers.0.fc.0.weight"], s[f"{p}.layers.0.fc.2.weight"], join(up2(x), skip))
            x = F.relu(reflect(s, f"{p}.layers.1", z))
        if i in pyramid.scales:
            raw[i] = reflect(s, f"decoder.{5 + i}", x)
    return raw


def superdepth(s: State, pyramid: Pyramid, training: bool) -> Maps:
    x, raw = pyramid.feats[-1], {}
    for i, skip in pyramid.levels():
        n = 2 * (4 - i)
        x = block(s, f"decoder.{n}.0", x)
        x = F.relu(F.pixel_shuffle(conv(s, f"decoder.{n}.1.conv", x, groups=x.shape[1]), 2))
        x = block(s, f"decoder.{n + 1}", join(x, skip))
        if i in pyramid.scales:
            p = f"decoder.{10 + pyramid.scales.index(i)}"
            if i == 0:
                raw[i] = reflect(s, f"{p}.0", x)
            else:
                y = block(s, f"{p}.0", x)
                raw[i] = F.pixel_shuffle(conv(s, f"{p}.1.conv", y, groups=y.shape[1]), 2**i)
    return raw


# hrdepth, (row, column) -> number of the tensor group
SOURCES = {(0, 0): 0, (1, 0): 1, (2, 0): 2, (3, 0): 3, (4, 0): 4, (0, 1): 5, (1, 1): 6, (2, 1): 7, (3, 1): 8,
           (0, 2): 9, (1, 2): 10, (2, 2): 11, (0, 3): 12, (1, 3): 13}  # fmt: skip
PLAIN_NODES = {(0, 1): 20, (1, 1): 21, (2, 1): 22}
NARROWED_NODES = {(0, 2): (23, 24), (1, 2): (25, 26), (0, 3): (27, 28)}
GATED_NODES = {(3, 1): 16, (2, 2): 17, (1, 3): 18, (0, 4): 19}


def hrdepth(s: State, pyramid: Pyramid, training: bool) -> Maps:
    feats = pyramid.feats
    if len(feats) == 4:
        feats = [up2(feats[0]), *feats]
    X = {(r, 0): feat for r, feat in enumerate(feats)}
    for r, c in [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (0, 4)]:
        y = up2(block(s, f"decoder.{SOURCES[r + 1, c - 1]}", X[r + 1, c - 1]))
        z = torch.cat([y, *(X[r, j] for j in range(c))], dim=1)
        if (r, c) in PLAIN_NODES:
            X[r, c] = block(s, f"decoder.{PLAIN_NODES[r, c]}", z)
        elif (r, c) in NARROWED_NODES:
            down, fuse = NARROWED_NODES[r, c]
            X[r, c] = block(s, f"decoder.{fuse}", conv(s, f"decoder.{down}", z))
        else:
            p = f"decoder.{GATED_NODES[r, c]}"
            X[r, c] = F.relu(conv(s, f"{p}.conv.0", gate(s[f"{p}.se.0.weight"], s[f"{p}.se.2.weight"], z)))
    full = block(s, "decoder.15", up2(block(s, "decoder.14", X[0, 4])))
    nodes = {0: full, 1: X[0, 4], 2: X[1, 3], 3: X[2, 2]}
    return {i: reflect(s, f"decoder.{29 + q}.0", nodes[i]) for q, i in enumerate(sorted(pyramid.scales))}


DECODERS: dict[str, Callable[[State, Pyramid, bool], Maps]] = {
    "monodepth": monodepth,
    "hrdepth": hrdepth,
    "cadepth": cadepth,
    "diffnet": diffnet,
    "superdepth": superdepth,
    "ddvnet": ddvnet,
}
BOUNDED = {"ddvnet"}  # its output is a disparity already


def decoder(
    name: str,
    state: State,
    feats: Sequence[Tensor],
    reductions: Sequence[int],
    *,
    scales: Sequence[int] = (0, 1, 2, 3),
    activation: str = "sigmoid",
    use_skip: bool = True,
    training: bool = False,
) -> Maps:
    """Outputs {scale: (b out_ch h w)}, scales ascending; in training, running statistics in `state` are updated.

    `scales` are in the order of the configuration, which numbers the output convolutions; the number of output
    channels is that of the stored tensors.
    """
    maps = DECODERS[name](state, Pyramid(feats, reductions, scales, use_skip), training)
    act = ACTIVATIONS["none" if name in BOUNDED else activation]
    return {i: act(maps[i]) for i in sorted(maps)}


def timm_encoder(enc_name: str, in_chans: int = 3) -> nn.Module:
    """The encoder with random weights: load `under(state, "encoder")` into it."""
    return timm.create_model(enc_name, pretrained=False, features_only=True, in_chans=in_chans)


def blend(plain: Tensor, mirrored: Tensor) -> Tensor:
    """Left border from the mirrored pass, right border from the plain one, the mean between (arXiv:1609.03677)."""
    u = torch.linspace(0, 1, plain.shape[-1])
    left, right = (1 - (20 * (v - 0.05)).clamp(0, 1) for v in (u, 1 - u))
    return left * mirrored + right * plain + (1 - left - right) * (plain + mirrored) / 2


def depth(state: State, encoder: Any, images: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a depth network; `options` are the YAML keys, the encoder decides between training and inference."""
    scales = options.get("out_scales", [0, 1, 2, 3])
    name = options.get("dec_name", "monodepth")
    common: dict[str, Any] = {
        "reductions": encoder.feature_info.reduction(),
        "scales": [scales] if isinstance(scales, int) else scales,
        "training": encoder.training,
    }
    feats = encoder(images)
    disp = decoder(name, under(state, "decoders.disp"), feats, **common)
    out: dict[str, Any] = {"depth_feats": feats}
    if options.get("mask_name"):
        act = {"explainability": "sigmoid", "uncertainty": "relu"}[options["mask_name"]]
        out["mask"] = decoder(name, under(state, "decoders.mask"), feats, activation=act, **common)
    if options.get("use_stereo_blend"):
        other = decoder(name, under(state, "decoders.disp"), encoder(images.flip(-1)), **common)
        for i, b in other.items():
            b = b.flip(-1)
            b = b[:, [0, 2, 1]] if b.shape[1] == 3 else b
            disp[i] = blend(disp[i], b)
    out["disp"] = {i: maps[:, :1] for i, maps in disp.items()}
    if options.get("use_virtual_stereo"):
        out["disp_stereo"] = {i: maps[:, 1:] for i, maps in disp.items()}
    return out


def pose(state: State, encoder: Any, pairs: Tensor) -> dict[str, Tensor]:
    """Axis-angle `R` and translation `t`, both (b 2 3), of standardised pairs (b 6 h w)."""
    x = encoder(pairs)[-1]
    for p in ("squeeze.0", "decoder.0.0", "decoder.1.0"):
        x = F.relu(conv(state, p, x))
    motion = 0.01 * conv(state, "decoder.2", x).mean(dim=(2, 3)).view(-1, 2, 6)
    return {"R": motion[..., :3], "t": motion[..., 3:]}


def autoencoder(state: State, encoder: Any, images: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """Reconstructions `autoenc_imgs` {scale: (b 3 h w)} and the features they are made from."""
    scales = options.get("out_scales", [0, 1, 2, 3])
    feats = encoder(images)
    imgs = decoder(
        options.get("dec_name", "monodepth"),
        under(state, "decoder"),
        feats,
        encoder.feature_info.reduction(),
        scales=[scales] if isinstance(scales, int) else scales,
        use_skip=False,
        training=encoder.training,
    )
    return {"autoenc_feats": feats, "autoenc_imgs": imgs}
