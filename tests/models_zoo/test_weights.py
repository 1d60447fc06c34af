"""Published weights are recognised, renamed bit by bit, and refused when anything is unclear."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import models_zoo
from models_zoo.weights import FORMATS, is_foreign, read_foreign, unpickling
from models_zoo.weights.aliases import ALIASES
from models_zoo.weights.base import ForeignWeights, MissingSettings, UnreadableWeights, listed
from models_zoo.weights.torchvision import RESNETS, architecture
from tests.models_zoo.foreign import lightning_checkpoint, monodepth2_folder, torchvision_resnet

SMALL = "test_resnet"
DEPTH: dict[str, Any] = {"depth": {"enc_name": SMALL}}
DECODERS = ("monodepth", "hrdepth", "cadepth", "diffnet", "superdepth", "ddvnet")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two_scales": {"out_scales": [3, 0]},
    "one_scale": {"out_scales": 0},
    "mask": {"mask_name": "explainability", "num_ch_mask": 2},
    "four_levels_virtual_stereo": {"enc_name": "test_convnext", "use_virtual_stereo": True, "use_stereo_blend": True},
}


def save(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpickle in this process, as elsewhere than on Linux, for tests of what is read: a fork of it takes longer.

    `test_what_weights_files_hold_survives` shows that a fork reads the same.
    """
    monkeypatch.setattr(unpickling, "sys", SimpleNamespace(platform="other"))


def assert_loads(foreign: ForeignWeights) -> dict[str, Any]:
    """Every weight has its place in networks built from the options of the file, bit for bit."""
    with torch.device("meta"):  # where nothing is initialised
        networks = {name: models_zoo.create(name, **options) for name, options in foreign.net.items()}
    for name, network in networks.items():
        own = {k.removeprefix(f"{name}."): t for k, t in foreign.tensors.items() if k.startswith(f"{name}.")}
        network.load_state_dict(own, assign=True)
        loaded = network.state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in own.items())
    return networks


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("dec_name", "variant"),
    [(d, v) for d in DECODERS for v in VARIANTS if (d, v) != ("ddvnet", "mask")],  # ddvnet predicts none
)
def test_every_decoder_of_the_benchmark_is_renamed_without_loss(dec_name: str, variant: str, tmp_path: Path) -> None:
    options = {"dec_name": dec_name, "enc_name": SMALL, **VARIANTS[variant]}
    content = lightning_checkpoint({"depth": options})
    foreign = read_foreign(save(content, tmp_path / "best.ckpt"))
    assert_loads(foreign)
    state = content["state_dict"]
    for name, tensor in foreign.tensors.items():
        assert same(tensor, state[f"nets.{name}"]), name
    left = {name.removeprefix("nets.") for name in state if name.startswith("nets.")} - set(foreign.tensors)
    dropped = {name.removeprefix("nets.") for names in foreign.dropped.values() for name in names}
    assert left <= dropped, "something disappears without a report"


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize("dec_name", sorted(ALIASES))
@pytest.mark.parametrize("kept", ["convs", "decoder"])
@pytest.mark.parametrize("out_scales", [[0, 1, 2, 3], [2, 0]])
def test_weights_stored_under_one_of_two_names_are_enough(
    dec_name: str, kept: str, out_scales: list[int], tmp_path: Path
) -> None:
    options = {"dec_name": dec_name, "out_scales": out_scales, "enc_name": SMALL}
    content = lightning_checkpoint({"depth": options})
    both = read_foreign(save(content, tmp_path / "both.ckpt")).tensors
    lost = {"convs": ".disp.decoder.", "decoder": ".disp.convs."}[kept]
    content["state_dict"] = {k: t for k, t in content["state_dict"].items() if lost not in k}
    one = read_foreign(save(content, tmp_path / "one.ckpt")).tensors
    assert one.keys() == both.keys()
    assert all(same(one[name], both[name]) for name in both)


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize("dec_name", sorted(ALIASES))
def test_two_names_with_different_weights_are_refused(dec_name: str, tmp_path: Path) -> None:
    content = lightning_checkpoint({"depth": {"enc_name": SMALL, "dec_name": dec_name}})
    name = next(k for k in content["state_dict"] if ".disp.decoder.4." in k)
    content["state_dict"][name] = content["state_dict"][name] + 1
    with pytest.raises(UnreadableWeights, match=r"two different weights .*decoder\.4\..* and .*convs\."):
        read_foreign(save(content, tmp_path / "x.ckpt"))


