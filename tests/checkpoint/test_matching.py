"""Weights of a file are matched with those of the networks that are built: by name and shape, in parts or whole."""

from __future__ import annotations

import torch

import models_zoo
from trainer.checkpoint.matching import compare, fit, wrong_statistics


def test_an_encoder_is_handed_to_networks_of_its_kind() -> None:
    saved = {"depth.encoder.conv1.weight": torch.arange(6.0).view(2, 3, 1, 1), "depth.encoder.bn1.bias": torch.ones(2)}
    built = {
        "depth.encoder.conv1.weight": torch.zeros(2, 3, 1, 1),
        "depth.encoder.bn1.bias": torch.zeros(2),
        "depth.decoder.bias": torch.zeros(1),
        "pose.encoder.conv1.weight": torch.zeros(2, 6, 1, 1),
        "pose.encoder.bn1.bias": torch.zeros(2),
        "autoencoder.encoder.conv1.weight": torch.zeros(2, 3, 1, 1),
        "autoencoder.encoder.bn1.bias": torch.zeros(3),
    }
    found = fit(saved, built, ("depth.encoder",))
    assert found.wrong == {}
    first = found.tensors["pose.encoder.conv1.weight"]
    assert first[0].flatten().tolist() == [0, 0.5, 1, 0, 0.5, 1]
    assert not any(name.startswith("autoencoder") for name in found.tensors)
    assert [note.partition(";")[0] for note in found.notes] == [
        "net.depth: only encoder is in the file",
        "net.pose: its encoder starts from the one in the file, the rest from random numbers",
        "net.autoencoder: not in the file",
    ]
    wide = {**built, "depth.encoder.bn1.bias": torch.zeros(5)}
    assert fit(saved, wide, ("depth.encoder",)).wrong == {
        "depth.encoder.bn1.bias": "(2,) in the file, (5,) in the network"
    }


def test_networks_that_the_file_lacks_keep_what_they_have() -> None:
    built = {"depth.a": torch.zeros(1), "pose.a": torch.zeros(1)}
    found = fit({"depth.a": torch.ones(1)}, built)
    assert (found.wrong, list(found.tensors)) == ({}, ["depth.a"])
    assert found.notes == ["net.pose: not in the file; it starts as a new network does"]
    assert fit({"depth.b": torch.ones(1)}, built).wrong.keys() == {"depth.a", "depth.b"}
    assert fit({}, built).wrong.keys() == built.keys()
    assert fit({"other.a": torch.ones(1)}, {"depth.a": torch.zeros(1)}).wrong.keys() == {"depth.a", "other.a"}


def test_other_statistics_of_images_are_reported_with_the_lines_to_write() -> None:
    networks = {"depth": models_zoo.create("depth", enc_name="test_resnet", pretrained=False)}
    net = {name: {"mean": [0.45] * 3, "std": [0.225] * 3} for name in ("depth", "pose")}
    assert wrong_statistics(networks, net).endswith(
        "Write in the YAML:\nnet:\n  depth: {mean: [0.45, 0.45, 0.45], std: [0.225, 0.225, 0.225]}"
    )
    assert wrong_statistics(networks, {"depth": {"mean": [0.485, 0.456, 0.406]}}) == ""
    assert wrong_statistics(networks, net, ("depth.encoder",)) == ""


def test_what_only_one_side_has_is_listed() -> None:
    assert compare({"a": torch.ones(1)}, {"b": torch.ones(2)}) == {
        "b": "nothing in the file, (2,) in the network",
        "a": "(1,) in the file, nothing in the network",
    }


def test_a_pose_network_may_start_to_learn_the_camera_or_stop_to() -> None:
    heads = {f"pose.{head}.2.bias": torch.zeros(2) for head in ("focal", "centre")}
    plain = {"pose.decoder.2.bias": torch.ones(12), "depth.a": torch.ones(1)}
    for saved, built, note in (
        (plain, plain | heads, "net.pose: no head for the camera in the file"),
        (plain | heads, plain, "net.pose: the learned camera is left out"),
    ):
        found = fit(saved, built)
        assert (found.wrong, found.tensors.keys()) == ({}, plain.keys())
        assert [text.partition(";")[0] for text in found.notes] == [note]
    assert fit(plain | heads, plain | heads).tensors.keys() == (plain | heads).keys()
    assert fit({"depth.a": torch.ones(1)}, plain | heads).notes == [
        "net.pose: not in the file; it starts as a new network does"
    ]
