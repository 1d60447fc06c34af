"""The superdepth decoder: sizes, keys, a second implementation, and the start of its sub-pixel convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.decoders.superdepth import SubPixel
from tests.models_zoo.test_decoders import FIVE, FOUR, features, reflect_conv


def sub_pixel_by_hand(x: Tensor, weight: Tensor, bias: Tensor, factor: int) -> Tensor:
    """Place value number i*f + j of a channel at row i, column j of the f x f block of its pixel."""
    b, n, h, w = x.shape
    padded = torch.zeros(b, n, h + 2, w + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    large = torch.empty(b, n, factor * h, factor * w, dtype=x.dtype)
    for i in range(factor):
        for j in range(factor):
            rows = torch.arange(n) * factor**2 + i * factor + j
            value = bias[rows].view(1, n, 1, 1).expand(b, n, h, w)
            for dy in range(3):
                for dx in range(3):
                    tap = weight[rows, 0, dy, dx].view(1, n, 1, 1)
                    value = value + tap * padded[:, :, dy : dy + h, dx : dx + w]
            large[:, :, i::factor, j::factor] = value
    return large


def elu_conv(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    x = reflect_conv(x, state[f"{key}.conv.weight"], state[f"{key}.conv.bias"])
    return torch.where(x > 0, x, torch.expm1(x))


def superdepth_by_hand(state: dict[str, Tensor], feats: list[Tensor], strides: tuple, scales: list) -> dict:
    """The published architecture, from the state dict alone."""
    x, out = feats[-1], {}
    for level in (4, 3, 2, 1, 0):
        key = f"decoder.{2 * (4 - level)}"
        x = elu_conv(x, state, f"{key}.0")
        x = sub_pixel_by_hand(x, state[f"{key}.1.conv.weight"], state[f"{key}.1.conv.bias"], 2).clamp(min=0)
        if level and 2**level in strides:
            x = torch.cat([x, feats[strides.index(2**level)]], 1)
        x = elu_conv(x, state, f"decoder.{2 * (4 - level) + 1}")
        if level not in scales:
            continue
        key = f"decoder.{10 + scales.index(level)}"
        if level == 0:
            raw = reflect_conv(x, state[f"{key}.0.weight"], state[f"{key}.0.bias"])
        else:
            weight, bias = state[f"{key}.1.conv.weight"], state[f"{key}.1.conv.bias"]
            raw = sub_pixel_by_hand(elu_conv(x, state, f"{key}.0"), weight, bias, 2**level)
        out[level] = 1 / (1 + torch.exp(-raw))
    return out


@pytest.mark.parametrize("scales", [[0, 1, 2, 3], [3, 0]], ids=str)
@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
def test_it_equals_a_second_implementation_read_from_its_keys(pyramid: dict, scales: list[int]):
    decoder = DECODERS.create("superdepth", out_scales=scales, out_ch=2, **pyramid)
    for p in decoder.parameters():  # away from the start, where the filters of a block are equal
        nn.init.normal_(p, std=0.05)
    feats = features(**pyramid)
    with torch.no_grad():
        out = decoder(feats)
        expected = superdepth_by_hand(decoder.state_dict(), feats, pyramid["reductions"], scales)
    assert out.keys() == expected.keys()
    assert max((out[s] - expected[s]).abs().max().item() for s in out) <= 1e-6


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 14_349_916), ({"enc_name": "convnext_tiny"}, 31_950_460)],
    ids=["resnet18", "convnext_tiny"],
)
def test_parameter_counts_are_those_of_the_benchmark(options: dict, parameters: int):
    net = models_zoo.create("depth", pretrained=False, dec_name="superdepth", **options)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_every_scale_has_full_resolution():
    out = DECODERS.create("superdepth", **FIVE)(features(**FIVE))
    assert {s: tuple(disp.shape) for s, disp in out.items()} == dict.fromkeys(range(4), (1, 1, 64, 96))


def test_keys_are_those_of_published_weights():
    state = DECODERS.create("superdepth", out_scales=[3, 0], **FIVE).state_dict()
    positions = [(f"{2 * k}.0.conv", f"{2 * k}.1.conv", f"{2 * k + 1}.conv") for k in range(5)]
    levels = [f"decoder.{layer}" for level in positions for layer in level]
    heads = ["decoder.10.0.conv", "decoder.10.1.conv", "decoder.11.0"]
    assert list(state) == [f"{layer}.{part}" for layer in levels + heads for part in ("weight", "bias")]
    assert state["decoder.0.1.conv.weight"].shape == (4 * 256, 1, 3, 3)
    assert state["decoder.10.0.conv.weight"].shape == (1, 128, 3, 3)
    assert state["decoder.10.1.conv.weight"].shape == (64, 1, 3, 3)
    assert state["decoder.11.0.weight"].shape == (1, 16, 3, 3)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_new_sub_pixel_convolution_repeats_pixels(factor: int):
    layer, x = SubPixel(3, factor), torch.randn(2, 3, 4, 5)
    large = layer(x)
    assert large.shape == (2, 3, 4 * factor, 5 * factor)
    blocks = large.unflatten(3, (5, factor)).unflatten(2, (4, factor))  # (b n h f w f)
    corners = blocks[:, :, :, :1, :, :1]
    assert torch.equal(blocks, corners.expand_as(blocks))
    assert not torch.equal(corners[:, 0], corners[:, 1])  # channels differ
    assert not layer(torch.zeros_like(x)).any()


def test_a_uniform_map_stays_free_of_checkerboards_in_a_new_decoder():
    """Away from the zero-padded border every pixel of a uniform feature gets the same disparity."""
    decoder = DECODERS.create("superdepth", use_skip=False, **FIVE)
    deep = torch.randn(1, 512, 1, 1).expand(1, 512, 12, 12)  # the only feature that is used
    for disp in decoder([deep]).values():
        inside = disp[..., 160:224, 160:224]
        assert inside.max() - inside.min() <= 1e-6


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sub_pixels_keep_the_memory_format(memory_format: torch.memory_format):
    large = SubPixel(3, 2)(torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format))
    assert large.is_contiguous(memory_format=memory_format)
