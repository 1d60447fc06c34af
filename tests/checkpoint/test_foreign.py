"""Published weights become checkpoints that can be evaluated, and say what else was not taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import models_zoo
from tests.models_zoo.foreign import lightning_checkpoint, monodepth2_folder, torchvision_resnet
from tests.models_zoo.litemono_files import litemono_folder
from trainer.checkpoint import load_objective, safefile
from trainer.checkpoint.foreign import Converted, choose_settings, choose_supports, convert
from trainer.checkpoint.saved import PartialWeights, WrongArchitecture
from trainer.config import Config
from trainer.objective import Objective
from trainer.runtime.errors import UserError

TINY = {"enc_name": "test_resnet"}
PAIR = {"depth": TINY, "pose": TINY}


def save(content: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def from_net(net: dict[str, Any], path: Path, **options: Any) -> Converted:
    return convert(save(lightning_checkpoint(net, **options), path))


def assert_equal(objective: Objective, tensors: dict[str, Tensor], *prefixes: str) -> None:
    state = objective.state_dict()
    names = [name for name in tensors if name.startswith(prefixes or "networks.")]
    assert names
    assert all(torch.equal(state[name], tensors[name]) for name in names)


@pytest.mark.parametrize(
    ("net", "wanted", "supports"),
    [
        (PAIR, [-1, 1], (-1, 1)),
        (PAIR, [-1, 1, 0], (-1, 1, 0)),
        ({**PAIR, "depth": {**TINY, "mask_name": "explainability", "num_ch_mask": 2}}, [-1, 1], (-1, 1)),
        ({"depth": TINY}, 0, (0,)),
        ({"depth": {**TINY, "use_virtual_stereo": True}}, 0, (0,)),
        ({**PAIR, "autoencoder": TINY}, [-1, 1], (-1, 1)),
        ({"depth": {**TINY, "mask_name": "uncertainty", "num_ch_mask": 2}}, [-1, 1], ()),
    ],
    ids=["M", "MS", "sfm_learner", "garg", "dvso", "feat_depth", "a mask of video without its pose"],
)  # fmt: skip
def test_a_benchmark_model_keeps_what_its_predictions_depend_on(
    net: dict, wanted: Any, supports: tuple[int, ...], tmp_path: Path
) -> None:
    content = lightning_checkpoint(net, dataset={"supp_idxs": wanted, "size": [320, 96]})
    content["hyper_parameters"]["cfg"]["trainer"] |= {"min_depth": 0.2, "max_depth": 50}
    converted = convert(save(content, tmp_path / "x.ckpt"))
    converted.save(tmp_path / "out" / "x.safetensors")
    objective = load_objective(tmp_path / "out" / "x.safetensors")
    assert_equal(objective, converted.tensors)
    assert objective.state_dict().keys() == converted.tensors.keys()
    assert (objective.supp_idxs, converted.config.dataset["size"]) == (supports, (320, 96))
    assert (objective.min_depth, objective.max_depth, objective.legacy_sampling) == (0.2, 50, True)


def test_the_file_is_as_best_is(tmp_path: Path) -> None:
    path = tmp_path / "hrdepth_MS" / "042" / "models" / "best.ckpt"
    converted = from_net(PAIR, path)
    converted.save(tmp_path / "x.safetensors")
    metadata = safefile.read_metadata(tmp_path / "x.safetensors")
    assert (metadata["epoch"], metadata["batch"], metadata["step"]) == ("29", "0", "149250")
    assert (metadata["monitor"], metadata["metrics"]) == ("AbsRel", "{}")
    assert "parts" not in metadata
    hparams = json.loads(metadata["hparams"])
    assert (hparams["name"], hparams["version"]) == ("hrdepth_MS", "042")
    assert Config.from_dict(hparams["config"]) == converted.config
    assert hparams["imported"]["dropped"].keys() == converted.foreign.dropped.keys()
    first = (tmp_path / "x.safetensors").read_bytes()
    converted.save(tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == first


def test_monodepth2_becomes_a_checkpoint(tmp_path: Path) -> None:
    monodepth2_folder(tmp_path / "mono+stereo_640x192")
    converted = convert(tmp_path / "mono+stereo_640x192")
    converted.save(tmp_path / "x.safetensors")
    objective = load_objective(tmp_path / "x.safetensors")
    assert_equal(objective, converted.tensors)
    assert objective.supp_idxs == (-1, 1, 0)
    assert (objective.min_depth, objective.max_depth, objective.legacy_sampling) == (0.1, 100, False)
    networks: Any = objective.networks
    for network in networks.values():
        assert set(network.standardise.mean.flatten().tolist()) == {torch.tensor(0.45).item()}
    assert converted.config.dataset["size"] == (640, 192)
    assert json.loads(converted.metadata()["hparams"])["name"] == "mono+stereo_640x192"
    assert converted.notes == []


def test_litemono_becomes_a_checkpoint(tmp_path: Path) -> None:
    litemono_folder(tmp_path / "lite-mono-tiny_640x192")
    converted = convert(tmp_path / "lite-mono-tiny_640x192")
    converted.save(tmp_path / "x.safetensors")
    objective = load_objective(tmp_path / "x.safetensors")
    assert_equal(objective, converted.tensors)
    assert objective.state_dict().keys() == converted.tensors.keys()
    assert (objective.supp_idxs, objective.min_depth, objective.max_depth) == ((), 0.1, 100)
    assert converted.config.dataset["size"] == (640, 192)
    assert [note.partition(",")[0] for note in converted.notes] == ["no support frames"]


def test_monodepth2_with_a_mask_of_fewer_channels_than_supports(tmp_path: Path) -> None:
    monodepth2_folder(tmp_path / "m", mask_channels=2, stereo=True)
    converted = convert(tmp_path / "m")
    assert converted.config.supp_idxs == (-1, 1)
    assert converted.config.net["depth"]["num_ch_mask"] == 2
    assert any("predictive mask" in note for note in converted.notes)


def test_an_encoder_alone_says_so_wherever_it_is_loaded(tmp_path: Path) -> None:
    converted = convert(save(torchvision_resnet("resnet18"), tmp_path / "x.pth"))
    converted.save(tmp_path / "x.safetensors")
    assert converted.metadata()["parts"] == '["depth.encoder"]'
    with pytest.warns(PartialWeights, match=r"x\.safetensors: holds depth\.encoder alone; the rest .* random"):
        objective = load_objective(tmp_path / "x.safetensors")
    assert_equal(objective, converted.tensors)
    assert len(objective.state_dict()) > len(converted.tensors)
    tensors, metadata = safefile.read(tmp_path / "x.safetensors")
    del metadata["parts"]
    safefile.write(tmp_path / "x.safetensors", tensors, metadata)
    with pytest.raises(WrongArchitecture, match="28 weights do not fit"):  # without a word it is a damaged file
        load_objective(tmp_path / "x.safetensors")


def test_other_settings_are_defaults_and_listed_in_one_note(tmp_path: Path) -> None:
    content = lightning_checkpoint(PAIR, losses={"img_recon": {"weight": 1}, "magic": {"weight": 3}})
    cfg = content["hyper_parameters"]["cfg"]
    cfg["dataset"] |= {"type": "mannequin", "train": {"odd": 1}}
    cfg["trainer"] |= {"load_ckpt": "/elsewhere", "min_depth": None}
    cfg |= {"scheduler": None, "callbacks": {"odd": 2}}
    converted = convert(save(content, tmp_path / "x.ckpt"))
    assert converted.config.loss.keys() == {"img_recon", "disp_smooth"}
    assert (converted.config.dataset["type"], converted.config.trainer.min_depth) == ("kitti", 0.1)
    assert converted.config.trainer.load_ckpt is None
    (note,) = [note for note in converted.notes if note.startswith("not taken over: ")]
    for text in (
        *("dataset.type: mannequin; ", "dataset.train: {'odd': 1}", "loss.magic: {'weight': 3.0}; "),
        *("loader.batch_size: 8; ", "trainer.load_ckpt: /elsewhere; ", "trainer.min_depth: None", "callbacks.odd: 2. "),
    ):
        assert text in note, text
    assert note.endswith(". Give with --cfg-file what a training should keep")
    assert "dataset.size" not in note


def test_settings_of_networks_alone_are_enough(tmp_path: Path) -> None:
    content = lightning_checkpoint(PAIR)
    content["hyper_parameters"]["cfg"] = {"net": PAIR}
    converted = convert(save(content, tmp_path / "x.ckpt"))
    assert converted.config.supp_idxs == (-1, 1)
    assert any("assumed: dataset.size: [640, 192]; dataset.supp_idxs: [-1, 1]" in n for n in converted.notes)


def test_the_data_sets_of_the_successor_become_one(tmp_path: Path) -> None:
    content = lightning_checkpoint(PAIR, successor=True)
    content["hyper_parameters"]["cfg"]["dataset"] = {
        "slow_tv": {"split": "all", "shape": [384, 640]},
        "kitti_lmdb": {"split": "eigen_benchmark", "shape": [384, 640], "supp_idxs": [-1, 1], "datum": "image"},
        "train": {"use_aug": True},
    }
    converted = convert(save(content, tmp_path / "x.ckpt"))
    assert converted.config.dataset["size"] == (640, 384)
    assert converted.config.supp_idxs == (-1, 1)
    assert any("dataset.type: kitti_lmdb; dataset.split: eigen_benchmark" in note for note in converted.notes)


@pytest.mark.parametrize(
    ("wanted", "channels", "has_pose", "needs_stereo", "chosen"),
    [
        ([-1, 1], None, True, False, [-1, 1]),
        ([1, 0, -1], None, True, True, [1, 0, -1]),
        ([0], None, True, False, [-1, 1, 0]),
        ([-1, 1], None, True, True, [-1, 1, 0]),
        (None, None, True, False, [-1, 1]),
        ([-1, 1, 0], 2, True, False, [-1, 1]),
        ([-1, 1], 3, True, False, [-1, 1, 0]),
        ([0], None, False, False, [0]),
        (None, None, False, True, [0]),
        (None, 1, False, False, [0]),
        ([-1, 1], None, False, False, []),
        (None, None, False, False, []),
    ],
)
def test_supports_go_with_the_networks(
    wanted: list[int] | None, channels: int | None, has_pose: bool, needs_stereo: bool, chosen: list[int]
) -> None:
    depth = {"use_virtual_stereo": needs_stereo}
    if channels:
        depth |= {"mask_name": "uncertainty", "num_ch_mask": channels}
    assert choose_supports(wanted, {"depth": depth, **({"pose": {}} if has_pose else {})}) == chosen


def test_supports_that_no_rule_finds_are_asked_for() -> None:
    with pytest.raises(UserError, match=r"num_ch_mask: 4\)\. Give dataset\.supp_idxs with --cfg-file"):
        choose_supports(None, {"depth": {"mask_name": "uncertainty", "num_ch_mask": 4}, "pose": {}})


def test_a_depth_network_of_video_alone_is_not_taken_for_stereo() -> None:
    """Else its depth would be multiplied by 5.4 and called metres."""
    config, notes = choose_settings({"depth": {"pretrained": False}}, {"dataset": {"supp_idxs": [-1, 1]}})
    assert config.supp_idxs == ()
    assert config.loss.keys() == {"disp_smooth"}
    assert any("add net.pose" in note for note in notes)


def test_a_configuration_wins_and_an_hparams_file_stands_for_missing_settings(tmp_path: Path) -> None:
    content = lightning_checkpoint({**PAIR, "depth": {**TINY, "dec_name": "cadepth"}})
    cfg = content.pop("hyper_parameters")["cfg"]
    path = save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"two folders up from the checkpoint: --cfg-file hparams\.yaml"):
        convert(path)
    corrections = tmp_path / "hparams.yaml"
    corrections.write_text(yaml.safe_dump({"cfg": {**cfg, "trainer": {"max_depth": 70}}}))
    assert convert(path, corrections).config.trainer.max_depth == 70
    corrections.write_text("a: 1")
    with pytest.raises(UserError, match="has none of the sections net, dataset"):
        convert(path, corrections)
    with pytest.raises(UserError, match=r"nothing\.yaml"):
        convert(path, tmp_path / "nothing.yaml")
    monodepth2_folder(tmp_path / "m")
    corrections.write_text("dataset: {split: eigen}\nloader: {batch_size: 3}\nscheduler: ~")
    config = convert(tmp_path / "m", corrections).config
    assert (config.dataset["split"], config.dataset["type"]) == ("eigen", "kitti")
    assert (config.loader["batch_size"], config.scheduler) == (3, None)
    corrections.write_text("dataset: {type: synthetic}\nloss: {magic: {}}")
    with pytest.raises(UserError, match=r"loss\.magic is not a loss"):
        convert(tmp_path / "m", corrections)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    content = lightning_checkpoint(PAIR)
    state = content["state_dict"]
    state["nets.pose.extra.weight"] = state.pop("nets.pose.squeeze.0.weight")
    with pytest.raises(UserError) as caught:
        convert(save(content, tmp_path / "x.ckpt"))
    assert str(caught.value).splitlines()[:3] == [
        f"{tmp_path}/x.ckpt: 2 weights do not fit the networks that it names:",
        "  networks.pose.squeeze.0.weight: nothing in the file, (256, 96, 1, 1) in the network",
        "  networks.pose.extra.weight: (256, 96, 1, 1) in the file, nothing in the network",
    ]
    content = lightning_checkpoint(PAIR)
    content["hyper_parameters"]["cfg"]["net"]["depth"]["enc_name"] = "resnet34"
    with pytest.raises(UserError, match=r"\.\.\. and \d+ more\nThe networks are net.depth: .*enc_name resnet34"):
        convert(save(content, tmp_path / "x.ckpt"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dec_name": "monodepht"}, r"net\.depth: .*Did you mean 'monodepth'"),
        ({"odd": 1}, r"net\.depth: network 'depth' has no argument 'odd'"),
        ({"out_scales": [1, 2]}, "lacks 0"),
        ({"mask_name": "explainability"}, "num_ch_mask is null"),
    ],
)
def test_options_of_networks_are_never_guessed(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    content = lightning_checkpoint({"depth": TINY})
    content["hyper_parameters"]["cfg"]["net"]["depth"] |= options
    with pytest.raises(UserError, match=said):
        convert(save(content, tmp_path / "x.ckpt"))


def test_reading_weights_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    path = save(lightning_checkpoint(PAIR), tmp_path / "x.ckpt")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    convert(path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("enc_name", ["test_resnet", "hrnet_w18_small"])
def test_a_loaded_network_computes_what_its_weights_compute_elsewhere(tmp_path: Path, enc_name: str) -> None:
    """To the last bit: features of random weights are so large that another order of sums would show."""
    net = {"enc_name": enc_name, "dec_name": "monodepth"}
    converted = from_net({"depth": net}, tmp_path / "x.ckpt")
    converted.save(tmp_path / "x.safetensors")
    plain = models_zoo.create("depth", pretrained=False, **net).eval()
    state = {k.removeprefix("networks.depth."): t for k, t in load_file(tmp_path / "x.safetensors").items()}
    plain.load_state_dict(state)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        loaded = load_objective(tmp_path / "x.safetensors").networks["depth"](images)
        assert torch.equal(loaded["disp"][0], plain(images)["disp"][0])
        assert all(torch.equal(a, b) for a, b in zip(loaded["depth_feats"], plain(images)["depth_feats"], strict=True))


def test_weights_of_other_formats_become_float32_and_broken_ones_are_refused(tmp_path: Path) -> None:
    content = lightning_checkpoint({"depth": TINY})
    state = content["state_dict"]
    key = "nets.depth.decoders.disp.decoder.0.conv.bias"
    state[key] = state[key].half()
    converted = convert(save(content, tmp_path / "half.ckpt"))
    assert {t.dtype for t in converted.tensors.values() if t.is_floating_point()} == {torch.float32}
    assert "1 weights were stored in other formats and are float32 now" in converted.notes
    state[key] = state[key] * torch.nan
    with pytest.raises(
        UserError, match=r"1 weights are NaN or infinite: depth\.decoders\.disp\.decoder\.0\.conv\.bias"
    ):
        convert(save(content, tmp_path / "nan.ckpt"))


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save(lightning_checkpoint({"depth": TINY}), tmp_path / "x.ckpt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.ckpt: damaged: .* is not what was written"):
        convert(path)
