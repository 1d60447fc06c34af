"""Virtual stereo, stereo blend and masks with every decoder."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.depth import swap_cameras
from tests.models_zoo.test_depth import blend_by_hand

MASKED = [name for name in DECODERS.names() if DECODERS.get(name).supports_mask]
UNMASKED = [name for name in DECODERS.names() if name not in MASKED]
every_decoder = pytest.mark.parametrize("dec_name", DECODERS.names())


def depth(dec_name: str, **options: object) -> nn.Module:
    options = {"enc_name": "mobilenetv3_small_050", "pretrained": False, **options}
    return models_zoo.create("depth", dec_name=dec_name, **options)


def size_at(dec_name: str, scale: int) -> tuple[int, int]:
    """Height and width that a decoder predicts for a 64 x 96 image."""
    stride = 1 if dec_name == "superdepth" else 2**scale
    return 64 // stride, 96 // stride


def by_hand(plain: Tensor, mirrored: Tensor) -> Tensor:
    return torch.from_numpy(blend_by_hand(plain.double().numpy(), mirrored.double().numpy())).float()


@every_decoder
def test_virtual_stereo_splits_the_head(dec_name: str):
    net = depth(dec_name, use_virtual_stereo=True).eval()
    images = torch.rand(2, 3, 64, 96)
    out, raw = net(images), net.decoders["disp"](net.encode(images))
    assert list(out["disp"]) == list(out["disp_stereo"]) == [0, 1, 2, 3]
    for s in range(4):
        assert out["disp"][s].shape == (2, 1, *size_at(dec_name, s))
        assert out["disp_stereo"][s].shape == (2, 2, *size_at(dec_name, s))
        assert torch.equal(torch.cat([out["disp"][s], out["disp_stereo"][s]], 1), raw[s])


@every_decoder
def test_every_camera_of_virtual_stereo_has_a_head_of_its_own(dec_name: str):
    net = depth(dec_name, use_virtual_stereo=True)
    out = net(torch.rand(2, 3, 64, 96))
    cameras = [*out["disp"][0].unbind(1), *out["disp_stereo"][0].unbind(1)]
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(cameras, 2))
    sum(maps.square().sum() for key in ("disp", "disp_stereo") for maps in out[key].values()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


@every_decoder
@pytest.mark.parametrize("virtual", [False, True], ids=["one camera", "three cameras"])
@torch.no_grad()
def test_blend_of_two_passes_equals_the_formula(virtual: bool, dec_name: str):
    """The mirrored pass covers the left border; mirrored back, its virtual cameras change places."""
    plain = depth(dec_name, use_virtual_stereo=virtual).eval()
    blended = depth(dec_name, use_virtual_stereo=virtual, use_stereo_blend=True).eval()
    blended.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 64, 96)
    out, a, b = blended(images), plain(images), plain(images.flip(-1))
    for s in range(4):
        assert torch.allclose(out["disp"][s], by_hand(a["disp"][s], b["disp"][s].flip(-1)), atol=1e-6)
        left = max(1, int(0.05 * (out["disp"][s].shape[-1] - 1)) + 1)  # columns up to 5 % of the width
        assert torch.equal(out["disp"][s][..., :left], b["disp"][s].flip(-1)[..., :left])
        assert torch.equal(out["disp"][s][..., -left:], a["disp"][s][..., -left:])
        if virtual:
            turned = b["disp_stereo"][s].flip(1).flip(-1)
            assert torch.allclose(out["disp_stereo"][s], by_hand(a["disp_stereo"][s], turned), atol=1e-6)


@every_decoder
@torch.no_grad()
def test_the_blend_of_a_mirrored_image_is_the_mirrored_blend(dec_name: str):
    net = depth(dec_name, use_virtual_stereo=True, use_stereo_blend=True).eval()
    images = torch.rand(1, 3, 64, 96)
    out, mirrored = net(images), net(images.flip(-1))
    for s in range(4):
        both = torch.cat([out["disp"][s], out["disp_stereo"][s]], 1)
        back = torch.cat([mirrored["disp"][s], mirrored["disp_stereo"][s]], 1).flip(-1)
        assert torch.allclose(swap_cameras(back), both, atol=1e-6)


@pytest.mark.parametrize(("mask_name", "top"), [("explainability", 1.0), ("uncertainty", float("inf"))])
@pytest.mark.parametrize("dec_name", MASKED)
def test_masks_have_a_channel_per_support_and_their_range(dec_name: str, mask_name: str, top: float):
    net = depth(dec_name, mask_name=mask_name, num_ch_mask=3)
    out = net(torch.rand(2, 3, 64, 96))
    assert list(out["mask"]) == [0, 1, 2, 3]
    for s, mask in out["mask"].items():
        assert mask.shape == (2, 3, *size_at(dec_name, s))
        assert mask.min() >= 0
        assert mask.max() <= top
    sum(maps.square().sum() for key in ("disp", "mask") for maps in out[key].values()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("dec_name", MASKED)
@torch.no_grad()
def test_a_mask_has_weights_of_its_own_and_is_not_blended(dec_name: str):
    net = depth(dec_name, mask_name="explainability", num_ch_mask=1, use_stereo_blend=True).eval()
    images = torch.rand(1, 3, 64, 96)
    mask = net(images)["mask"]
    assert all(torch.equal(mask[s], m) for s, m in net.decoders["mask"](net.encode(images)).items())
    shared = {p.data_ptr() for p in net.decoders["disp"].parameters()}
    assert shared.isdisjoint(p.data_ptr() for p in net.decoders["mask"].parameters())


@pytest.mark.parametrize("dec_name", UNMASKED)
def test_a_decoder_without_masks_is_refused_before_it_is_built(dec_name: str):
    options = {"dec_name": dec_name, "mask_name": "explainability", "num_ch_mask": 2}
    problems = models_zoo.NETWORKS.get("depth").validate_config(options)
    assert len(problems) == 1
    assert f"{dec_name!r} cannot predict masks" in problems[0]
    with pytest.raises(ValueError, match="cannot predict masks"):
        models_zoo.create("depth", pretrained=False, **options)


@every_decoder
def test_everything_is_float32_under_autocast(dec_name: str):
    options = {"mask_name": "uncertainty", "num_ch_mask": 1} if dec_name in MASKED else {}
    net = depth(dec_name, use_virtual_stereo=True, use_stereo_blend=True, **options)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.rand(2, 3, 64, 96))
    kinds = [key for key in ("disp", "disp_stereo", "mask") if key in out]
    assert {m.dtype for key in kinds for m in out[key].values()} == {torch.float32}
