"""The bins of the ddvnet decoder, and its attention in float32."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from models_zoo.decoders import DECODERS
from models_zoo.decoders.ddvnet import ChannelAttention, DDVNetDecoder
from tests.models_zoo.test_decoders import SMALL, features


def test_bins_are_128ths_and_not_trained():
    decoder = DECODERS.create("ddvnet", **SMALL)
    assert decoder.bins.shape == (1, 128, 1, 1)
    assert decoder.bins.flatten().tolist() == [j / 128 for j in range(128)]
    assert "bins" not in dict(decoder.named_parameters())
    assert "bins" in decoder.state_dict()


def test_stored_bins_are_used():
    decoder, feats = DECODERS.create("ddvnet", **SMALL), features(**SMALL)
    before = decoder(feats)
    decoder.load_state_dict(decoder.state_dict() | {"bins": decoder.bins / 2 + 0.25})
    after = decoder(feats)
    assert all(torch.allclose(after[s], before[s] / 2 + 0.25, atol=1e-6) for s in before)


def test_the_range_is_that_of_the_bins():
    decoder = DECODERS.create("ddvnet", out_scales=[0], out_ch=3, **SMALL)
    head = decoder.decoder[11]
    torch.nn.init.zeros_(head.weight)
    for group, winner in enumerate((0, 64, 127)):
        head.bias.data[128 * group : 128 * (group + 1)] = 0
        head.bias.data[128 * group + winner] = 1e4
    disp = decoder(features(**SMALL))[0]
    expected = torch.tensor([0, 0.5, 127 / 128]).view(1, 3, 1, 1).expand_as(disp)
    assert torch.equal(disp, expected)


def test_equal_logits_give_the_mean_bin():
    assert DDVNetDecoder(**SMALL).output(torch.zeros(1, 256, 2, 2)).flatten() == pytest.approx(63.5 / 128)


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
    decoder = DECODERS.create("ddvnet", **SMALL)
    seen: list[weakref.ref[Tensor]] = []
    for head in decoder.decoder[11:]:
        head.register_forward_hook(lambda *call: seen.append(weakref.ref(call[-1])))
    out = decoder(features(**SMALL))
    sum(disp.sum() for disp in out.values()).backward()
    del out
    gc.collect()
    assert [logits() for logits in seen] == [None] * 4
