"""Truths of every decoder: scales, range, gradients, memory format, number format, start value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.layers import ACTIVATIONS, SqueezeExcite
from tests.models_zoo.pyramids import PYRAMID

FIVE = {"channels": (64, 64, 128, 256, 512), "reductions": (2, 4, 8, 16, 32)}  # a ResNet
FOUR = {"channels": (96, 192, 384, 768), "reductions": (4, 8, 16, 32)}  # a ConvNeXt: nothing at stride 2
SMALL = {"channels": (16, 16, 24, 32, 64), "reductions": (2, 4, 8, 16, 32)}
INITIALISED = [name for name in PYRAMID if DECODERS.get(name).supports_init]
every_decoder = pytest.mark.parametrize("name", PYRAMID)


def features(channels: tuple[int, ...], reductions: tuple[int, ...], batch: int = 1) -> list[Tensor]:
    """Random encoder features of a 64 x 96 image."""
    return [torch.randn(batch, c, 64 // r, 96 // r) for c, r in zip(channels, reductions, strict=True)]


@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
@every_decoder
def test_scales_ascend_and_outputs_are_sigmoids_of_a_single_image(name: str, pyramid: dict):
    out = DECODERS.create(name, out_scales=[3, 0], out_ch=2, **pyramid)(features(**pyramid))
    assert list(out) == [0, 3]
    assert out[0].shape == (1, 2, 64, 96)
    assert all(disp.min() >= 0 and disp.max() <= 1 for disp in out.values())


@every_decoder
def test_there_are_output_layers_for_the_scales_only_and_every_parameter_learns(name: str):
    for scales in ([0, 1, 2, 3], [0]):
        decoder = DECODERS.create(name, out_scales=scales, **SMALL)
        sum(disp.square().sum() for disp in decoder(features(**SMALL, batch=2)).values()).backward()
        assert [key for key, p in decoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", [name for name in PYRAMID if DECODERS.get(name).supports_no_skip])
def test_without_skips_only_the_deepest_feature_matters(name: str):
    decoder, feats = DECODERS.create(name, use_skip=False, **SMALL).eval(), features(**SMALL)
    shallow_zero = [torch.zeros_like(feat) for feat in feats[:-1]] + feats[-1:]
    assert torch.equal(decoder(feats)[0], decoder(shallow_zero)[0])


@every_decoder
def test_items_of_a_batch_do_not_mix(name: str):
    decoder, feats = DECODERS.create(name, **SMALL).eval(), features(**SMALL, batch=2)
    with torch.no_grad():
        both, first = decoder(feats), decoder([feat[:1] for feat in feats])
    assert all(torch.allclose(both[s][:1], first[s], atol=1e-6) for s in both)


@every_decoder
def test_channels_last_goes_through_every_convolution(name: str):
    decoder = DECODERS.create(name, **SMALL).to(memory_format=torch.channels_last)
    seen: list[bool] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)
    decoder([feat.contiguous(memory_format=torch.channels_last) for feat in features(**SMALL)])
    assert seen
    assert all(seen)


@pytest.mark.parametrize(
    ("name", "activation"),
    [*((name, "sigmoid") for name in PYRAMID), ("monodepth", "relu"), ("monodepth", "none")],
)
def test_outputs_are_float32_and_close_under_autocast(name: str, activation: str):
    assert ACTIVATIONS.keys() == {"sigmoid", "relu", "metric", "none"}
    decoder, feats = DECODERS.create(name, out_scales=[0, 3], activation=activation, **SMALL).eval(), features(**SMALL)
    with torch.no_grad():
        plain = decoder(feats)
        with torch.autocast("cpu", torch.bfloat16):
            out = decoder(feats)
    assert {disp.dtype for disp in out.values()} == {torch.float32}
    assert all(torch.allclose(out[s], plain[s], atol=0.03) for s in out)


@pytest.mark.parametrize("name", INITIALISED)
def test_a_start_value_is_the_output_of_zero_weights(name: str):
    decoder = DECODERS.create(name, out_scales=[2, 0], **SMALL)
    decoder.set_output(0.2)
    assert len(decoder.heads()) == 2
    for head in decoder.heads():
        nn.init.zeros_([layer for layer in head.modules() if isinstance(layer, nn.Conv2d)][-1].weight)
    out = decoder(features(**SMALL))
    assert all(torch.allclose(disp, torch.tensor(0.2)) for disp in out.values())


def test_a_gate_without_weights_halves_every_channel():
    block = SqueezeExcite(32)
    nn.init.zeros_(block[2].weight)
    x = torch.randn(1, 32, 2, 3)
    assert torch.equal(block(x), x / 2)


def test_a_gate_of_few_channels_squeezes_them_into_one():
    assert SqueezeExcite(8)(torch.randn(1, 8, 2, 2)).shape == (1, 8, 2, 2)
