"""Depth Anything and DINOv2: folders of transformers and files of the authors predict here what they predict there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models_zoo
from models_zoo.weights import is_foreign, read_foreign
from models_zoo.weights.base import ForeignWeights, MissingSettings, UnreadableWeights
from tests.models_zoo.depth_anything import VIT, as_authors, as_folder, depth_anything, shaken

SIZES = ((70, 70), (42, 140), (112, 84), (28, 28))  # that of its training, and others, not square


def network(foreign: ForeignWeights) -> Any:
    """The depth network with its weights, all of them."""
    net = models_zoo.create("depth", **foreign.net["depth"]).eval()
    net.load_state_dict({name.removeprefix("depth."): tensor for name, tensor in foreign.tensors.items()})
    return net


def assert_same(net: Any, model: Any, sizes: tuple[tuple[int, int], ...] = SIZES, metric: bool = False) -> None:
    """Both predict the same to 1e-5, relative to values of about 2."""
    for size in sizes:
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            theirs = model(net.standardise(images)).predicted_depth
            ours = net(images)["disp"][0][:, 0]
        assert theirs.std() > 0.02
        assert torch.allclose(1 / ours if metric else ours, theirs / model.config.max_depth, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def model() -> Any:
    return depth_anything()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(model, tmp_path_factory.mktemp("depth_anything"))


def test_a_folder_predicts_what_transformers_predicts(model: Any, folder: Path):
    assert is_foreign(folder)
    foreign = read_foreign(folder)
    assert_same(network(foreign), model)
    assert foreign.dropped == {
        "the mask token of the pre-training, which no prediction uses": ["backbone.embeddings.mask_token"]
    }
    depth = foreign.net["depth"]
    assert depth["enc_options"] == {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 70}
    assert depth["dec_options"] == {"neck": [8, 12, 16, 24], "fusion": 16, "hidden": 8}
    assert (depth["activation"], depth["out_scales"], "taps" in depth) == ("relu", [0], False)
    assert foreign.settings == {"dataset": {"size": [70, 70]}}
    assert any("up to scale and shift" in note for note in foreign.notes)


def test_metric_networks_other_taps_and_no_biases(tmp_path: Path):
    vit = {"num_hidden_layers": 6, "out_indices": [2, 3, 4, 5], "qkv_bias": False, "mlp_ratio": 2}
    model = depth_anything(vit, depth_estimation_type="metric", max_depth=80)
    model.head.conv3.bias.data.zero_()
    foreign = read_foreign(as_folder(model, tmp_path))
    unread = [name for name in foreign.tensors if ".blocks.5." in name]
    assert (foreign.net["depth"]["taps"], foreign.net["depth"]["activation"], unread) == ([1, 2, 3, 4], "metric", [])
    assert "blocks after the last one that is read" in foreign.dropped
    assert foreign.settings["trainer"] == {"max_depth": 80.0}
    assert_same(network(foreign), model, SIZES[:2], metric=True)


def test_gated_mlps_of_the_giant(tmp_path: Path):
    model = depth_anything({"use_swiglu_ffn": True})
    foreign = read_foreign(as_folder(model, tmp_path))
    assert foreign.net["depth"]["enc_name"] == "vit_giant_patch14_dinov2"
    assert_same(network(foreign), model, SIZES[:2])


def test_a_file_of_the_authors_is_the_same_network(folder: Path, tmp_path: Path):
    state = as_authors(load_file(folder / "model.safetensors"))
    torch.save(state, tmp_path / "depth_anything_v2_tiny.pth")
    with pytest.raises(MissingSettings, match=r"does not say the number of attention heads.*32 wide"):
        read_foreign(tmp_path / "depth_anything_v2_tiny.pth")
    heads = {"net": {"depth": {"enc_options": {"num_heads": 2}}}}
    theirs, ours = read_foreign(tmp_path / "depth_anything_v2_tiny.pth", heads), read_foreign(folder)
    assert theirs.net == ours.net
    assert theirs.tensors.keys() == ours.tensors.keys()
    assert all(torch.equal(theirs.tensors[name], tensor) for name, tensor in ours.tensors.items())
    assert list(theirs.dropped.values()) == [["pretrained.mask_token"]]


@pytest.mark.long
def test_names_of_files_tell_the_version_and_the_unit(folder: Path, tmp_path: Path):
    state, heads = as_authors(load_file(folder / "model.safetensors")), {"enc_options": {"num_heads": 2}}
    notes = {}
    for name in ("depth_anything_vits14", "depth_anything_v2_metric_vkitti_vits"):
        torch.save(state, tmp_path / f"{name}.pth")
        foreign = read_foreign(tmp_path / f"{name}.pth", {"net": {"depth": heads}})
        notes[foreign.net["depth"]["activation"]] = " ".join(foreign.notes)
    assert "Depth Anything V1, whose head reads the last four blocks" in notes["relu"]
    assert "a metric network up to 80 m" in notes["metric"]


def test_dinov2_alone_becomes_an_encoder(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="of the extra `export`")
    model = shaken(transformers.Dinov2Model(transformers.Dinov2Config(**VIT)))
    as_folder(model, tmp_path)
    foreign = read_foreign(tmp_path)
    assert (foreign.parts, foreign.net["depth"]["dec_name"]) == (("depth.encoder",), "dpt")
    net = models_zoo.create("depth", **foreign.net["depth"], taps=[0, 1, 2, 3]).eval()
    state = {name.removeprefix("depth.encoder."): tensor for name, tensor in foreign.tensors.items()}
    net.encoder.load_state_dict(state)
    images = torch.rand(1, 3, 42, 84)
    with torch.no_grad():
        theirs = model(net.standardise(images)).last_hidden_state[:, 1:]
        ours = net(images)["depth_feats"][-1].flatten(2).mT
    assert torch.allclose(ours, theirs, atol=1e-5)

    pyramid = read_foreign(tmp_path, {"net": {"depth": {"dec_name": "monodepth"}}})
    assert pyramid.parts == ("depth.encoder.vit",)
    net = models_zoo.create("depth", **pyramid.net["depth"])
    state = {name.removeprefix("depth.encoder.vit."): tensor for name, tensor in pyramid.tensors.items()}
    net.encoder.vit.load_state_dict(state)


def test_registers(tmp_path: Path):
    """The position of the class token becomes part of it. With registers transformers antialiases, as timm does."""
    transformers = pytest.importorskip("transformers", reason="of the extra `export`")
    config = transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=4)
    model = shaken(transformers.Dinov2WithRegistersModel(config))
    foreign = read_foreign(as_folder(model, tmp_path))
    assert foreign.net["depth"]["enc_name"] == "vit_small_patch14_reg4_dinov2"
    net = models_zoo.create("depth", **foreign.net["depth"]).eval()
    net.encoder.load_state_dict({k.removeprefix("depth.encoder."): tensor for k, tensor in foreign.tensors.items()})
    for size in SIZES:
        images = torch.rand(1, 3, *size)
        with torch.no_grad():
            theirs = model(net.standardise(images)).last_hidden_state[:, 5:]
            ours = net(images)["depth_feats"][-1].flatten(2).mT
        assert torch.allclose(ours, theirs, atol=2e-5)


def changed(folder: Path, to: Path, **settings: Any) -> Path:
    """Copy a folder with other settings, those with None removed; `weights` changes the tensors."""
    to.mkdir()
    weights = settings.pop("weights", lambda state: state)
    config = json.loads((folder / "config.json").read_text()) | settings
    (to / "config.json").write_text(json.dumps(config))
    save_file(weights(load_file(folder / "model.safetensors")), to / "model.safetensors")
    return to


def test_a_pickle_and_an_old_config_are_read(folder: Path, tmp_path: Path):
    old = changed(folder, tmp_path / "old", max_depth=None, depth_estimation_type=None)
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    ours, theirs = read_foreign(old), read_foreign(folder)
    assert ours.net == theirs.net
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in theirs.tensors.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_in_index": 0}, "head_in_index is 0; only -1 is supported"),
        ({"reassemble_factors": [1, 1, 1, 1]}, "reassemble_factors is .* only"),
        ({"max_depth": "far"}, "max_depth is 'far'; a number of metres"),
        (
            {"weights": lambda state: {**state, "neck.extra": torch.ones(1)}},
            "1 entries belong to no network: neck.extra",
        ),
        (
            {"weights": lambda state: {k: t for k, t in state.items() if ".1.attention.attention.key.w" not in k}},
            "attn.qkv.weight cannot be made: attention.attention.key.weight of the same layer is missing",
        ),
        ({"weights": lambda state: {k: t for k, t in state.items() if "cls_token" not in k}}, "it lacks cls_token"),
        ({"weights": lambda state: {k: t for k, t in state.items() if "conv3" not in k}}, "no head of Depth Anything"),
    ],
    ids=["head", "factors", "depth", "left over", "half", "no token", "no head"],
)
def test_what_is_unclear_is_refused(change: dict, message: str, folder: Path, tmp_path: Path):
    with pytest.raises(UnreadableWeights, match=message):
        read_foreign(changed(folder, tmp_path / "x", **change))
