"""The autoencoder: keys, reconstructions and features of every decoder, and refused options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models_zoo
from models_zoo.decoders import DECODERS

SMALL = "test_resnet"
ABLE = [name for name in DECODERS.names() if DECODERS.get(name).supports_no_skip]
UNABLE = [name for name in DECODERS.names() if name not in ABLE]


def autoencoder(**options: object) -> nn.Module:
    return models_zoo.create("autoencoder", **{"pretrained": False, **options})


def test_keys_are_those_of_published_weights():
    with torch.device("meta"):
        state = autoencoder().state_dict()
    assert {key.split(".")[0] for key in state} == {"encoder", "decoder"}
    assert state["encoder.conv1.weight"].shape == (64, 3, 7, 7)
    assert state["decoder.decoder.1.conv.weight"].shape == (256, 256, 3, 3)  # no skip is fused
    assert state["decoder.decoder.13.weight"].shape == (3, 128, 3, 3)


@pytest.mark.parametrize(("dec_name", "autocast"), [*((name, False) for name in ABLE), ("monodepth", True)])
def test_images_and_features_of_every_decoder(dec_name: str, autocast: bool):
    net = autoencoder(enc_name=SMALL, dec_name=dec_name)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = net(torch.rand(1, 3, 64, 96))
    assert {image.dtype for image in out["autoenc_imgs"].values()} == {torch.float32}
    assert out.keys() == {"autoenc_imgs", "autoenc_feats"}
    assert list(out["autoenc_imgs"]) == [0, 1, 2, 3]
    assert out["autoenc_imgs"][0].shape == (1, 3, 64, 96)
    assert all(image.min() >= 0 and image.max() <= 1 for image in out["autoenc_imgs"].values())
    assert [tuple(feat.shape[2:]) for feat in out["autoenc_feats"]] == [(64 >> i, 96 >> i) for i in range(1, 6)]
    sum(image.square().sum() for image in out["autoenc_imgs"].values()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


def test_a_wrong_size_names_the_nearest_valid_ones():
    with pytest.raises(ValueError, match=r"not 100 x 640.*96 or 128"):
        autoencoder(enc_name=SMALL)(torch.rand(1, 3, 100, 640))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enc_name": "resnet81"}, "'resnet81' is not a model of timm"),
        ({"dec_name": "monodepht"}, "'monodepht' is not a decoder. Did you mean 'monodepth'"),
        ({"out_scales": [0, 5]}, r"holds \[5\]"),
        ({"out_scales": [1, 2]}, "lacks 0"),
        ({"std": (1, 1, 0)}, "every value must be above 0"),
        *(
            ({"dec_name": name, "out_scales": 0}, f"{name!r} needs the encoder features .*'monodepth'")
            for name in UNABLE
        ),
    ],
    ids=str,
)
def test_the_validator_and_the_constructor_refuse_the_same(options: dict, message: str):
    problems = models_zoo.NETWORKS.get("autoencoder").validate_config(options)
    assert len(problems) == 1
    with pytest.raises(ValueError, match=message) as refusal:
        autoencoder(**options)
    assert problems[0] in str(refusal.value)
    good = {"dec_name": "ddvnet", "out_scales": 0}
    assert models_zoo.NETWORKS.get("autoencoder").validate_config(good) == []
