"""A training starts from weights of other code, as they are or converted, whole or in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models_zoo.foreign import lightning_checkpoint, monodepth2_folder, torchvision_resnet
from tests.world import ROOT
from trainer.build import build_objective
from trainer.checkpoint import (
    WrongArchitecture,
    find_checkpoint,
    load_pretrained,
)
from trainer.checkpoint.foreign import Converted, convert
from trainer.config import load_config
from trainer.objective import Objective
from trainer.runtime.errors import UserError

PAIR = {"depth": {"enc_name": "resnet18"}, "pose": {"enc_name": "resnet18"}}
HINTS = {"img_recon": {"weight": 1}, "depth_regr": {"weight": 1, "loss_name": "log_l1", "use_automask": True}}


def save(content: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def from_net(net: dict[str, Any], path: Path, **options: Any) -> Converted:
    return convert(save(lightning_checkpoint(net, **options), path))


def small(*overrides: str) -> Objective:
    """A new objective with the networks of `PAIR`, as a training builds it."""
    folder = ROOT / "cfg/synthetic"
    return build_objective(load_config(folder / "monodepth2_MS.yaml", folder / "default.yaml", overrides))


STATISTICS = [
    f"net.{net}.{key}=[{value}, {value}, {value}]"
    for net in ("depth", "pose")
    for key, value in (("mean", 0.45), ("std", 0.225))
]


def assert_equal(objective: Objective, tensors: dict[str, Tensor], *prefixes: str) -> None:
    state = objective.state_dict()
    names = [name for name in tensors if name.startswith(prefixes or "networks.")]
    assert names
    assert all(torch.equal(state[name], tensors[name]) for name in names)


def test_training_starts_from_a_lightning_checkpoint_itself(tmp_path: Path) -> None:
    converted = from_net(PAIR, tmp_path / "x.ckpt")
    converted.save(tmp_path / "x.safetensors")
    for path in (tmp_path / "x.ckpt", tmp_path / "x.safetensors", str(tmp_path / "x.ckpt")):
        objective = small()
        assert load_pretrained(objective, path) == []
        assert_equal(objective, converted.tensors)


def test_training_starts_from_monodepth2_only_with_its_statistics(tmp_path: Path) -> None:
    monodepth2_folder(tmp_path / "m")
    converted = convert(tmp_path / "m")
    converted.save(tmp_path / "m.safetensors")
    for path in (tmp_path / "m", tmp_path / "m.safetensors"):
        objective = small()
        before = objective.state_dict()["networks.depth.encoder.conv1.weight"].clone()
        with pytest.raises(WrongArchitecture) as caught:
            load_pretrained(objective, path)
        assert str(caught.value).splitlines()[1:] == [
            "net:",
            "  depth: {mean: [0.45, 0.45, 0.45], std: [0.225, 0.225, 0.225]}",
            "  pose: {mean: [0.45, 0.45, 0.45], std: [0.225, 0.225, 0.225]}",
        ]
        assert torch.equal(objective.state_dict()["networks.depth.encoder.conv1.weight"], before)
        objective = small(*STATISTICS)
        assert load_pretrained(objective, path) == []
        assert_equal(objective, converted.tensors)


def test_networks_that_are_not_in_the_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    converted = from_net({"depth": {"enc_name": "resnet18"}}, path)
    objective = small()
    pose = objective.state_dict()["networks.pose.squeeze.0.weight"].clone()
    notes = load_pretrained(objective, path)
    assert notes == [f"{path}: net.pose: not in the file; it starts as a new network does"]
    assert_equal(objective, converted.tensors)
    assert torch.equal(objective.state_dict()["networks.pose.squeeze.0.weight"], pose)


def test_other_options_are_an_error_with_the_cause(tmp_path: Path) -> None:
    path = save(lightning_checkpoint({**PAIR, "depth": {"dec_name": "cadepth"}}), tmp_path / "x.ckpt")
    with pytest.raises(WrongArchitecture, match=r"was trained with net\.depth: .*dec_name cadepth"):
        load_pretrained(small(), path)


@pytest.mark.parametrize("converted", [False, True])
def test_an_encoder_starts_all_networks_of_its_kind(converted: bool, tmp_path: Path) -> None:
    state = torchvision_resnet("resnet18")
    path = save(state, tmp_path / "x.pth")
    if converted:
        convert(path).save(tmp_path / "x.safetensors")
        path = tmp_path / "x.safetensors"
    objective = small("net.autoencoder={enc_name: resnet18, pretrained: false}")
    notes = load_pretrained(objective, path)
    told = [note.removeprefix(f"{path}: ").partition(":")[0] for note in notes]
    assert told == ["net.depth", "net.pose", "net.autoencoder"]
    loaded = objective.state_dict()
    for net in ("depth", "pose", "autoencoder"):
        for name, tensor in state.items():
            if name not in ("fc.weight", "fc.bias", "conv1.weight"):
                assert torch.equal(loaded[f"networks.{net}.encoder.{name}"], tensor), name
    first = state["conv1.weight"]
    assert torch.equal(loaded["networks.depth.encoder.conv1.weight"], first)
    assert torch.equal(loaded["networks.pose.encoder.conv1.weight"], torch.cat([first, first], 1) / 2)
    objective = small("net.pose.enc_name=resnet34")
    assert "net.pose: not in the file" in load_pretrained(objective, path)[1]
    with pytest.raises(WrongArchitecture, match="enc_name resnet18"):
        load_pretrained(small("net.depth.enc_name=resnet34"), path)


def test_pose_filters_are_adapted_as_timm_does(tmp_path: Path) -> None:
    from timm.models import adapt_input_conv

    state = torchvision_resnet("resnet18")
    objective = small()
    load_pretrained(objective, save(state, tmp_path / "x.pth"))
    expected = adapt_input_conv(6, state["conv1.weight"])
    assert torch.allclose(
        objective.state_dict()["networks.pose.encoder.conv1.weight"], expected, rtol=0, atol=0
    )


def test_what_cannot_start_a_training_is_an_ordinary_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of no known format"):
        load_pretrained(small(), save({"model": {}}, tmp_path / "x.pth"))
    monodepth2_folder(tmp_path / "m")
    with pytest.raises(UserError, match=r"weights of other code.*launch/convert\.py"):
        find_checkpoint(tmp_path / "m")
