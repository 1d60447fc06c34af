"""Published weights of Lite-Mono and NimbleD are recognised by their content, and load without a weight left over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import models_zoo
from models_zoo.weights import is_foreign, read_foreign
from models_zoo.weights.base import UnreadableWeights
from models_zoo.weights.unpickling import names_entry
from tests.models_zoo.layouts import fill
from tests.models_zoo.litemono_files import VARIANTS, encoder_layout, litemono_folder, nimbled_folder
from tests.models_zoo.test_weights import assert_loads, edit, same

TINY = "litemono_tiny"
LEARNS_K = "learn_K" in models_zoo.NETWORKS.parameters("pose")


@pytest.mark.parametrize("variant", [pytest.param(v, marks=[] if v == TINY else pytest.mark.long) for v in VARIANTS])
def test_every_variant_is_known_by_its_shapes(variant: str, tmp_path: Path) -> None:
    files = litemono_folder(tmp_path / "m", variant)
    foreign = read_foreign(tmp_path / "m")
    assert foreign.net == {
        "depth": {
            "enc_name": variant, "pretrained": False, "dec_name": "litemono", "out_scales": [0, 1, 2],
            "mean": [0.45] * 3, "std": [0.225] * 3,
        }
    }  # fmt: skip
    assert_loads(foreign)
    published = {f"depth.encoder.{k}": t for k, t in files["encoder"].items() if isinstance(t, torch.Tensor)}
    published |= {f"depth.decoders.disp.{k}": t for k, t in files["depth"].items()}
    assert foreign.tensors.keys() == published.keys()
    assert all(same(foreign.tensors[name], tensor) for name, tensor in published.items())
    assert len(foreign.dropped["counters of operations"]) == 8
    # No stereo pair, unlike Monodepth2 without pose.pth: predictions would be taken for metric.
    assert foreign.settings["dataset"] == {"size": [640, 192], "supp_idxs": None}
    assert foreign.settings["trainer"] == {"min_depth": 0.1, "max_depth": 100.0}


@pytest.mark.long
def test_a_pose_network_comes_along(tmp_path: Path) -> None:
    files = litemono_folder(tmp_path / "m", pose=True)
    foreign = read_foreign(tmp_path / "m")
    assert foreign.net["pose"]["enc_name"] == "resnet18"
    assert foreign.settings["dataset"]["supp_idxs"] == [-1, 1]
    assert same(foreign.tensors["pose.decoder.2.weight"], files["pose"]["net.3.weight"])
    assert_loads(foreign)


def test_wide_images_mean_large_dilations(tmp_path: Path) -> None:
    litemono_folder(tmp_path / "m", width=1024)
    foreign = read_foreign(tmp_path / "m")
    assert foreign.net["depth"]["enc_options"] == {"dilation": "large"}
    assert any("1024 pixels wide" in note for note in foreign.notes)
    alone = read_foreign(tmp_path / "m" / "encoder.pth")
    assert any("name the folder" in note for note in alone.notes)


@pytest.mark.parametrize("under", ["model", None])
def test_an_encoder_alone(under: str | None, tmp_path: Path) -> None:
    """The weights from ImageNet: `model`, with a classifier after the last stage."""
    state = fill(encoder_layout(TINY), torch.Generator().manual_seed(0))
    head = {"norm.weight": torch.ones(128), "norm.bias": torch.zeros(128), "head.weight": torch.ones(1000, 128)}
    torch.save({under: {**state, **head}} if under else {**state, **head}, tmp_path / "x.pth")
    foreign = read_foreign(tmp_path / "x.pth")
    assert foreign.parts == ("depth.encoder",)
    assert list(foreign.dropped.values()) == [[*head]]
    assert (foreign.net["depth"]["enc_name"], foreign.net["depth"]["dec_name"]) == (TINY, "litemono")
    with torch.device("meta"):
        encoder: Any = models_zoo.create("depth", **foreign.net["depth"]).encoder
    encoder.load_state_dict({k.removeprefix("depth.encoder."): t for k, t in foreign.tensors.items()}, assign=True)
    assert all(same(tensor, state[name]) for name, tensor in encoder.state_dict().items())


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lite-Mono folder, to be read only."""
    path = tmp_path_factory.mktemp("litemono") / "m"
    litemono_folder(path)
    return path


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("depth.pth", None, "a Lite-Mono folder without depth.pth; it has encoder.pth"),
        ("encoder.pth", lambda c: c.pop("stages.2.6.gamma"), r"none of the encoders litemono, .* \(4, 4, 6\) blocks"),
        ("encoder.pth", lambda c: c.update(odd=torch.ones(1)), "1 entries are not of Lite-Mono: odd"),
        ("depth.pth", lambda c: c.update(odd=torch.ones(1)), "1 entries are not of Lite-Mono: odd"),
        ("depth.pth", lambda c: c.update({"decoder.6.conv.weight": torch.ones(1, 24, 3, 3)}), "take 16, 32, 64 channe"),
        ("encoder.pth", lambda c: c.update(author="me"), r"not weights: author \(str\)"),
    ],
)
def test_a_wrong_folder_is_refused(file: str, change: Any, message: str, released: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "m", copy_function=os.link))
    if change is None:
        (folder / file).unlink()
    else:
        edit(folder / file, change)
    with pytest.raises(UnreadableWeights, match=message):
        read_foreign(folder)