def test_trained_bins_are_loaded_as_stored(tmp_path: Path) -> None:
    content = lightning_checkpoint({"depth": {"enc_name": SMALL, "dec_name": "ddvnet"}})
    bins = content["state_dict"]["nets.depth.decoders.disp.bins"]
    assert not torch.equal(bins, torch.arange(128).view(1, 128, 1, 1) / 128)
    depth = assert_loads(read_foreign(save(content, tmp_path / "x.ckpt")))["depth"]
    assert torch.equal(depth.decoders["disp"].bins, bins)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("successor", [False, True])
def test_all_three_networks_of_both_generations(successor: bool, compiled: bool, tmp_path: Path) -> None:
    small = {"enc_name": SMALL} if compiled or successor else {}
    pose = {"learn_K": False, **small} if successor else small
    net = {"depth": small, "pose": pose, "autoencoder": {"dec_name": "diffnet", "enc_name": SMALL}}
    content = lightning_checkpoint(net, successor=successor, compiled=compiled)
    foreign = read_foreign(save(content, tmp_path / "x.ckpt"))
    assert_loads(foreign)
    assert list(foreign.net) == ["depth", "pose", "autoencoder"]
    assert (foreign.epoch, foreign.step) == (29, 149_250)
    assert foreign.settings["loss"]["disp_smooth"] == {"weight": 0.001, "use_edges": True}
    assert foreign.settings["trainer"]["legacy_sampling"] is True
    head = "decoders.pose" if successor else "decoder"
    stored = content["state_dict"][f"nets.pose.{head}.2.weight"]
    assert same(foreign.tensors["pose.decoder.2.weight"], stored)


def test_learned_intrinsics_come_with_the_pose_network(tmp_path: Path) -> None:
    content = lightning_checkpoint({**DEPTH, "pose": {"learn_K": True, "enc_name": SMALL}}, successor=True)
    foreign = read_foreign(save(content, tmp_path / "x.ckpt"))
    assert assert_loads(foreign)["pose"].learn_K
    for theirs, ours in (("focal", "focal"), ("offset", "centre")):
        for layer in ("0.0", "1.0", "2"):
            stored = content["state_dict"][f"nets.pose.decoders.{theirs}.{layer}.weight"]
            assert same(foreign.tensors[f"pose.{ours}.{layer}.weight"], stored)


def test_dead_and_foreign_entries_are_dropped_with_a_reason(tmp_path: Path) -> None:
    losses = {"img_recon": {"weight": 1}, "disp_occ": {"weight": 0.01}}
    content = lightning_checkpoint({"depth": {"enc_name": SMALL, "dec_name": "hrdepth"}}, losses=losses)
    content["state_dict"]["metrics.abs_rel"] = torch.tensor(0.1)
    dropped = read_foreign(save(content, tmp_path / "x.ckpt")).dropped
    counts = {reason: len(names) for reason, names in dropped.items()}
    assert counts == {
        "weights of the losses, which become settings": 2,
        "the insides of losses, rebuilt from the settings": 1,
        "the pixel grid of the training size": 2,
        "states of metrics": 1,
        "second names of weights of hrdepth": 71,
        "layers of hrdepth that no output depends on": 8,
    }
    content = lightning_checkpoint({"depth": {"enc_name": SMALL, "dec_name": "diffnet", "out_scales": [0]}})
    dropped = read_foreign(save(content, tmp_path / "x.ckpt")).dropped
    assert len(dropped["layers of diffnet that no output depends on"]) == 6


def test_entries_without_a_network_are_listed(tmp_path: Path) -> None:
    content = lightning_checkpoint(DEPTH)
    content["state_dict"] |= {f"ema.{i}": torch.ones(1) for i in range(50)}
    with pytest.raises(UnreadableWeights) as caught:
        read_foreign(save(content, tmp_path / "x.ckpt"))
    assert "50 entries belong to no network: ema.0, ema.1" in str(caught.value)
    assert str(caught.value).endswith("ema.39 and 10 more")


def test_a_network_of_the_settings_without_weights_is_refused(tmp_path: Path) -> None:
    content = lightning_checkpoint(DEPTH)
    content["hyper_parameters"]["cfg"]["net"] |= {"pose": {}, "autoencoder": None}
    with pytest.raises(UnreadableWeights, match=r"name net\.pose, but it has no weights"):
        read_foreign(save(content, tmp_path / "x.ckpt"))


