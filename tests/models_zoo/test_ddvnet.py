"""The ddvnet decoder: sizes, keys, a second implementation, its bins and its attention in float32."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.decoders.ddvnet import ChannelAttention, DDVNetDecoder
from tests.models_zoo.test_decoders import FIVE, FOUR, features, reflect_conv


def attention_by_hand(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Row by row of the c x c matrix."""
    flat = x.reshape(*x.shape[:2], -1)
    query, key, value = (
        (
            torch.einsum("oi,bip->bop", state[f"decoder.0.{part}_conv.0.weight"][..., 0, 0], flat)
            + state[f"decoder.0.{part}_conv.0.bias"].view(1, -1, 1)
        ).clamp(min=0)
        for part in ("query", "key", "value")
    )
    rows = []
    for channel in range(x.shape[1]):
        score = (query[:, channel : channel + 1] * key).sum(-1)  # (b c)
        weight = torch.exp(score - score.max(1, keepdim=True).values)
        rows.append(((weight / weight.sum(1, keepdim=True))[..., None] * value).sum(1))
    return torch.stack(rows, 1).reshape(x.shape)


def ddvnet_by_hand(state: dict[str, Tensor], feats: list[Tensor], strides: tuple, scales: list) -> dict:
    """The published architecture, from the state dict alone."""
    x, out = attention_by_hand(feats[-1], state), {}
    for level in (4, 3, 2, 1, 0):
        for half in (0, 1):
            key = f"decoder.{1 + 2 * (4 - level) + half}.conv"
            if half:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                if level and 2**level in strides:
                    x = torch.cat([x, feats[strides.index(2**level)]], 1)
            x = reflect_conv(x, state[f"{key}.weight"], state[f"{key}.bias"])
            x = torch.where(x > 0, x, torch.expm1(x))
        if level in scales:
            key = f"decoder.{11 + scales.index(level)}"
            raw = reflect_conv(x, state[f"{key}.weight"], state[f"{key}.bias"])
            parts = [torch.exp(group - group.max(1, keepdim=True).values) for group in raw.split(128, dim=1)]
            out[level] = torch.cat([(p * state["bins"]).sum(1, True) / p.sum(1, True) for p in parts], 1)
    return out


@pytest.mark.parametrize("scales", [[0, 1, 2, 3], [3, 0]], ids=str)
@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
def test_it_equals_a_second_implementation_read_from_its_keys(pyramid: dict, scales: list[int]):
    decoder, feats = DECODERS.create("ddvnet", out_scales=scales, out_ch=2, **pyramid), features(**pyramid)
    with torch.no_grad():
        out = decoder(feats)
        expected = ddvnet_by_hand(decoder.state_dict(), feats, pyramid["reductions"], scales)
    assert out.keys() == expected.keys()
    assert max((out[s] - expected[s]).abs().max().item() for s in out) <= 1e-6


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 15_392_160),
        ({"enc_name": "convnext_tiny"}, 33_976_512),
        ({"use_virtual_stereo": True}, 15_946_144),
    ],
    ids=str,
)
def test_parameter_counts_are_those_of_the_benchmark(options: dict, parameters: int):
    """The benchmark counts the 128 bins, which it trains."""
    net = models_zoo.create("depth", pretrained=False, dec_name="ddvnet", **options)
    assert sum(p.numel() for p in net.parameters()) + 128 == parameters


def test_keys_are_those_of_published_weights():
    state = DECODERS.create("ddvnet", out_scales=[3, 0], **FIVE).state_dict()
    layers = [f"decoder.0.{part}_conv.0" for part in ("query", "key", "value")]
    layers += [f"decoder.{n}.conv" for n in range(1, 11)] + ["decoder.11", "decoder.12"]
    assert list(state) == ["bins", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))]
    assert state["decoder.0.key_conv.0.weight"].shape == (512, 512, 1, 1)
    assert state["decoder.11.weight"].shape == (128, 128, 3, 3)
    assert state["decoder.12.weight"].shape == (128, 16, 3, 3)


def test_bins_are_128ths_and_not_trained():
    decoder = DECODERS.create("ddvnet", **FIVE)
    assert decoder.bins.shape == (1, 128, 1, 1)
    assert decoder.bins.flatten().tolist() == [j / 128 for j in range(128)]
    assert "bins" not in dict(decoder.named_parameters())
    assert "bins" in decoder.state_dict()


def test_stored_bins_are_used():
    decoder, feats = DECODERS.create("ddvnet", **FIVE), features(**FIVE)
    before = decoder(feats)
    decoder.load_state_dict(decoder.state_dict() | {"bins": decoder.bins / 2 + 0.25})
    after = decoder(feats)
    assert all(torch.allclose(after[s], before[s] / 2 + 0.25, atol=1e-6) for s in before)


def test_the_range_is_that_of_the_bins():
    decoder = DECODERS.create("ddvnet", out_scales=[0], out_ch=3, **FIVE)
    head = decoder.decoder[11]
    torch.nn.init.zeros_(head.weight)
    for group, winner in enumerate((0, 64, 127)):
        head.bias.data[128 * group : 128 * (group + 1)] = 0
        head.bias.data[128 * group + winner] = 1e4
    disp = decoder(features(**FIVE))[0]
    expected = torch.tensor([0, 0.5, 127 / 128]).view(1, 3, 1, 1).expand_as(disp)
    assert torch.equal(disp, expected)


def test_equal_logits_give_the_mean_bin():
    assert DDVNetDecoder(**FIVE).expectation(torch.zeros(1, 256, 2, 2)).flatten() == pytest.approx(63.5 / 128)


def test_attention_of_identical_channels_is_their_value():
    """Without a residual, attention over equal channels returns the value itself."""
    attention = ChannelAttention(4)
    for conv in (attention.query_conv[0], attention.key_conv[0], attention.value_conv[0]):
        torch.nn.init.constant_(conv.weight, 0.25)
        torch.nn.init.zeros_(conv.bias)
    x = torch.rand(2, 1, 3, 5).expand(2, 4, 3, 5)
    assert torch.allclose(attention(x), x, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_similarities_beyond_float16_stay_finite_under_autocast(dtype: torch.dtype):
    attention = ChannelAttention(8)
    for conv in (attention.query_conv[0], attention.key_conv[0]):
        torch.nn.init.constant_(conv.weight, 10.0)
    with torch.autocast("cpu", dtype):
        out = attention(torch.rand(2, 8, 6, 20))  # dot products of 120 values near 40: 2e5 > 65504
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_keeps_the_memory_format(memory_format: torch.memory_format):
    x = torch.randn(2, 8, 4, 5).contiguous(memory_format=memory_format)
    assert ChannelAttention(8)(x).is_contiguous(memory_format=memory_format)


def test_logits_do_not_outlive_the_forward():
    decoder = DECODERS.create("ddvnet", **FIVE)
    seen: list[weakref.ref[Tensor]] = []
    for head in decoder.decoder[11:]:
        head.register_forward_hook(lambda *call: seen.append(weakref.ref(call[-1])))
    out = decoder(features(**FIVE))
    sum(disp.sum() for disp in out.values()).backward()
    del out
    gc.collect()
    assert [logits() for logits in seen] == [None] * 4


def test_masks_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'ddvnet' cannot predict masks; .*'monodepth'") as refusal:
        models_zoo.create(
            "depth", dec_name="ddvnet", pretrained=False, mask_name="uncertainty", num_ch_mask=2
        )
    assert "choose from" in str(refusal.value)
    assert "'ddvnet'" not in str(refusal.value).split("choose from")[1]
