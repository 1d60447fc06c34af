"""The DPT head: parameters of Depth Anything, sizes, scales, what is trained, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.encoders.vit import default_taps, nearest_size

NARROW = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 70}
TINY = {"enc_name": "vit_small_patch14_dinov2", "dec_name": "dpt", "enc_options": NARROW, "pretrained": False}


def depth(**options: object) -> nn.Module:
    return models_zoo.create("depth", **{**TINY, **options})


@pytest.mark.parametrize(
    ("size", "width", "both", "head", "unused"),
    [("small", 384, 24_785_089, 2_728_513, 73_856), ("base", 768, 97_470_785, 10_890_305, 295_168)],
)
def test_parameters_are_those_of_depth_anything(size: str, width: int, both: int, head: int, unused: int):
    """As published, but for the mask token, which no prediction uses."""
    with torch.device("meta"):
        net = depth(enc_name=f"vit_{size}_patch14_dinov2", enc_options=None, out_scales=0)
    assert sum(p.numel() for p in net.parameters()) == both - width
    assert sum(p.numel() for p in net.decoders.parameters()) == head
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == unused


def test_taps_are_those_of_depth_anything_v2_or_given():
    assert [default_taps(blocks, 14) for blocks in (12, 24, 40)] == [[2, 5, 8, 11], [4, 11, 17, 23], [9, 19, 29, 39]]
    assert default_taps(24, 16) == [5, 11, 17, 23]
    with torch.device("meta"):
        assert len(depth(enc_options=NARROW | {"depth": 8}, taps=[1, 2, 3, 4]).encoder.vit.blocks) == 5


@pytest.mark.parametrize("size", [(70, 70), (64, 96), (45, 131), (20, 28)])
def test_any_size_goes_in_and_comes_out_at_every_scale(size: tuple[int, int]):
    out = depth(activation="relu").eval()(torch.rand(1, 3, *size))
    assert {s: tuple(d.shape[2:]) for s, d in out["disp"].items()} == {
        s: (size[0] >> s, size[1] >> s) for s in range(4)
    }
    assert out["depth_feats"][0].shape[2:] == tuple(side // 14 for side in nearest_size(size, 14))


def test_sides_become_the_nearest_multiples_of_the_patch():
    assert nearest_size((192, 640), 14) == (196, 644)
    assert nearest_size((518, 7), 14) == (518, 28)
    assert nearest_size((189, 190), 14) == (196, 196)  # 13.5 patches are 14


@pytest.mark.parametrize("enc_name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "test_vit"])
def test_all_but_the_unused_layer_learns_with_masks_and_virtual_cameras(enc_name: str):
    more = {"mask_name": "uncertainty", "num_ch_mask": 2, "use_virtual_stereo": True, "use_stereo_blend": True}
    net = depth(enc_name=enc_name, enc_options=None if enc_name == "test_vit" else NARROW, **more)
    out = net(torch.rand(1, 3, 64, 64))
    assert (out["disp_stereo"][0].shape, out["mask"][1].shape) == ((1, 2, 64, 64), (1, 2, 32, 32))
    sum(m.square().sum() for key in ("disp", "disp_stereo", "mask") for m in out[key].values()).backward()
    idle = {key for key, p in net.named_parameters() if p.grad is None}
    assert idle == {key for key, p in net.named_parameters() if not p.requires_grad}
    assert {key.split(".", 2)[2].rpartition(".")[0].rpartition(".")[0] for key in idle} == {"fusion.0.residual_layer1"}


def test_a_network_starts_from_init_disp():
    with torch.no_grad():
        out = depth(init_disp=0.06)(torch.rand(1, 3, 70, 70))["disp"]
    assert all(disp.mean() == pytest.approx(0.06, abs=0.03) for disp in out.values())


def test_metric_disparity_is_the_inverse_of_a_sigmoid():
    net, metric = depth(out_scales=0).eval(), depth(out_scales=0, activation="metric").eval()
    metric.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 42, 70)
    assert torch.allclose(metric(images)["disp"][0] * net(images)["disp"][0], torch.ones(1, 1, 42, 70), atol=1e-5)


def test_outputs_are_float32_and_close_under_autocast():
    net, images = depth().eval(), torch.rand(1, 3, 70, 84)
    with torch.no_grad():
        plain = net(images)["disp"]
        with torch.autocast("cpu", torch.bfloat16):
            out = net(images)["disp"]
    assert {disp.dtype for disp in out.values()} == {torch.float32}
    assert all(torch.allclose(out[s], plain[s], atol=0.03) for s in out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enc_name": "test_resnet"}, r"'test_resnet': .* strides .*; dec_name 'dpt' reads the tokens.*patch14_dinov2"),
        ({"taps": [3, 2, 1, 0]}, r"taps \[3, 2, 1, 0\] must be four ascending positions of its blocks, 0 to 3"),
        ({"taps": [0, 1, 2, 4]}, r"0 to 3"),
        ({"dec_name": "monodepth", "taps": [0, 1, 2, 3]}, "'monodepth' does not read blocks of a ViT, only dpt does"),
        ({"dec_options": {"nekc": [8, 8, 8, 8]}}, "'nekc' is not an option of dec_name 'dpt'. Did you mean 'neck'"),
        ({"dec_options": {"neck": [8, 8]}}, r"neck \[8, 8\] must be the channels of 4 maps"),
        ({"dec_options": {"fusion": "x"}}, "'x' is no number of channels"),
        ({"enc_options": {"embed_dmi": 32}}, "cannot give feature maps of this model with enc_options .*embed_dmi"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(options: dict, message: str):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        depth(**({"enc_options": None} if "enc_name" in options else {}) | options)


def test_other_decoders_refuse_tokens():
    assert "deepest must be 32" in DECODERS.get("monodepth").feature_problems((14, 14, 14, 14))[0]
    assert DECODERS.get("dpt").feature_problems((16, 16, 16, 16)) == []
    with pytest.raises(ValueError, match="'dpt' needs the encoder features of all levels"):
        models_zoo.create("autoencoder", enc_name="test_vit", dec_name="dpt", pretrained=False)
