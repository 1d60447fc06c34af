"""The depth network: shapes, sizes, masks, virtual stereo, stereo blend, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.depth import stereo_blend, swap_cameras

ENCODERS = ["resnet18", "mobilenetv3_small_050", "convnext_atto", "swin_tiny_patch4_window7_224"]


def depth(**options: object) -> nn.Module:
    return models_zoo.create("depth", pretrained=False, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("enc_name", ENCODERS)
@pytest.mark.parametrize("dec_name", DECODERS.names())
def test_every_encoder_and_decoder_train_together(dec_name: str, enc_name: str):
    net = depth(enc_name=enc_name, dec_name=dec_name)
    out = net(torch.rand(2, 3, 64, 96))
    assert out.keys() == {"disp", "depth_feats"}
    assert list(out["disp"]) == [0, 1, 2, 3]
    assert out["disp"][0].shape == (2, 1, 64, 96)
    assert out["depth_feats"][-1].shape[-2:] == (2, 3)
    assert all(disp.min() > 0 and disp.max() < 1 for disp in out["disp"].values())
    sum(disp.square().sum() for disp in out["disp"].values()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


def test_monodepth_halves_its_size_at_every_scale():
    out = depth(enc_name="mobilenetv3_small_050")(torch.rand(1, 3, 64, 96))["disp"]
    assert [tuple(disp.shape) for disp in out.values()] == [(1, 1, 64 >> s, 96 >> s) for s in range(4)]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 14_329_236),
        ({"enc_name": "convnext_tiny"}, 31_929_780),
        ({"mask_name": "explainability", "num_ch_mask": 2}, 17_484_124),
        ({"mask_name": "uncertainty", "num_ch_mask": 3}, 17_486_288),
        ({"use_virtual_stereo": True}, 14_333_564),
        ({"out_scales": 0}, 14_327_217),
    ],
    ids=str,
)
def test_parameter_counts_are_those_of_the_benchmark(options: dict, parameters: int):
    assert count(depth(**options)) == parameters


def test_parts_have_the_sizes_of_the_benchmark():
    net = depth()
    assert (count(net.encoder), count(net.decoders["disp"])) == (11_176_512, 3_152_724)
    assert count(depth(enc_name="resnet50").decoders) == 9_014_100


def test_state_dict_holds_encoder_and_decoders_only():
    net = depth(mask_name="explainability", num_ch_mask=2)
    prefixes = {".".join(key.split(".")[:2]) for key in net.state_dict() if key.startswith("decoders")}
    assert {key.split(".")[0] for key in net.state_dict()} == {"encoder", "decoders"}
    assert prefixes == {"decoders.disp", "decoders.mask"}
    assert "encoder.conv1.weight" in net.state_dict()


def test_standardisation_is_the_first_step():
    images = torch.rand(1, 3, 64, 96)
    plain = depth(enc_name="mobilenetv3_small_050", mean=(0, 0, 0), std=(1, 1, 1)).eval()
    monodepth2 = depth(enc_name="mobilenetv3_small_050", mean=(0.45,) * 3, std=(0.225,) * 3).eval()
    monodepth2.load_state_dict(plain.state_dict())
    expected = plain((images - 0.45) / 0.225)["disp"][0]
    assert torch.equal(monodepth2(images)["disp"][0], expected)


@pytest.mark.parametrize(("mask_name", "top"), [("explainability", 1.0), ("uncertainty", float("inf"))])
def test_masks_have_a_channel_per_support_and_their_range(mask_name: str, top: float):
    net = depth(enc_name="mobilenetv3_small_050", mask_name=mask_name, num_ch_mask=3)
    mask = net(torch.rand(1, 3, 64, 96))["mask"]
    assert list(mask) == [0, 1, 2, 3]
    assert mask[1].shape == (1, 3, 32, 48)
    assert all(m.min() >= 0 and m.max() <= top for m in mask.values())


def test_virtual_stereo_splits_the_head():
    net = depth(enc_name="mobilenetv3_small_050", use_virtual_stereo=True).eval()
    images = torch.rand(2, 3, 64, 96)
    out, raw = net(images), net.decoders["disp"](net.encode(images))
    assert out["disp_stereo"][2].shape == (2, 2, 16, 24)
    assert torch.equal(torch.cat([out["disp"][2], out["disp_stereo"][2]], 1), raw[2])


def blend_by_hand(plain: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Column by column; the weight of a border pass is a ramp from 1 at 5 % to 0 at 10 % of the width."""
    width = plain.shape[-1]
    blended = np.empty_like(plain)
    for column in range(width):
        u = column / (width - 1)
        left, right = np.interp(u, [0.05, 0.1], [1, 0]), np.interp(u, [0.9, 0.95], [0, 1])
        a, b = plain[..., column], mirrored[..., column]
        blended[..., column] = left * b + right * a + (1 - left - right) * (a + b) / 2
    return blended


