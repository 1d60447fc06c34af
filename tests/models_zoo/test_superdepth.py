"""The size of the outputs of superdepth, and the start of its sub-pixel convolutions."""

from __future__ import annotations

import pytest
import torch

from models_zoo.decoders import DECODERS
from models_zoo.decoders.superdepth import SubPixel
from tests.models_zoo.test_decoders import SMALL, features


def test_every_scale_has_full_resolution():
    out = DECODERS.create("superdepth", **SMALL)(features(**SMALL))
    assert {s: tuple(disp.shape) for s, disp in out.items()} == dict.fromkeys(range(4), (1, 1, 64, 96))


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
    decoder = DECODERS.create("superdepth", use_skip=False, **SMALL)
    deep = torch.randn(1, 64, 1, 1).expand(1, 64, 12, 12)  # the only feature that is used
    for disp in decoder([deep]).values():
        inside = disp[..., 160:224, 160:224]
        assert inside.max() - inside.min() <= 1e-6


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sub_pixels_keep_the_memory_format(memory_format: torch.memory_format):
    large = SubPixel(3, 2)(torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format))
    assert large.is_contiguous(memory_format=memory_format)