def test_settings_may_be_missing_if_they_are_given(tmp_path: Path) -> None:
    content = lightning_checkpoint({"depth": {"enc_name": SMALL, "dec_name": "cadepth"}, "pose": {}})
    del content["hyper_parameters"]
    path = save(content, tmp_path / "x.ckpt")
    with pytest.raises(MissingSettings, match=r"hparams\.yaml of its run"):
        read_foreign(path)
    foreign = read_foreign(path, {"net": {"depth": {"enc_name": SMALL, "dec_name": "cadepth"}}})
    assert_loads(foreign)
    assert any("settings lack net.pose" in note for note in foreign.notes)


def test_differences_of_that_code_are_noted(tmp_path: Path) -> None:
    content = lightning_checkpoint({"depth": {"enc_name": SMALL, "use_stereo_blend": True}})
    content["hyper_parameters"]["cfg"]["trainer"] |= {"always_fwd_pose": False, "min_depth": None, "max_depth": None}
    notes = " ".join(read_foreign(save(content, tmp_path / "x.ckpt")).notes)
    for word in ("use_stereo_blend", "always_fwd_pose", "1 / disparity", "legacy_sampling"):
        assert word in notes


@pytest.mark.parametrize(
    ("options", "supports", "networks"),
    [
        ({"stereo": False}, [-1, 1], ["depth", "pose"]),
        ({"stereo": True, "pose": False}, [0], ["depth"]),
        pytest.param({"enc_name": "resnet50", "pose": False, "legacy": False}, [0], ["depth"], marks=pytest.mark.long),
        ({"mask_channels": 3}, [-1, 1, 0], ["depth", "pose"]),
    ],
    ids=["mono", "stereo", "resnet50", "mono+stereo with a mask"],
)
def test_monodepth2_folders(options: dict[str, Any], supports: list[int], networks: list[str], tmp_path: Path) -> None:
    monodepth2_folder(tmp_path / "m", **options)
    foreign = read_foreign(tmp_path / "m")
    assert list(assert_loads(foreign)) == networks
    assert foreign.settings["dataset"]["supp_idxs"] == supports
    assert foreign.settings["dataset"]["size"] == [640, 192]
    for name in networks:
        assert foreign.net[name]["enc_name"] == options.get("enc_name", "resnet18")
        assert (foreign.net[name]["mean"], foreign.net[name]["std"]) == ([0.45] * 3, [0.225] * 3)
    files = {name: torch.load(tmp_path / "m" / f"{name}.pth", weights_only=True) for name in ("encoder", "depth")}
    tensors = foreign.tensors
    assert same(tensors["depth.encoder.conv1.weight"], files["encoder"]["encoder.conv1.weight"])
    for ours, theirs in (("0.conv.weight", "0.conv.conv.weight"), ("9.conv.bias", "9.conv.conv.bias")):
        assert same(tensors[f"depth.decoders.disp.decoder.{ours}"], files["depth"][f"decoder.{theirs}"])
    assert same(tensors["depth.decoders.disp.decoder.13.bias"], files["depth"]["decoder.13.conv.bias"])
    assert foreign.dropped["the state of its optimizer"] == ["adam.pth"]
    assert len(foreign.dropped["the classifier of ImageNet"]) == 2 * len(networks)
    if "pose" in networks:
        pose = torch.load(tmp_path / "m" / "pose.pth", weights_only=True)
        layers = {"net.0": "squeeze.0", "net.1": "decoder.0.0", "net.2": "decoder.1.0", "net.3": "decoder.2"}
        for theirs, ours in layers.items():
            assert same(tensors[f"pose.{ours}.weight"], pose[f"{theirs}.weight"])


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Monodepth2 folder, to be read only."""
    path = tmp_path_factory.mktemp("monodepth2") / "m"
    monodepth2_folder(path)
    return path


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    """The same, of links that a test may replace."""
    return Path(shutil.copytree(released, tmp_path / "m", copy_function=os.link))


def edit(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    path.unlink()
    torch.save(content, path)


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("depth.pth", None, "without depth.pth; it has encoder.pth, pose_encoder.pth, pose.pth"),
        ("pose.pth", None, "has pose_encoder.pth but no pose.pth"),
        ("pose.pth", lambda c: c.update({"pose_conv.weight": torch.ones(6, 256, 1, 1)}), "posecnn .*not supported"),
        ("pose.pth", lambda c: c.update({"net.1.weight": torch.ones(256, 512, 3, 3)}), "shared .*not supported"),
        (
            "pose_encoder.pth",
            lambda c: c.update({"encoder.conv1.weight": torch.ones(64, 9, 7, 7)}),
            "takes 3 images at once",
        ),
        ("depth.pth", lambda c: c.update({"odd.weight": torch.ones(1)}), r"1 entries are not of Monodepth2: odd\.w"),
        ("pose.pth", lambda c: c.update({"net.9.weight": torch.ones(1)}), "1 entries are not of Monodepth2: net.9"),
        ("encoder.pth", lambda c: c.update({"author": "me"}), r"not weights: author \(str\)"),
        ("encoder.pth", lambda c: c.pop("encoder.layer1.0.conv2.weight"), "is none of the encoders resnet18"),
        ("depth.pth", lambda c: c.update({"decoder.10.conv.weight": torch.ones(1, 17, 3, 3)}), "takes 17 channels"),
    ],
)  # fmt: skip
def test_a_wrong_monodepth2_folder_is_refused(file: str, change: Any, message: str, folder: Path) -> None:
    if change is None:
        (folder / file).unlink()
    else:
        edit(folder / file, change)
    with pytest.raises(UnreadableWeights, match=message):
        read_foreign(folder)


@pytest.mark.usefixtures("read_here")
def test_one_file_of_a_folder_names_the_folder(released: Path) -> None:
    for name in ("encoder", "depth", "pose_encoder", "pose"):
        with pytest.raises(UnreadableWeights, match=r"one file of a Monodepth2 folder\. Name the folder"):
            read_foreign(released / f"{name}.pth")


@pytest.mark.usefixtures("read_here")
def test_fewer_scales_and_sizes_that_cannot_be_used(folder: Path) -> None:

    def keep_one(content: dict) -> None:
        for n in (11, 12, 13):
            del content[f"decoder.{n}.conv.weight"], content[f"decoder.{n}.conv.bias"]

    edit(folder / "depth.pth", keep_one)
    edit(folder / "encoder.pth", lambda c: c.update(height=100))
    foreign = read_foreign(folder)
    assert_loads(foreign)
    assert foreign.net["depth"]["out_scales"] == [0]
    assert any("640 x 192 is assumed" in note for note in foreign.notes)


@pytest.mark.parametrize("name", sorted(RESNETS))
def test_every_resnet_is_recognised(name: str) -> None:
    with torch.device("meta"):
        assert architecture(torchvision.models.get_model(name, weights=None).state_dict()) == name


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnext101_32x8d", marks=pytest.mark.long)])
def test_a_classifier_becomes_an_encoder(name: str, tmp_path: Path) -> None:
    state = torchvision_resnet(name)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    old = OrderedDict((key, tensor) for key, tensor in state.items() if key not in counters)
    foreign = read_foreign(save(old, tmp_path / "x.pth"))  # torchvision's own files have no counters
    assert foreign.parts == ("depth.encoder",)
    assert foreign.net == {"depth": {"enc_name": name, "pretrained": False}}
    assert foreign.dropped == {"the classifier of ImageNet": ["fc.weight", "fc.bias"]}
    assert f"{len(counters)} counters" in foreign.notes[0]
    with torch.device("meta"):
        encoder: Any = models_zoo.create("depth", **foreign.net["depth"]).encoder
    own = {key.removeprefix("depth.encoder."): tensor for key, tensor in foreign.tensors.items()}
    encoder.load_state_dict(own, assign=True)
    assert all(same(own[key], tensor) for key, tensor in old.items() if not key.startswith("fc."))


def test_another_resnet_is_refused(tmp_path: Path) -> None:
    state = {key: t for key, t in torchvision_resnet("resnet18").items() if not key.startswith("layer4.1")}
    with pytest.raises(UnreadableWeights, match="none of the known ones: resnet18, resnet34"):
        read_foreign(save(state, tmp_path / "x.pth"))


class Evil:
    """Runs a command when it is unpickled without care."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_not_run(legacy: bool, folder: Path, tmp_path: Path) -> None:
    content = lightning_checkpoint(DEPTH)
    content["callbacks"] = Evil(tmp_path / "ran")
    path = save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnreadableWeights, match=r"refused, because it wants to create or call \w+\.mkdir"):
        read_foreign(path)
    path.write_bytes(pickle.dumps({"state_dict": Evil(tmp_path / "ran")}))
    with pytest.raises(UnreadableWeights, match=r"refused|damaged"):
        read_foreign(path)
    (folder / "pose.pth").unlink()
    torch.save({"net.0.weight": Evil(tmp_path / "ran")}, folder / "pose.pth")
    with pytest.raises(UnreadableWeights, match="refused"):
        read_foreign(folder)
    assert not (tmp_path / "ran").exists()


