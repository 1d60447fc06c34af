"""The cadepth decoder: against a re-implementation, its keys and size, and its attention in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.decoders.cadepth import perceive_structure
from tests.models_zoo.test_decoders import FIVE, FOUR, features, reflect_conv
from tests.models_zoo.test_hrdepth import (
    RESNET50,
    SCALES,
    count,
    elu_conv,
    pointwise,
    sigmoid_conv,
    up,
    with_bias,
)


def structure_by_hand(feat: Tensor) -> Tensor:
    """Channel by channel, in float64."""
    rows = feat.double().flatten(2)
    out = rows.clone()
    for image, channels in zip(out, rows, strict=True):
        for own, channel in zip(image, channels, strict=True):
            likeness = channels @ channel
            weights = torch.exp(likeness.min() - likeness)
            own += (weights / weights.sum()) @ channels
    return out.view(feat.shape)


def emphasis_by_hand(state: dict[str, Tensor], key: str, z: Tensor, train: bool) -> Tensor:
    def column(name: str) -> Tensor:
        return state[f"{key}.{name}"].view(1, -1, 1, 1)

    z = reflect_conv(z, state[f"{key}.conv.0.weight"], state[f"{key}.conv.0.bias"])
    mean, var = column("conv.1.running_mean"), column("conv.1.running_var")
    if train:
        var, mean = torch.var_mean(z, dim=(0, 2, 3), correction=0, keepdim=True)
    z = (z - mean) / (var + 1e-5).sqrt() * column("conv.1.weight") + column("conv.1.bias")
    y = z.clamp(min=0)
    g = y.sum((2, 3), keepdim=True) / (y.shape[2] * y.shape[3])
    g = (pointwise(g, state[f"{key}.att.1.weight"]) + column("att.1.bias")).clamp(min=0)
    g = pointwise(g, state[f"{key}.att.3.weight"]) + column("att.3.bias")
    return y * (1 + 1 / (1 + torch.exp(-g)))


def cadepth_by_hand(
    state: dict[str, Tensor], feats: list[Tensor], strides: tuple, scales: list[int], train: bool
) -> dict[int, Tensor]:
    """The five levels, from the state dict alone."""
    x, out = structure_by_hand(feats[-1]).float(), {}
    for step, level in enumerate((4, 3, 2, 1, 0)):
        x = up(elu_conv(state, f"decoder.{3 * step}", x))
        if level and 2**level in strides:
            x = torch.cat([x, feats[strides.index(2**level)]], 1)
        x = emphasis_by_hand(state, f"decoder.{3 * step + 2}", x, train)
        x = elu_conv(state, f"decoder.{3 * step + 1}", x)
        if level in scales:
            out[level] = sigmoid_conv(state, f"decoder.{15 + scales.index(level)}", x)
    return out


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
def test_cadepth_equals_a_second_implementation_read_from_its_keys(
    pyramid: dict, scales: list[int], train: bool
):
    decoder, feats = (
        DECODERS.create("cadepth", out_scales=scales, **pyramid).train(train),
        features(**pyramid),
    )
    for name, buffer in decoder.named_buffers():
        if "running" in name:
            buffer.uniform_(
                0.5, 1.5
            )  # as after training: neither the mean nor the variance is that of the start
    with torch.no_grad():
        expected = cadepth_by_hand(decoder.state_dict(), feats, pyramid["reductions"], scales, train)
        out = decoder(feats)
    assert out.keys() == expected.keys()
    assert max((out[s] - expected[s]).abs().max().item() for s in out) <= 1e-6


def test_cadepth_keys_are_those_of_published_weights():
    elu = {
        0: (256, 512), 1: (256, 512), 3: (128, 256), 4: (128, 256), 6: (64, 128), 7: (64, 128),
        9: (32, 64), 10: (32, 96), 12: (16, 32), 13: (16, 16),
    }  # fmt: skip
    heads = {15: 16, 16: 32, 17: 64, 18: 128}
    expected = with_bias({f"decoder.{n}.conv": shape for n, shape in elu.items()})
    expected |= with_bias({f"decoder.{n}": (1, channels) for n, channels in heads.items()})
    for n, channels in {2: 512, 5: 256, 8: 128, 11: 96, 14: 16}.items():
        key = f"decoder.{n}"
        expected |= with_bias({f"{key}.conv.0": (channels, channels)})
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{key}.conv.1.{part}"] = (channels,)
        expected[f"{key}.conv.1.num_batches_tracked"] = ()
        for layer in ("att.1", "att.3"):
            expected[f"{key}.{layer}.weight"] = (channels, channels, 1, 1)
            expected[f"{key}.{layer}.bias"] = (channels,)
    state = DECODERS.create("cadepth", **FIVE).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected


def test_cadepth_numbers_its_outputs_as_they_are_listed():
    state = DECODERS.create("cadepth", out_scales=[3, 0], **FIVE).state_dict()
    assert [tuple(state[f"decoder.{n}.weight"].shape) for n in (15, 16)] == [(1, 128, 3, 3), (1, 16, 3, 3)]


@pytest.mark.parametrize(
    ("pyramid", "parameters"),
    [(FIVE, 7_046_660), (FOUR, 10_044_708), (RESNET50, 32_784_452)],
    ids=["resnet18", "convnext_tiny", "resnet50"],
)
def test_cadepth_has_the_size_of_the_benchmark(pyramid: dict, parameters: int):
    assert count(DECODERS.create("cadepth", **pyramid)) == parameters


def test_a_network_with_cadepth_has_the_size_of_the_benchmark():
    assert count(models_zoo.create("depth", pretrained=False, dec_name="cadepth")) == 18_223_172


def test_normalisation_can_be_synchronised():
    norms = [m for m in DECODERS.create("cadepth", **FIVE).modules() if "Norm" in type(m).__name__]
    assert [type(norm) for norm in norms] == [nn.BatchNorm2d] * 5


def test_structure_perception_adds_the_mean_of_equal_channels():
    """Two equal channels are equally unlike both, so each is doubled."""
    feat = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).view(1, 2, 1, 2)
    assert torch.equal(perceive_structure(feat), 2 * feat)


def test_structure_perception_prefers_the_opposite_channel():
    """Products (4, -4): the softmax of their negatives gives the opposite channel nearly all the weight."""
    feat = torch.tensor([2.0, -2.0]).view(1, 2, 1, 1)
    weight = 1 / (1 + torch.exp(torch.tensor(-8.0)))
    assert torch.allclose(perceive_structure(feat), feat - feat * (2 * weight - 1))


def test_structure_perception_is_float32_under_autocast():
    feat = 3 * torch.randn(2, 64, 6, 20)
    with torch.autocast("cpu", torch.bfloat16):
        out = perceive_structure(feat)
        assert (feat.flatten(2) @ feat.flatten(2).mT).dtype == torch.bfloat16  # what would happen without it
    assert out.dtype == torch.float32
    assert torch.equal(out, perceive_structure(feat))
    assert torch.allclose(out.double(), structure_by_hand(feat), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_structure_perception_of_16_bit_features_does_not_overflow(dtype: torch.dtype):
    feat = (100 * torch.randn(1, 32, 6, 20)).to(dtype)
    assert (feat.float().flatten(2) @ feat.float().flatten(2).mT).max() > torch.finfo(torch.float16).max
    out = perceive_structure(feat)
    assert out.dtype == dtype
    assert torch.allclose(out.double(), structure_by_hand(feat), rtol=0.02, atol=1.0)
