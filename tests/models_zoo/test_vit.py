"""Transformers as encoders: plain ones become a pyramid, hierarchical ones give timm's own maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.depth import feature_problems as problems
from models_zoo.encoders.build import build_encoder, encode, feature_spec
from models_zoo.encoders.vit import ViTPyramid, is_plain

DINOV2, NARROW = "vit_small_patch14_dinov2", {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 70}
TINY = "test_vit"  # timm's own test model: patch 16, width 64, 6 blocks
SIZE = (64, 96)  # not that of the position embeddings
STRIDES = (4, 8, 16, 32)


def without_gradient(net: nn.Module) -> list[str]:
    return [key for key, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("enc_name", "width"),
    [
        ("vit_tiny_patch16_224", 192),
        ("deit3_small_patch16_224", 384),  # a position embedding without the class token
        ("deit_tiny_distilled_patch16_224", 192),  # two prefix tokens
        ("vit_small_patch16_dinov3", 384),  # rotary position embedding, register tokens
        ("xcit_nano_12_p16_224", 128),  # no attention between positions
        ("vit_tiny_r_s16_p8_224", 192),  # a convolutional stem, stride 32
        ("vit_small_patch8_224", 384),
        ("vit_small_patch32_224", 384),
    ],
)
def test_plain_vits_become_a_pyramid_that_learns(enc_name: str, width: int):
    encoder = build_encoder(enc_name, pretrained=False)
    assert feature_spec(encoder) == ((width // 8, width // 4, width // 2, width), STRIDES)
    feats = encode(encoder, torch.rand(1, 3, *SIZE))
    expected = [(1, width * r // 32, SIZE[0] // r, SIZE[1] // r) for r in STRIDES]
    assert [tuple(feat.shape) for feat in feats] == expected
    sum(feat.square().sum() for feat in feats).backward()
    assert without_gradient(encoder) == []


@pytest.mark.parametrize("dec_name", [name for name in DECODERS.names() if not problems(name, STRIDES)])
def test_every_decoder_trains_on_a_plain_vit(dec_name: str):
    net = models_zoo.create("depth", enc_name=TINY, dec_name=dec_name, pretrained=False)
    disp = net(torch.rand(1, 3, *SIZE))["disp"]
    assert list(disp) == [0, 1, 2, 3]
    assert disp[0].shape == (1, 1, *SIZE)
    sum(d.square().sum() for d in disp.values()).backward()
    assert without_gradient(net) == []


@pytest.mark.parametrize(
    ("enc_name", "blocks"),
    [
        ("vit_tiny_patch16_224", [2, 5, 8, 11]),  # of 12, as DPT reads the base size
        ("cait_xxs24_224", [5, 11, 17, 23]),  # of 24, as DPT reads the large size
        ("vit_wee_patch16_reg1_gap_256", [2, 6, 9, 13]),  # of 14
    ],
)
def test_four_evenly_spaced_blocks_are_read(enc_name: str, blocks: list[int]):
    with torch.device("meta"):
        encoder = build_encoder(enc_name, pretrained=False)
    assert encoder.blocks == blocks
    assert len(encoder.vit.blocks) == blocks[-1] + 1


@pytest.mark.parametrize(
    ("enc_name", "factors"),
    [("vit_small_patch8_224", [2, 1, 1 / 2, 1 / 4]), (TINY, [4, 2, 1, 1 / 2]), ("vit_small_patch32_224", [8, 4, 2, 1])],
)
def test_maps_are_resized_by_learned_layers(enc_name: str, factors: list[float]):
    """Transposed convolutions whose blocks do not overlap, identity, and convolutions that skip no pixel."""
    with torch.device("meta"):
        encoder = build_encoder(enc_name, False)
    for (_, resize), factor in zip(encoder.reassemble, factors, strict=True):
        if factor == 1:
            assert isinstance(resize, nn.Identity)
        elif factor > 1:
            assert isinstance(resize, nn.ConvTranspose2d)
            assert resize.kernel_size == resize.stride == (factor, factor)
        else:
            assert isinstance(resize, nn.Conv2d)
            assert resize.stride == (1 / factor, 1 / factor)
            assert resize.kernel_size > resize.stride


def test_maps_come_from_the_blocks_they_name():
    """Level k is the 1x1 convolution and resizing of what timm calls the output of block k."""
    encoder, images = build_encoder(TINY, False).eval(), torch.rand(1, 3, 64, 96)
    plain = timm.create_model(TINY, features_only=True, out_indices=encoder.blocks, dynamic_img_size=True).eval()
    plain.model.load_state_dict(encoder.vit.state_dict())
    with torch.no_grad():
        expected = [layers(x) for layers, x in zip(encoder.reassemble, plain(images), strict=True)]
        for a, b in zip(encoder(images), expected, strict=True):
            assert torch.equal(a, b)


def test_keys_separate_the_model_of_timm_from_the_new_layers():
    state = build_encoder(TINY, False).state_dict()
    assert {key.split(".")[0] for key in state} == {"vit", "reassemble"}
    assert "vit.blocks.0.attn.qkv.weight" in state
    assert state["reassemble.0.0.weight"].shape == (8, 64, 1, 1)
    assert state["reassemble.0.1.weight"].shape == (8, 8, 4, 4)
    assert not any("head" in key or key.startswith("vit.norm.") for key in state)


def test_patches_that_fit_no_stride_are_refused_with_a_vit_that_works():
    wrong = f"'{TINY}': its patches are 12 x 12 .* 8, 14, 16, 32 pixels.*vit_tiny_patch16_224"
    with torch.device("meta"), pytest.raises(ValueError, match=wrong):
        build_encoder(TINY, pretrained=False, options={"patch_size": 12})


def test_a_patch_of_14_pixels_acts_as_a_stride_of_16():
    """An image of 64 x 96 is seen as 56 x 84, which is 4 x 6 patches."""
    encoder = build_encoder(DINOV2, False, in_chans=6, options=NARROW).eval()
    seen: list[torch.Size] = []
    encoder.vit.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        feats = encode(encoder, torch.rand(1, 6, 64, 96))
    assert seen == [(1, 6, 56, 84)]
    assert [tuple(feat.shape[1:]) for feat in feats] == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (32, 2, 3)]


def test_dinov2_resamples_positions_without_antialiasing():
    """Six columns become three, which see the third alone by the plain bicubic weights."""
    with torch.no_grad():
        vit = build_encoder(DINOV2, False, options=NARROW | {"img_size": 84}).vit.eval()
        vit.pos_embed.zero_()
        vit.pos_embed[0, 1:].view(6, 6, 32)[:, 2] = 1
        tokens = vit._pos_embed(torch.zeros(1, 3, 3, 32))[:, 1:]  # at 0.5, 2.5 and 4.5
    weights = torch.tensor([-0.09375, 0.59375, 0.0])  # Keys' kernel with a = -0.75 at 1.5, 0.5 and 2.5
    assert torch.allclose(tokens.view(3, 3, 32)[1, :, 0], weights, atol=1e-6)


def test_a_vit_of_one_size_only_says_so():
    encoder = build_encoder("mixer_s32_224", pretrained=False)
    assert [feat.shape[-1] for feat in encode(encoder, torch.rand(1, 3, 224, 224))] == [56, 28, 14, 7]
    with pytest.raises(ValueError, match=r"does not take \(64, 96\) \(h, w\) images: .*224"):
        encode(encoder, torch.rand(1, 3, 64, 96))


@pytest.mark.parametrize("in_chans", [3, 6])
def test_with_the_deepest_map_alone_nothing_is_left_without_gradient(in_chans: int):
    encoder = build_encoder(TINY, False, in_chans=in_chans, deepest_only=True)
    assert feature_spec(encoder) == ((64,), (32,))
    (feat,) = encode(encoder, torch.rand(2, in_chans, 64, 96))
    feat.square().sum().backward()
    assert without_gradient(encoder) == []


@pytest.mark.parametrize("enc_name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_other_encoders_are_left_as_timm_made_them(enc_name: str):
    with torch.device("meta"):
        encoder = build_encoder(enc_name, False, deepest_only=True)
    assert type(encoder).__module__.startswith("timm.")
    assert not is_plain(encoder)
    assert feature_spec(encoder).reductions[-1] == 32


def test_the_autoencoder_takes_a_vit():
    out = models_zoo.create("autoencoder", enc_name=TINY, pretrained=False)(torch.rand(2, 3, 64, 96))
    assert out["autoenc_imgs"][0].shape == (2, 3, 64, 96)
    assert [feat.shape[1] for feat in out["autoenc_feats"]] == [8, 16, 32, 64]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of the tiny ViT as timm publishes them, in a file that `build_encoder` finds."""
    state = timm.create_model(TINY).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    found = {"file": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr("models_zoo.encoders.build.find_pretrained", lambda name: found)
    return state


def test_pretrained_weights_reach_the_vit(weights: dict[str, torch.Tensor]):
    loaded = build_encoder(TINY, pretrained=True).state_dict()
    stored = {key: value for key, value in weights.items() if f"vit.{key}" in loaded}
    assert len(stored) == sum(key.startswith("vit.") for key in loaded)
    assert all(torch.equal(loaded[f"vit.{key}"], value) for key, value in stored.items())


def test_other_sizes_interpolate_the_position_embedding():
    """A ViT made for one size sees where a patch is at any other: moving the image changes more than the place."""
    encoder = build_encoder(TINY, False).eval()
    nn.init.normal_(encoder.vit.pos_embed)
    with torch.no_grad():
        flat = encode(encoder, torch.full((1, 3, 96, 160), 0.5))[2]
    assert flat.std(dim=(2, 3)).min() > 1e-4


@pytest.mark.parametrize(
    ("enc_name", "channels"),
    [
        ("pvt_v2_b0", (32, 64, 160, 256)),
        ("mobilevit_xxs", (16, 24, 48, 64, 320)),
        ("edgenext_xx_small", (24, 48, 88, 168)),
        pytest.param("swin_tiny_patch4_window7_224", (96, 192, 384, 768), marks=pytest.mark.long),
    ],
)
def test_hierarchical_transformers_train_with_their_own_maps(enc_name: str, channels: tuple):
    net = models_zoo.create("depth", enc_name=enc_name, pretrained=False)
    assert not isinstance(net.encoder, ViTPyramid)
    assert feature_spec(net.encoder) == (channels, (2, 4, 8, 16, 32)[-len(channels) :])
    disp = net(torch.rand(1, 3, *SIZE))["disp"]
    assert [tuple(d.shape) for d in disp.values()] == [(1, 1, SIZE[0] >> s, SIZE[1] >> s) for s in range(4)]
    sum(d.square().sum() for d in disp.values()).backward()
    assert without_gradient(net) == []
