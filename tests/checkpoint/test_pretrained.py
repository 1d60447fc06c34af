"""A training starts from weights of other code, as they are or converted, whole or in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models import adapt_input_conv

from tests.checkpoint.test_foreign import PAIR, TINY, assert_equal, from_net, save
from tests.models_zoo.foreign import lightning_checkpoint, monodepth2_folder, torchvision_resnet
from tests.models_zoo.layouts import fill
from tests.models_zoo.litemono_files import encoder_layout
from tests.world import ROOT
from trainer.build import build_objective
from trainer.checkpoint import find_checkpoint, read_pretrained
from trainer.checkpoint.foreign import convert
from trainer.checkpoint.saved import WrongArchitecture
from trainer.config import load_config
from trainer.objective import Objective
from trainer.runtime.errors import UserError


def load_pretrained(objective: Objective, path: Path | str) -> list[str]:
    return read_pretrained(path).start(objective)


def small(*overrides: str, enc_name: str = TINY["enc_name"]) -> Objective:
    """A new objective with the networks of `PAIR`, as a training builds it."""
    folder = ROOT / "cfg/synthetic"
    changes = [f"net.{net}.enc_name={enc_name}" for net in PAIR]
    return build_objective(load_config(folder / "monodepth2_MS.yaml", folder / "default.yaml", [*changes, *overrides]))


STATISTICS = [
    f"net.{net}.{key}=[{value}, {value}, {value}]"
    for net in ("depth", "pose")
    for key, value in (("mean", 0.45), ("std", 0.225))
]


def test_training_starts_from_a_lightning_checkpoint_itself(tmp_path: Path) -> None:
    converted = from_net(PAIR, tmp_path / "x.ckpt")
    converted.save(tmp_path / "x.safetensors")
    for path in (tmp_path / "x.ckpt", tmp_path / "x.safetensors", str(tmp_path / "x.ckpt")):
        objective = small()
        assert load_pretrained(objective, path) == []
        assert_equal(objective, converted.tensors)


@pytest.mark.long
def test_training_starts_from_monodepth2_only_with_its_statistics(tmp_path: Path) -> None:
    monodepth2_folder(tmp_path / "m")
    converted = convert(tmp_path / "m")
    converted.save(tmp_path / "m.safetensors")
    other = small(enc_name="resnet18")
    before = other.state_dict()["networks.depth.encoder.conv1.weight"].clone()
    for path in (tmp_path / "m", tmp_path / "m.safetensors"):
        with pytest.raises(WrongArchitecture) as caught:
            load_pretrained(other, path)
        assert str(caught.value).splitlines()[1:] == [
            "net:",
            "  depth: {mean: [0.45, 0.45, 0.45], std: [0.225, 0.225, 0.225]}",
            "  pose: {mean: [0.45, 0.45, 0.45], std: [0.225, 0.225, 0.225]}",
        ]
        assert torch.equal(other.state_dict()["networks.depth.encoder.conv1.weight"], before)
        objective = small(*STATISTICS, enc_name="resnet18")
        assert load_pretrained(objective, path) == []
        assert_equal(objective, converted.tensors)


def test_networks_missing_from_the_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    converted = from_net({"depth": TINY}, path)
    objective = small()
    pose = objective.state_dict()["networks.pose.squeeze.0.weight"].clone()
    notes = load_pretrained(objective, path)
    assert notes == [f"{path}: net.pose: not in the file; it starts as a new network does"]
    assert_equal(objective, converted.tensors)
    assert torch.equal(objective.state_dict()["networks.pose.squeeze.0.weight"], pose)


def test_other_options_are_an_error_with_the_cause(tmp_path: Path) -> None:
    path = save(lightning_checkpoint({**PAIR, "depth": {**TINY, "dec_name": "cadepth"}}), tmp_path / "x.ckpt")
    with pytest.raises(WrongArchitecture, match=r"was trained with net\.depth: .*dec_name cadepth"):
        load_pretrained(small(), path)


@pytest.mark.parametrize("converted", [False, True])
def test_an_encoder_starts_all_networks_of_its_kind(converted: bool, tmp_path: Path) -> None:
    state = torchvision_resnet("resnet18")
    path = save(state, tmp_path / "x.pth")
    if converted:
        convert(path).save(tmp_path / "x.safetensors")
        path = tmp_path / "x.safetensors"
    objective = small("net.autoencoder={enc_name: resnet18, pretrained: false}", enc_name="resnet18")
    notes = load_pretrained(objective, path)
    nets = [note.removeprefix(f"{path}: ").partition(":")[0] for note in notes]
    assert nets == ["net.depth", "net.pose", "net.autoencoder"]
    loaded = objective.state_dict()
    for net in ("depth", "pose", "autoencoder"):
        for name, tensor in state.items():
            if name not in ("fc.weight", "fc.bias", "conv1.weight"):
                assert torch.equal(loaded[f"networks.{net}.encoder.{name}"], tensor), name
    first = state["conv1.weight"]
    assert torch.equal(loaded["networks.depth.encoder.conv1.weight"], first)
    assert torch.equal(loaded["networks.pose.encoder.conv1.weight"], adapt_input_conv(6, first))
    objective = small("net.depth.enc_name=resnet18")
    assert "net.pose: not in the file" in load_pretrained(objective, path)[1]
    with pytest.raises(WrongArchitecture, match="enc_name resnet18"):
        load_pretrained(small(), path)


def test_the_page_of_litemono_starts_from_the_file_of_its_authors(tmp_path: Path) -> None:
    """Its `pretrained: true` asks for no download then."""
    state = fill(encoder_layout("litemono_tiny"), torch.Generator().manual_seed(0))
    path = save({"model": {**state, "norm.weight": torch.ones(128)}}, tmp_path / "x.pth")
    pose = "net.pose={enc_name: test_resnet, pretrained: false}"
    cfg = load_config("modern/litemono_tiny", "modern/default", [pose])
    assert cfg.net["depth"]["pretrained"]
    objective = build_objective(cfg, given=["depth"])
    notes = load_pretrained(objective, path)
    assert [note.partition("net.")[2].partition(";")[0] for note in notes] == [
        "depth: only encoder is in the file",
        "pose: not in the file",
    ]
    loaded = objective.networks["depth"].encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_what_cannot_start_a_training_is_an_ordinary_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of no known format"):
        load_pretrained(small(), save({"model": {}}, tmp_path / "x.pth"))
    monodepth2_folder(tmp_path / "m", pose=False)
    with pytest.raises(UserError, match=r"weights of other code.*monodepth convert"):
        find_checkpoint(tmp_path / "m")
