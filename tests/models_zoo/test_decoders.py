"""Truths of every decoder: scales, range, gradients, memory format, number format, start value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.depth import feature_problems as problems
from models_zoo.layers import ACTIVATIONS, SqueezeExcite

FIVE = {"channels": (64, 64, 128, 256, 512), "reductions": (2, 4, 8, 16, 32)}  # a ResNet
FOUR = {"channels": (96, 192, 384, 768), "reductions": (4, 8, 16, 32)}  # a ConvNeXt: nothing at stride 2
SMALL = {"channels": (16, 16, 24, 32, 64), "reductions": (2, 4, 8, 16, 32)}
SHALLOW = {"channels": (16, 24, 32), "reductions": (4, 8, 16)}  # a Lite-Mono
TOKENS = {"channels": (24, 24, 24, 24), "reductions": (16, 16, 16, 16)}  # blocks of a ViT
PYRAMIDS = {"five levels": FIVE, "four levels": FOUR, "three levels": SHALLOW, "tokens": TOKENS}
READ = [(n, t) for n in DECODERS.names() for t, p in PYRAMIDS.items() if not problems(n, p["reductions"])]
INITIALISED = [name for name in DECODERS.names() if DECODERS.get(name).supports_init]
every_decoder = pytest.mark.parametrize("name", DECODERS.names())


def pyramid(name: str) -> dict[str, Any]:
    """A few channels at strides that the decoder reads."""
    return next(p for p in (SMALL, SHALLOW, TOKENS) if not problems(name, p["reductions"]))


def scales(name: str) -> list[int]:
    """Some scales of the decoder, coarse to fine."""
    return sorted({0, DECODERS.get(name).scales[-1]}, reverse=True)


def features(channels: tuple[int, ...], reductions: tuple[int, ...], batch: int = 1) -> list[Tensor]:
    """Random encoder features of a 64 x 96 image."""
    return [torch.randn(batch, c, 64 // r, 96 // r) for c, r in zip(channels, reductions, strict=True)]


@pytest.mark.parametrize(("name", "levels"), READ)
def test_scales_ascend_and_outputs_are_sigmoids_of_a_single_image(name: str, levels: str):
    shape = PYRAMIDS[levels]
    out = DECODERS.create(name, out_scales=scales(name), out_ch=2, **shape)(features(**shape))
    assert list(out) == sorted(scales(name))
    assert out[0].shape == (1, 2, 64, 96)
    assert all(disp.min() >= 0 and disp.max() <= 1 for disp in out.values())


@every_decoder
def test_there_are_output_layers_for_the_scales_only_and_every_parameter_learns(name: str):
    for wanted in (DECODERS.get(name).scales, [0]):
        decoder = DECODERS.create(name, out_scales=wanted, **pyramid(name))
        sum(disp.square().sum() for disp in decoder(features(**pyramid(name), batch=2)).values()).backward()
        assert [key for key, p in decoder.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", [name for name in DECODERS.names() if DECODERS.get(name).supports_no_skip])
def test_without_skips_only_the_deepest_feature_matters(name: str):
    decoder, feats = DECODERS.create(name, use_skip=False, **SMALL).eval(), features(**SMALL)
    shallow_zero = [torch.zeros_like(feat) for feat in feats[:-1]] + feats[-1:]
    assert torch.equal(decoder(feats)[0], decoder(shallow_zero)[0])


@every_decoder
def test_items_of_a_batch_do_not_mix(name: str):
    shape = pyramid(name)
    decoder, feats = DECODERS.create(name, out_scales=scales(name), **shape).eval(), features(**shape, batch=2)
    with torch.no_grad():
        both, first = decoder(feats), decoder([feat[:1] for feat in feats])
    assert all(torch.allclose(both[s][:1], first[s], atol=1e-6) for s in both)


@every_decoder
def test_channels_last_goes_through_every_convolution(name: str):
    decoder = DECODERS.create(name, out_scales=scales(name), **pyramid(name)).to(memory_format=torch.channels_last)
    seen: list[bool] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)
    decoder([feat.contiguous(memory_format=torch.channels_last) for feat in features(**pyramid(name))])
    assert seen
    assert all(seen)


@pytest.mark.parametrize(
    ("name", "activation"),
    [*((name, "sigmoid") for name in DECODERS.names()), ("monodepth", "relu"), ("monodepth", "none")],
)
def test_outputs_are_float32_and_close_under_autocast(name: str, activation: str):
    assert ACTIVATIONS.keys() == {"sigmoid", "relu", "metric", "none"}
    options = {**pyramid(name), "out_scales": scales(name), "activation": activation}
    decoder, feats = DECODERS.create(name, **options).eval(), features(**pyramid(name))
    with torch.no_grad():
        plain = decoder(feats)
        with torch.autocast("cpu", torch.bfloat16):
            out = decoder(feats)
    assert {disp.dtype for disp in out.values()} == {torch.float32}
    assert all(torch.allclose(out[s], plain[s], atol=0.03) for s in out)


@pytest.mark.parametrize(("activation", "value"), [("sigmoid", 0.2), ("relu", 3.0)])
@pytest.mark.parametrize("name", INITIALISED)
def test_a_start_value_is_the_output_of_zero_weights(name: str, activation: str, value: float):
    decoder = DECODERS.create(name, out_scales=scales(name), activation=activation, **pyramid(name))
    decoder.set_output(value)
    assert len(decoder.heads()) == len(scales(name))
    for head in decoder.heads():
        nn.init.zeros_([layer for layer in head.modules() if isinstance(layer, nn.Conv2d)][-1].weight)
    out = decoder(features(**pyramid(name)))
    assert all(torch.allclose(disp, torch.tensor(value)) for disp in out.values())


def test_a_gate_without_weights_halves_every_channel():
    block = SqueezeExcite(32)
    nn.init.zeros_(block[2].weight)
    x = torch.randn(1, 32, 2, 3)
    assert torch.equal(block(x), x / 2)


def test_a_gate_of_few_channels_squeezes_them_into_one():
    assert SqueezeExcite(8)(torch.randn(1, 8, 2, 2)).shape == (1, 8, 2, 2)