def with_pickle(path: Path, content: bytes) -> Path:
    """A file of `torch.save` whose pickle is another."""
    save({}, path)
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, content if name.endswith("data.pkl") else record)
    return path


def doubled(times: int) -> bytes:
    """A dict whose key is a tuple of two references to the same tuple, and so on: its hash takes for ever."""
    key = b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(times))
    return b"\x80\x02)" + key + b"q%c}h%cK\x01s." % (times, times)


def test_a_file_that_takes_all_memory_or_hours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickling, "_SECONDS", 1)
    monkeypatch.setattr(unpickling, "_MEMORY", 64 << 20)
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested, nested]
    paths = [
        with_pickle(tmp_path / "key.pth", doubled(40)),
        save({"a": nested}, tmp_path / "list.pth"),
        save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "repeated.pth"),  # 4 TB of one number
    ]
    for path in paths:
        with pytest.raises(UnreadableWeights, match="takes more memory or time than weights of its length need"):
            read_foreign(path)


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_what_weights_files_hold_survives(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = [shared, shared.T, torch.tensor(2, dtype=torch.int8), torch.zeros(0, 3), torch.ones(2) > 0]
    tensors += [torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.complex64, torch.float16)]
    plain = {1: (2, [None, True]), "a": -1.5, "deep": OrderedDict(b={"c": "ä"})}
    path = save({"tensors": tensors, "again": shared, "plain": plain, "odd": {1, 2}}, tmp_path / "x.pth")
    monkeypatch.setattr(unpickling.sys, "platform", platform)
    read = unpickling.unpickle(path)
    assert read["plain"] == plain
    assert all(same(a, b) for a, b in zip(read["tensors"], tensors, strict=True))
    assert read["again"] is read["tensors"][0] or platform == "win32"
    assert type(read["odd"]).__name__ == "set"


