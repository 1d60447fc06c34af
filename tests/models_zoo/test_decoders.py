"""Truths that hold for every decoder, and the monodepth decoder against an independent re-implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models_zoo.decoders import DECODERS
from models_zoo.layers import ACTIVATIONS

FIVE = {"channels": (64, 64, 128, 256, 512), "reductions": (2, 4, 8, 16, 32)}  # a ResNet
FOUR = {"channels": (96, 192, 384, 768), "reductions": (4, 8, 16, 32)}  # a ConvNeXt: nothing at stride 2


def features(channels: tuple[int, ...], reductions: tuple[int, ...], batch: int = 1) -> list[Tensor]:
    """Random encoder features of a 64 x 96 image."""
    return [torch.randn(batch, c, 64 // r, 96 // r) for c, r in zip(channels, reductions, strict=True)]


def test_there_is_a_decoder():
    assert "monodepth" in DECODERS.names()


@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
@pytest.mark.parametrize("name", DECODERS.names())
def test_scales_ascend_and_outputs_are_sigmoids_of_a_single_image(name: str, pyramid: dict):
    out = DECODERS.create(name, out_scales=[3, 0], out_ch=2, **pyramid)(features(**pyramid))
    assert list(out) == [0, 3]
    assert out[0].shape == (1, 2, 64, 96)
    assert all(disp.min() >= 0 and disp.max() <= 1 for disp in out.values())


@pytest.mark.parametrize("name", DECODERS.names())
def test_every_parameter_gets_a_gradient(name: str):
    decoder = DECODERS.create(name, **FIVE)
    sum(disp.square().sum() for disp in decoder(features(**FIVE, batch=2)).values()).backward()
    assert [key for key, p in decoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", DECODERS.names())
def test_a_misspelt_keyword_names_the_right_one(name: str):
    with pytest.raises(TypeError, match="Did you mean 'out_scales'"):
        DECODERS.create(name, out_scale=[0], **FIVE)


@pytest.mark.parametrize("name", DECODERS.names())
def test_without_skips_only_the_deepest_feature_matters(name: str):
    if not DECODERS.get(name).supports_no_skip:
        pytest.skip("this decoder is built on skips")
    decoder, feats = DECODERS.create(name, use_skip=False, **FIVE).eval(), features(**FIVE)
    shallow_zero = [torch.zeros_like(feat) for feat in feats[:-1]] + feats[-1:]
    assert torch.equal(decoder(feats)[0], decoder(shallow_zero)[0])


def reflect_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 reflect-padded convolution written as nine shifted matrix products."""
    _, _, h, w = x.shape
    rows = [1, *range(h), h - 2]
    cols = [1, *range(w), w - 2]
    x = x[:, :, rows][..., cols]
    taps = [
        torch.einsum("oi,bihw->bohw", weight[:, :, dy, dx], x[:, :, dy : dy + h, dx : dx + w])
        for dy in range(3)
        for dx in range(3)
    ]
    return sum(taps) + bias.view(1, -1, 1, 1)


def monodepth_by_hand(state: dict[str, Tensor], feats: list[Tensor], strides: tuple, scales: list) -> dict:
    """Networks sheet 2.1, from the state dict alone."""
    x, out = feats[-1], {}
    for level in (4, 3, 2, 1, 0):
        for half in (0, 1):
            key = f"decoder.{2 * (4 - level) + half}.conv"
            if half:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                if level and 2**level in strides:
                    x = torch.cat([x, feats[strides.index(2**level)]], 1)
            x = reflect_conv(x, state[f"{key}.weight"], state[f"{key}.bias"])
            x = torch.where(x > 0, x, torch.expm1(x))
        if level in scales:
            key = f"decoder.{10 + scales.index(level)}"
            raw = reflect_conv(x, state[f"{key}.weight"], state[f"{key}.bias"])
            out[level] = 1 / (1 + torch.exp(-raw))
    return out


@pytest.mark.parametrize("scales", [[0, 1, 2, 3], [3, 0]], ids=str)
@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
def test_monodepth_equals_a_second_implementation_read_from_its_keys(pyramid: dict, scales: list[int]):
    decoder, feats = DECODERS.create("monodepth", out_scales=scales, **pyramid), features(**pyramid)
    with torch.no_grad():
        out = decoder(feats)
        expected = monodepth_by_hand(decoder.state_dict(), feats, pyramid["reductions"], scales)
    assert out.keys() == expected.keys()
    assert max((out[s] - expected[s]).abs().max().item() for s in out) <= 1e-6


def test_monodepth_keys_are_those_of_published_weights():
    state = DECODERS.create("monodepth", **FIVE).state_dict()
    blocks = [f"decoder.{n}.conv.{part}" for n in range(10) for part in ("weight", "bias")]
    heads = [f"decoder.{10 + s}.{part}" for s in range(4) for part in ("weight", "bias")]
    assert list(state) == blocks + heads
    assert [tuple(state[f"decoder.{n}.conv.weight"].shape[:2]) for n in range(10)] == [
        (256, 512), (256, 512), (128, 256), (128, 256), (64, 128), (64, 128),
        (32, 64), (32, 96), (16, 32), (16, 16),
    ]  # fmt: skip


@pytest.mark.parametrize("name", DECODERS.names())
def test_channels_last_goes_through_every_convolution(name: str):
    decoder = DECODERS.create(name, **FIVE).to(memory_format=torch.channels_last)
    seen: list[bool] = []

    def look(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for module in decoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(look)
    decoder([feat.contiguous(memory_format=torch.channels_last) for feat in features(**FIVE)])
    assert seen
    assert all(seen)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_compute_in_float32(activation: str):
    assert ACTIVATIONS.keys() == {"sigmoid", "relu", "none"}
    decoder = DECODERS.create("monodepth", activation=activation, **FIVE)
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder(features(**FIVE))
    assert {disp.dtype for disp in out.values()} == {torch.float32}