def test_names_are_found_in_both_forms_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for legacy in (False, True):
        torch.save({"a.weight": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
        assert names_entry(path, "a.weight")
        assert not names_entry(path, "b.weight")
    path.write_bytes(b"")
    assert not names_entry(path, "a")
    assert not names_entry(tmp_path / "none", "a")


@pytest.mark.parametrize("variant", [pytest.param(None, marks=pytest.mark.long), TINY])
def test_depth_networks_of_nimbled_give_relu_disparity(variant: str | None, tmp_path: Path) -> None:
    files = nimbled_folder(tmp_path / "m", variant)
    assert is_foreign(tmp_path / "m")
    foreign = read_foreign(tmp_path / "m")
    depth = foreign.net["depth"]
    assert (depth["activation"], depth["enc_name"]) == ("relu", variant or "resnet18")
    assert depth["dec_name"] == ("litemono" if variant else "monodepth")
    assert len(foreign.tensors) == len(files["depth_encoder"]) + len(files["depth_decoder"]) - (0 if variant else 2)
    assert_loads(foreign)


@pytest.mark.long
def test_camera_networks_of_nimbled_are_pose_networks_that_learn_intrinsics(tmp_path: Path) -> None:
    files = nimbled_folder(tmp_path / "m", TINY, camera=True)
    foreign = read_foreign(tmp_path / "m")
    assert foreign.net["pose"] == {
        "enc_name": "resnet18", "pretrained": False, "mean": [0.45] * 3, "std": [0.225] * 3, "learn_K": True,
    }  # fmt: skip
    assert foreign.settings["dataset"]["supp_idxs"] == [-1, 1]
    theirs = files["camera_decoder"]
    for ours, name in (("decoder", "pose"), ("focal", "focal"), ("centre", "center")):
        for layer, position in (("0.0", 0), ("1.0", 2), ("2", 4)):
            assert same(foreign.tensors[f"pose.{ours}.{layer}.weight"], theirs[f"{name}_decoder.{position}.weight"])
    assert same(foreign.tensors["pose.squeeze.0.bias"], theirs["squeeze.0.bias"])
    if LEARNS_K:
        assert_loads(foreign)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("depth_decoder", "without depth_decoder.pth; it has depth_enc"),
        ("camera_encoder", "without camera_encoder.pth"),
    ],
)
def test_an_incomplete_nimbled_folder_is_refused(lost: str, message: str, tmp_path: Path) -> None:
    for name in {"depth_encoder", "depth_decoder", "camera_encoder", "camera_decoder"} - {lost}:
        (tmp_path / f"{name}.pth").touch()
    with pytest.raises(UnreadableWeights, match=message):
        read_foreign(tmp_path)