@pytest.mark.parametrize("width", [64, 101])
def test_blend_equals_the_formula(width: int):
    a, b = torch.rand(2, 1, 3, width, dtype=torch.float64), torch.rand(2, 1, 3, width, dtype=torch.float64)
    assert np.allclose(stereo_blend(a, b).numpy(), blend_by_hand(a.numpy(), b.numpy()), atol=1e-12, rtol=0)


def test_blend_takes_the_left_border_from_the_mirrored_pass():
    blended = stereo_blend(torch.zeros(1, 1, 1, 101), torch.ones(1, 1, 1, 101))[0, 0, 0]
    assert torch.all(blended[:5] == 1)
    assert torch.all(blended[-5:] == 0)
    assert torch.allclose(blended[11:90], torch.tensor(0.5))


def test_blend_of_a_mirrored_image_is_the_mirrored_blend():
    net = depth(enc_name="mobilenetv3_small_050", use_virtual_stereo=True, use_stereo_blend=True).eval()
    images = torch.rand(1, 3, 64, 96)
    out, mirrored = net(images), net(images.flip(-1))
    assert torch.allclose(mirrored["disp"][0].flip(-1), out["disp"][0], atol=1e-6)
    assert torch.allclose(mirrored["disp_stereo"][0].flip(-1).flip(1), out["disp_stereo"][0], atol=1e-6)


def test_a_symmetric_image_gives_a_symmetric_blend():
    half = torch.rand(1, 3, 64, 48)
    net = depth(enc_name="mobilenetv3_small_050", use_stereo_blend=True).eval()
    disp = net(torch.cat([half, half.flip(-1)], -1))["disp"][0]
    assert torch.allclose(disp, disp.flip(-1), atol=1e-6)


def test_blend_leaves_mask_and_features_alone():
    options = {"enc_name": "mobilenetv3_small_050", "mask_name": "explainability", "num_ch_mask": 2}
    plain, blended = depth(**options).eval(), depth(**options, use_stereo_blend=True).eval()
    blended.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 64, 96)
    a, b = plain(images), blended(images)
    assert torch.equal(a["mask"][0], b["mask"][0])
    assert torch.equal(a["depth_feats"][-1], b["depth_feats"][-1])
    assert not torch.equal(a["disp"][0], b["disp"][0])


def test_mirroring_exchanges_the_virtual_cameras():
    maps = torch.arange(3.0).view(1, 3, 1, 1)
    assert swap_cameras(maps).flatten().tolist() == [0, 2, 1]
    assert swap_cameras(maps[:, :1]).flatten().tolist() == [0]


def test_both_passes_of_the_blend_learn():
    a, b = (torch.rand(1, 1, 2, 64, requires_grad=True) for _ in range(2))
    stereo_blend(a, b).sum().backward()
    assert a.grad is not None
    assert torch.allclose(a.grad + b.grad, torch.ones(1))


