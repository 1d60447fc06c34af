"""The diffnet decoder: against a re-implementation, its keys and its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import models_zoo
from models_zoo.decoders import DECODERS
from tests.models_zoo.test_decoders import FIVE, FOUR, features, reflect_conv
from tests.models_zoo.test_hrdepth import (
    RESNET50,
    SCALES,
    count,
    elu_conv,
    sigmoid_conv,
    squeeze_excite,
    up,
    with_bias,
)


def diffnet_by_hand(
    state: dict[str, Tensor], feats: list[Tensor], strides: tuple, scales: list[int]
) -> dict[int, Tensor]:
    """The five levels, from the state dict alone."""
    x, out = feats[-1], {}
    for level in (4, 3, 2, 1, 0):
        key = f"convs.upconv_{level}"
        if level and 2**level in strides:
            z = torch.cat([up(x), feats[strides.index(2**level)]], 1)
            z = squeeze_excite(state, f"{key}.layers.0.fc", z)
            x = reflect_conv(z, state[f"{key}.layers.1.weight"], state[f"{key}.layers.1.bias"]).clamp(min=0)
        else:
            x = elu_conv(state, f"{key}.2", up(elu_conv(state, f"{key}.0", x)))
        if level in scales:
            out[level] = sigmoid_conv(state, f"convs.outconv_{level}", x)
    return out


@pytest.mark.parametrize("use_skip", [True, False], ids=["skips", "no skips"])
@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
def test_diffnet_equals_a_second_implementation_read_from_its_keys(
    pyramid: dict, scales: list[int], use_skip: bool
):
    decoder = DECODERS.create("diffnet", out_scales=scales, use_skip=use_skip, **pyramid)
    feats, strides = features(**pyramid), pyramid["reductions"] if use_skip else ()
    with torch.no_grad():
        out, expected = decoder(feats), diffnet_by_hand(decoder.state_dict(), feats, strides, scales)
    assert out.keys() == expected.keys()
    assert max((out[s] - expected[s]).abs().max().item() for s in out) <= 1e-6


def gated(level: int, channels: int, out_ch: int) -> dict[str, tuple]:
    key = f"convs.upconv_{level}.layers"
    gate = {
        f"{key}.0.fc.0.weight": (channels // 16, channels),
        f"{key}.0.fc.2.weight": (channels, channels // 16),
    }
    return gate | with_bias({f"{key}.1": (out_ch, channels)})


def plain(level: int, channels: int, out_ch: int) -> dict[str, tuple]:
    key = f"convs.upconv_{level}"
    return with_bias({f"{key}.0.conv": (out_ch, channels), f"{key}.2.conv": (out_ch, out_ch)})


HEADS = with_bias({f"convs.outconv_{s}": (1, channels) for s, channels in enumerate((16, 32, 64, 128))})


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (
            FIVE,
            [gated(4, 768, 256), gated(3, 384, 128), gated(2, 192, 64), gated(1, 128, 32), plain(0, 32, 16)],
        ),
        (
            FOUR,
            [gated(4, 1152, 256), gated(3, 448, 128), gated(2, 224, 64), plain(1, 64, 32), plain(0, 32, 16)],
        ),
        (
            {**FIVE, "use_skip": False},
            [plain(4, 512, 256), plain(3, 256, 128), plain(2, 128, 64), plain(1, 64, 32), plain(0, 32, 16)],
        ),
    ],
    ids=["five levels", "four levels", "no skips"],
)
def test_diffnet_keys_are_those_of_published_weights(options: dict, levels: list[dict]):
    state = DECODERS.create("diffnet", **options).state_dict()
    expected = {key: shape for level in [*levels, HEADS] for key, shape in level.items()}
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected


def test_diffnet_has_output_convolutions_for_its_scales_only():
    """The benchmark always creates four, of which the others never learn."""
    state = DECODERS.create("diffnet", out_scales=[3, 0], **FIVE).state_dict()
    assert {key.split(".")[1] for key in state if "outconv" in key} == {"outconv_0", "outconv_3"}


@pytest.mark.parametrize(
    ("pyramid", "parameters"),
    [(FIVE, 2_467_700), (FOUR, 3_533_844), (RESNET50, 9_504_116)],
    ids=["resnet18", "convnext_tiny", "resnet50"],
)
def test_diffnet_has_the_size_of_the_benchmark(pyramid: dict, parameters: int):
    assert count(DECODERS.create("diffnet", **pyramid)) == parameters


def test_a_network_with_diffnet_has_the_size_of_the_benchmark():
    assert count(models_zoo.create("depth", pretrained=False, dec_name="diffnet")) == 13_644_212
