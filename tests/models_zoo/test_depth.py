"""The depth network: shapes, sizes, masks, virtual stereo, stereo blend, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.depth import stereo_blend, swap_cameras
from models_zoo.encoders.build import feature_spec
from tests.models_zoo.smallest import smallest

SMALL = "test_resnet"  # timm's own test models
PAIRS = [
    *(smallest(dec_name) for dec_name in DECODERS.names()),
    *({**smallest("monodepth"), "enc_name": f"test_{e}"} for e in ("convnext", "mambaout")),
]


def depth(**options: object) -> nn.Module:
    return models_zoo.create("depth", pretrained=False, **options)


@pytest.mark.parametrize("options", PAIRS, ids=lambda options: f"{options['dec_name']}-{options['enc_name']}")
def test_encoders_and_decoders_train_together(options: dict[str, Any]):
    net = depth(**options)
    out = net(torch.rand(1, 3, 64, 96))
    assert out.keys() == {"disp", "depth_feats"}
    strides = [1] * 4 if options["dec_name"] == "superdepth" else [1, 2, 4, 8]
    assert {s: tuple(disp.shape) for s, disp in out["disp"].items()} == {
        s: (1, 1, 64 // strides[s], 96 // strides[s]) for s in options["out_scales"]
    }
    deepest = feature_spec(net.encoder).reductions[-1]
    assert out["depth_feats"][-1].shape[-2:] == (64 // deepest, 96 // deepest)
    assert all(disp.min() > 0 and disp.max() < 1 for disp in out["disp"].values())
    sum(disp.square().sum() for disp in out["disp"].values()).backward()
    assert [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("dec_name", "dtype"), [*((name, torch.float32) for name in DECODERS.names()), ("monodepth", torch.bfloat16)]
)
def test_masks_and_virtual_cameras_train_and_are_float32(dec_name: str, dtype: torch.dtype):
    masks = {"mask_name": "uncertainty", "num_ch_mask": 3} if DECODERS.get(dec_name).supports_mask else {}
    net = depth(**smallest(dec_name), use_virtual_stereo=True, use_stereo_blend=True, **masks)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = net(torch.rand(1, 3, 64, 64))
    maps = {key: out[key] for key in ("disp", "disp_stereo", "mask") if key in out}
    assert {key: m[0].shape[1] for key, m in maps.items()} == {
        "disp": 1,
        "disp_stereo": 2,
        **({"mask": 3} if masks else {}),
    }
    assert {m.dtype for several in maps.values() for m in several.values()} == {torch.float32}
    assert all(m.min() >= 0 for several in maps.values() for m in several.values())
    assert out["depth_feats"][-1].dtype == dtype
    sum(m.square().sum() for several in maps.values() for m in several.values()).backward()
    assert [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_state_dict_holds_encoder_and_decoders_only():
    with torch.device("meta"):
        net = depth(mask_name="explainability", num_ch_mask=2)
    prefixes = {".".join(key.split(".")[:2]) for key in net.state_dict() if key.startswith("decoders")}
    assert {key.split(".")[0] for key in net.state_dict()} == {"encoder", "decoders"}
    assert prefixes == {"decoders.disp", "decoders.mask"}
    assert "encoder.conv1.weight" in net.state_dict()


def test_standardisation_is_the_first_step():
    images = torch.rand(1, 3, 64, 96)
    plain = depth(enc_name=SMALL, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    monodepth2 = depth(enc_name=SMALL, mean=(0.45,) * 3, std=(0.225,) * 3).eval()
    monodepth2.load_state_dict(plain.state_dict())
    expected = plain((images - 0.45) / 0.225)["disp"][0]
    assert torch.equal(monodepth2(images)["disp"][0], expected)


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
    net = depth(enc_name=SMALL, use_virtual_stereo=True, use_stereo_blend=True).eval()
    images = torch.rand(1, 3, 64, 96)
    out, mirrored = net(images), net(images.flip(-1))
    assert torch.allclose(mirrored["disp"][0].flip(-1), out["disp"][0], atol=1e-6)
    assert torch.allclose(mirrored["disp_stereo"][0].flip(-1).flip(1), out["disp_stereo"][0], atol=1e-6)


def test_blend_leaves_mask_and_features_alone():
    options = {"enc_name": SMALL, "mask_name": "explainability", "num_ch_mask": 2}
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


@pytest.mark.parametrize(
    ("size", "offer"),
    [((100, 640), "height: 96 or 128; width: 640"), ((32, 64), "height: 64; width: 64"), ((64, 65), "64 or 96")],
    ids=str,
)
def test_a_wrong_size_names_the_nearest_valid_ones(size: tuple[int, int], offer: str):
    with pytest.raises(ValueError, match=f"not {size[0]} x {size[1]}.*{offer}"):
        depth(enc_name=SMALL)(torch.rand(1, 3, *size))


def test_a_wrong_channel_count_is_named():
    with pytest.raises(ValueError, match=r"\(b, 3, h, w\) images, not \(1, 6, 64, 96\)"):
        depth(enc_name=SMALL)(torch.rand(1, 6, 64, 96))


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
        ({"dec_name": "litemono"}, r"holds \[3\]; choose from \[0, 1, 2\] of decoder 'litemono'"),
        ({"dec_name": "msf", "out_scales": [0, 1]}, r"holds \[1\]; choose from \[0\] of decoder 'msf'"),
        ({"out_scales": [0, 0]}, "holds a scale twice"),
        (
            {"enc_name": "litemono", "enc_options": {"dilatoin": 1}, "out_scales": 0, "dec_name": "litemono"},
            "encoder 'litemono' has no argument 'dilatoin'. Did you mean 'dilation'",
        ),
        (
            {"enc_name": "litemono", "enc_options": {"dilation": [2]}, "out_scales": 0, "dec_name": "litemono"},
            "enc_options: dilation is .2.; choose small",
        ),
        (
            {"enc_name": "litemono", "enc_options": {"drop_path": 1}, "out_scales": 0, "dec_name": "litemono"},
            "enc_options: drop_path is 1; it must be a number from 0",
        ),
        ({"out_scales": 1}, r"\[1\] lacks 0"),
        ({"out_scales": []}, "lacks 0"),
        ({"mean": (0.5, 0.5)}, r"mean is \[0.5, 0.5\]; it needs 3 numbers"),
        ({"std": (1, 1, 0)}, "every value must be above 0"),
        ({"init_disp": 1}, "init_disp is 1; it must lie between 0 and 1"),
        ({"activation": "relu", "init_disp": 0.0}, "init_disp is 0.0; it must be above 0"),
        ({"dec_name": "ddvnet", "init_disp": 0.1}, "'ddvnet' cannot start from a given disparity"),
        (
            {"dec_name": "ddvnet", "mask_name": "uncertainty", "num_ch_mask": 2},
            "'ddvnet' cannot predict masks; .*'mono",
        ),
    ],
    ids=str,
)
def test_the_validator_and_the_constructor_refuse_the_same(options: dict, message: str):
    problems = models_zoo.NETWORKS.get("depth").validate_config(options)
    assert len(problems) == 1
    with pytest.raises(ValueError, match=message) as refusal:
        depth(**options)
    assert problems[0] in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enc_name": "nest_tiny"}, r"strides \[4, 8, 16\]; the deepest must be 32.*, or dec_name litemono$"),
        ({"enc_name": "litemono"}, r"strides \[4, 8, 16\]; the deepest must be 32.*, or dec_name litemono$"),
        ({"enc_name": SMALL, "dec_name": "litemono"}, r"reads \[4, 8, 16\], none of them deeper.*dec_name .*msf or"),
        ({"enc_name": "test_convnext", "dec_name": "msf"}, r"strides \[4, 8, 16, 32\]; decoder 'msf' reads \[2, 4, 8"),
    ],
    ids=str,
)
def test_features_that_a_decoder_cannot_read_are_refused_before_weights_are_fetched(options: dict, message: str):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        models_zoo.create("depth", pretrained=True, out_scales=0, **options)


def test_a_decoder_of_fewer_strides_reads_other_encoders_that_have_them():
    with torch.device("meta"):
        net = depth(enc_name="nest_tiny", dec_name="litemono", out_scales=[0, 1, 2])
    assert feature_spec(net.encoder).reductions == (4, 8, 16)


def test_all_problems_are_listed_at_once():
    options = {"enc_name": "resnet81", "dec_name": "x", "out_scales": [1]}
    assert len(models_zoo.NETWORKS.get("depth").validate_config(options)) == 3


def test_good_options_have_no_problem():
    assert models_zoo.NETWORKS.get("depth").validate_config({}) == []
    options = {"enc_name": "convnext_tiny.fb_in1k", "mask_name": "uncertainty", "num_ch_mask": 2, "out_scales": 0}
    assert models_zoo.NETWORKS.get("depth").validate_config(options) == []
    assert models_zoo.NETWORKS.get("depth").validate_config({"activation": "relu", "init_disp": 7.0}) == []


@pytest.mark.parametrize("dec_name", [d for d in DECODERS.names() if DECODERS.get(d).supports_init])
def test_a_new_network_starts_from_init_disp(dec_name: str):
    out = depth(**smallest(dec_name), init_disp=0.06, use_virtual_stereo=True)(torch.rand(1, 3, 64, 96))
    for maps in (*out["disp"].values(), *out["disp_stereo"].values()):
        assert maps.detach().mean() == pytest.approx(0.06, abs=0.03)


@pytest.mark.parametrize(("activation", "disp"), [("sigmoid", 0.5), ("relu", 0.1)])
def test_a_network_without_pretrained_weights_starts_where_it_can_learn(activation: str, disp: float):
    out = depth(**smallest("monodepth"), activation=activation)(torch.rand(1, 3, 64, 96))
    assert out["disp"][0].detach().mean() == pytest.approx(disp, abs=0.05)
    assert all(bool((head.bias == 0).all()) for head in heads_of(depth(**smallest("monodepth"), init_disp=0.5)))


def heads_of(network: Any) -> list[nn.Conv2d]:
    return [m for head in network.decoders["disp"].heads() for m in head.modules() if isinstance(m, nn.Conv2d)]
