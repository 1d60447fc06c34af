"""Encoders: their features, refused models, and where pretrained weights come from."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

import models_zoo
from models_zoo import pretrained
from models_zoo.encoders.build import build_encoder, current_name, encode, feature_spec

TINY = "test_resnet"  # timm's own test model, 0.5 M parameters


@pytest.mark.parametrize(
    ("enc_name", "channels"),
    [
        ("resnet18", (64, 64, 128, 256, 512)),
        ("mobilenetv3_small_050", (16, 8, 16, 24, 288)),
        ("convnext_atto", (40, 80, 160, 320)),
        ("swin_tiny_patch4_window7_224", (96, 192, 384, 768)),  # channels last, made for 224 x 224
        ("mambaout_femto", (48, 96, 192, 288)),  # channels last
    ],
)
def test_features_are_channel_first_at_their_strides(enc_name: str, channels: tuple[int, ...]):
    encoder = build_encoder(enc_name, pretrained=False).eval()
    with torch.no_grad():
        feats = encode(encoder, torch.rand(1, 3, 64, 96))
    strides = feature_spec(encoder).reductions
    assert strides == (2, 4, 8, 16, 32)[-len(channels) :]
    expected = [(1, c, 64 // r, 96 // r) for c, r in zip(channels, strides, strict=True)]
    assert [tuple(f.shape) for f in feats] == expected


def test_a_replaced_name_still_works():
    assert feature_spec(build_encoder("mobilenetv3_small_050.lamb_in1k", False)).channels[-1] == 288
    with pytest.raises(ValueError, match="is not a model"):
        build_encoder("ssl_resnext101_32x8", False)
    assert current_name("ssl_resnext101_32x8d") == "resnext101_32x8d.fb_ssl_yfcc100m_ft_in1k"


def test_a_model_without_feature_maps_is_refused(monkeypatch: pytest.MonkeyPatch):
    def no_features(*_: object, **__: object) -> None:
        raise RuntimeError("features_only not implemented\nfor this model")

    monkeypatch.setattr(timm, "create_model", no_features)
    with pytest.raises(ValueError, match=r"cannot give feature maps .*\(RuntimeError: features_only not impl"):
        build_encoder(TINY, pretrained=False)


def test_a_size_that_the_encoder_refuses_is_named():
    encoder = build_encoder("maxvit_tiny_tf_224", pretrained=False)
    with pytest.raises(ValueError, match=r"does not take \(64, 96\) \(h, w\) images: .*window"):
        encode(encoder, torch.rand(1, 3, 64, 96))


def test_maps_of_another_size_are_refused():
    encoder = build_encoder("inception_v3", False).eval()
    with torch.no_grad(), pytest.raises(ValueError, match="stride 2 calls for"):
        encode(encoder, torch.rand(1, 3, 128, 128))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache and a hub that does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


@pytest.mark.parametrize("network", ["depth", "pose"])
def test_unreachable_weights_are_reported_with_reason_and_remedies(network: str, empty_cache: Path):
    with pytest.raises(models_zoo.PretrainedUnavailable) as refusal:
        models_zoo.create(network, enc_name="resnet18", pretrained=True)
    message = str(refusal.value)
    for part in (
        "resnet18.a1_in1k (huggingface.co/timm/resnet18.a1_in1k)",
        "http://127.0.0.1:9 cannot be reached",
        "timm.create_model('resnet18.a1_in1k', pretrained=True)",
        str(empty_cache),
        "HF_HOME",
        "pretrained: false",
        "trainer.load_ckpt",
    ):
        assert part in message


def test_offline_mode_is_named(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(models_zoo.PretrainedUnavailable, match="HF_HUB_OFFLINE=1 forbids the network"):
        build_encoder("resnet18", pretrained=True)


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch):
    hang = threading.Event()
    monkeypatch.setattr(pretrained, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(pretrained, "_knock", lambda url: hang.wait(10) or None)
    assert pretrained.why_silent("https://huggingface.co") == "no answer within 0.05 s"
    hang.set()


def test_a_model_that_nobody_trained_names_its_trained_kin():
    untrained = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(models_zoo.PretrainedUnavailable, match=f"no pretrained weights for '{untrained}'"):
        build_encoder(untrained, pretrained=True)


def fill_cache(cache: Path, enc_name: str, state: dict[str, torch.Tensor]) -> None:
    """Write weights into a Hugging Face cache as a download would."""
    repo = cache / f"models--{timm.get_pretrained_cfg(enc_name).hf_hub_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, repo / "snapshots" / "abc" / "model.safetensors")


def test_cached_weights_need_no_network(empty_cache: Path):
    state = timm.create_model(TINY).state_dict()
    fill_cache(empty_cache, TINY, state)
    encoder = build_encoder(TINY, pretrained=True)
    assert torch.equal(encoder.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_six_channels_share_the_cached_filters(empty_cache: Path):
    state = timm.create_model(TINY).state_dict()
    fill_cache(empty_cache, TINY, state)
    filters = build_encoder(TINY, pretrained=True, in_chans=6).state_dict()["conv1.0.weight"]
    assert torch.allclose(filters[:, :3], state["conv1.0.weight"] / 2)
    assert torch.equal(filters[:, :3], filters[:, 3:])


def test_broken_cached_weights_are_not_replaced_by_random_ones(empty_cache: Path):
    fill_cache(empty_cache, TINY, {"conv1.0.weight": torch.zeros(1)})
    with pytest.raises(models_zoo.PretrainedUnavailable, match=r"cannot be loaded: .*Error"):
        build_encoder(TINY, pretrained=True)


@pytest.mark.parametrize("enc_name", ["test_resnet", "regnetx_002", "resnetv2_50"])
def test_residual_branches_take_part_from_the_start(enc_name: str):
    assert not silent(build_encoder(enc_name, pretrained=False))


def test_branches_are_silent_on_demand():
    assert len(silent(build_encoder("test_resnet", pretrained=False, options={"zero_init_last": True}))) > 1


def silent(encoder: nn.Module) -> list[str]:
    return [name for name, p in encoder.named_parameters() if name.endswith("weight") and not p.any()]
