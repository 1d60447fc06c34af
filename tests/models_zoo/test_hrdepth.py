"""The encoders that the hrdepth decoder takes and refuses."""

from __future__ import annotations

import pytest
import torch

import models_zoo
from models_zoo.decoders import DECODERS
from tests.models_zoo.test_decoders import FIVE, features


@pytest.mark.parametrize("enc_name", ["test_resnet", "test_efficientnet", "test_convnext", "hrnet_w18_small"])
def test_encoders_of_every_family_are_taken(enc_name: str):
    net = models_zoo.create("depth", pretrained=False, enc_name=enc_name, dec_name="hrdepth").eval()
    with torch.no_grad():
        disp = net(torch.rand(1, 3, 64, 96))["disp"]
    assert [tuple(d.shape) for d in disp.values()] == [(1, 1, 64 >> s, 96 >> s) for s in range(4)]


def test_a_longer_pyramid_gives_its_levels_of_strides_2_to_32():
    longer = {"channels": (24, *FIVE["channels"]), "reductions": (1, *FIVE["reductions"])}
    decoder, other = DECODERS.create("hrdepth", **longer), DECODERS.create("hrdepth", **FIVE)
    other.load_state_dict(decoder.state_dict())
    feats = features(**longer)
    assert torch.equal(decoder(feats)[0], other(feats[1:])[0])


@pytest.mark.parametrize(
    ("reductions", "missing"),
    [((2, 4, 8, 32), r"without \[16\]"), ((8, 16, 32), r"without \[4\]"), ((2, 16, 32), r"without \[4, 8\]")],
    ids=str,
)
def test_missing_strides_are_named(reductions: tuple[int, ...], missing: str):
    with pytest.raises(ValueError, match=rf"strides \[2, 4, 8, 16, 32\].*{missing}"):
        DECODERS.create("hrdepth", channels=(64,) * len(reductions), reductions=reductions)


def test_skips_are_needed():
    with pytest.raises(ValueError, match="hrdepth needs use_skip=True"):
        DECODERS.create("hrdepth", use_skip=False, **FIVE)
