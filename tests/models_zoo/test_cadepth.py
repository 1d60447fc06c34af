"""The attention of the cadepth decoder: by hand, and in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.cadepth import perceive_structure
from tests.models_zoo.test_decoders import SMALL


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


def test_normalisation_can_be_synchronised():
    norms = [m for m in DECODERS.create("cadepth", **SMALL).modules() if "Norm" in type(m).__name__]
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