def test_objects_of_classes_are_refused_with_a_way_on(tmp_path: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"Linear, and weights need.*save the state dict") as caught:
        read_foreign(save({"model": torch.nn.Linear(1, 1)}, tmp_path / "x.pth"))
    assert "weights_only" not in str(caught.value)


def test_unreadable_and_unknown_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(UnreadableWeights, match="no such file or folder"):
        read_foreign(path)
    for content in (b"", b"hello", b"PK\x03\x04", pickle.dumps(3, protocol=0)):
        path.write_bytes(content)
        with pytest.raises(UnreadableWeights, match=r"damaged|no known format"):
            read_foreign(path)
    whole = save(lightning_checkpoint(DEPTH), path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableWeights, match="damaged, no PyTorch file, or refused"):
        read_foreign(path)
    with pytest.raises(UnreadableWeights) as caught:
        read_foreign(save({"model": {}, "args": {}}, path))
    message = str(caught.value)
    assert message.count("\n  - ") == len(FORMATS.names())
    for word in ("Monodepth2 folder: encoder.pth", "Lightning", "torchvision", "It holds: model, args"):
        assert word in message
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableWeights, match="It holds: nothing"):
        read_foreign(tmp_path / "empty")


def test_foreign_files_differ_from_our_own(released: Path, tmp_path: Path) -> None:
    for length in (10, 0x0280, 0x0480):  # the last two begin as pickles do
        (tmp_path / "ours.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
        assert not is_foreign(tmp_path / "ours.safetensors")
    assert is_foreign(released)
    assert is_foreign(released / "depth.pth")
    for name in ("nothing.ckpt", "."):
        assert not is_foreign(tmp_path / name)


def test_names_are_listed_up_to_a_number() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(42)).endswith("39 and 2 more")