@pytest.mark.parametrize("options", [{}, {"use_stereo_blend": True, "use_virtual_stereo": True}], ids=str)
def test_autocast_gives_float32_maps(options: dict):
    net = depth(enc_name="mobilenetv3_small_050", mask_name="uncertainty", num_ch_mask=1, **options)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.rand(2, 3, 64, 96))
    maps: list[Tensor] = [m for key, maps in out.items() if key != "depth_feats" for m in maps.values()]
    assert {m.dtype for m in maps} == {torch.float32}
    assert out["depth_feats"][-1].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("size", "offer"),
    [
        ((100, 640), "height: 96 or 128; width: 640"),
        ((32, 64), "height: 64; width: 64"),
        ((64, 65), "64 or 96"),
    ],
    ids=str,
)
def test_a_wrong_size_names_the_nearest_valid_ones(size: tuple[int, int], offer: str):
    with pytest.raises(ValueError, match=f"not {size[0]} x {size[1]}.*{offer}"):
        depth(enc_name="mobilenetv3_small_050")(torch.rand(1, 3, *size))


def test_a_wrong_channel_count_is_named():
    with pytest.raises(ValueError, match=r"\(b, 3, h, w\) images, not \(1, 6, 64, 96\)"):
        depth(enc_name="mobilenetv3_small_050")(torch.rand(1, 6, 64, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enc_name": "resnet81"}, "'resnet81' is not a model of timm.*resnet18"),
        ({"enc_name": "resnet18.nonesuch"}, "no weights tagged 'nonesuch' for resnet18.*tv_in1k"),
        ({"dec_name": "monodepht"}, "'monodepht' is not a decoder. Did you mean 'monodepth'"),
        ({"mask_name": "uncertainity", "num_ch_mask": 2}, "Did you mean 'uncertainty'"),
        ({"mask_name": "explainability"}, "num_ch_mask is null.*number of support frames"),
        ({"mask_name": "explainability", "num_ch_mask": 0}, "num_ch_mask is 0"),
        ({"out_scales": [0, 4]}, r"holds \[4\]; choose from \[0, 1, 2, 3\]"),
        ({"out_scales": [0, 0]}, "names a scale twice"),
        ({"out_scales": 1}, r"\[1\] lacks 0"),
        ({"out_scales": []}, "lacks 0"),
        ({"mean": (0.5, 0.5)}, r"mean is \[0.5, 0.5\]; it needs 3 numbers"),
        ({"std": (1, 1, 0)}, "every value must be above 0"),
    ],
    ids=str,
)
def test_the_validator_and_the_constructor_refuse_the_same(options: dict, message: str):
    problems = models_zoo.NETWORKS.get("depth").validate_config(options)
    assert len(problems) == 1
    with pytest.raises(ValueError, match=message) as refusal:
        depth(**options)
    assert problems[0] in str(refusal.value)


def test_all_problems_are_listed_at_once():
    options = {"enc_name": "resnet81", "dec_name": "x", "out_scales": [1]}
    assert len(models_zoo.NETWORKS.get("depth").validate_config(options)) == 3


def test_good_options_have_no_problem():
    assert models_zoo.NETWORKS.get("depth").validate_config({}) == []
    options = {
        "enc_name": "convnext_tiny.fb_in1k",
        "mask_name": "uncertainty",
        "num_ch_mask": 2,
        "out_scales": 0,
    }
    assert models_zoo.NETWORKS.get("depth").validate_config(options) == []


@pytest.mark.parametrize("name", models_zoo.NETWORKS.names())
def test_a_misspelt_keyword_names_the_right_one(name: str):
    with pytest.raises(TypeError, match="Did you mean 'enc_name'"):
        models_zoo.create(name, encname="resnet18")


@pytest.mark.parametrize("dec_name", [d for d in DECODERS.names() if DECODERS.get(d).supports_init])
def test_a_new_network_starts_from_the_disparity_asked_for(dec_name: str):
    out = depth(dec_name=dec_name, init_disp=0.06, use_virtual_stereo=True)(torch.rand(1, 3, 64, 96))
    for maps in (*out["disp"].values(), *out["disp_stereo"].values()):
        assert maps.detach().mean() == pytest.approx(0.06, abs=0.03)


@pytest.mark.parametrize("init_disp", [0, 1, -0.5])
def test_a_start_outside_of_the_sigmoid_is_refused(init_disp: float):
    with pytest.raises(ValueError, match=f"init_disp is {init_disp}; it must lie between 0 and 1"):
        depth(init_disp=init_disp)
