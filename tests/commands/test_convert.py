"""`convert` as a user runs it: it reports what it did, refuses in a sentence, and its files train and are scored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models_zoo.weights import FORMATS
from tests.models_zoo.foreign import lightning_checkpoint, monodepth2_folder, torchvision_resnet
from tests.world import call, train_args
from trainer.checkpoint import load_objective
from trainer.checkpoint.safefile import read, read_metadata
from trainer.commands.convert import main
from trainer.commands.evaluate import main as evaluate

TINY = {"depth": {"enc_name": "test_resnet"}, "pose": {"enc_name": "test_resnet"}}


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Run `convert`, which must end with exit code 2, and return its one sentence."""
    assert main([*map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    return err


def test_a_lightning_checkpoint_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = {"depth": {"enc_name": "resnet10t", "dec_name": "hrdepth"}, "pose": {"enc_name": "resnet10t"}}
    source = save(lightning_checkpoint(net), tmp_path / "best.ckpt")
    target = tmp_path / "new" / "x.safetensors"
    assert main([str(source), str(target)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for line in (
        r"recognised: Lightning checkpoint .*2208\.01489.*, epoch 29, step 149250",
        r"  depth: .*enc_name resnet10t, dec_name hrdepth.*; \d+ tensors, [\d,]+ values",
        r"  pose: .*enc_name resnet10t",
        r"dropped: second names of weights of hrdepth: 71 \(nets\.depth\.decoders\.disp\.decoder\.0.* and 68 more\)",
        r"note: trainer\.legacy_sampling: true, because",
        r"note: not taken over: dataset\.type: kitti_lmdb; .*\. Give with --cfg-file what",
        rf"saved: {re.escape(str(target))}",
        rf"  monodepth evaluate --ckpt {re.escape(str(target))} -c eval/kitti_eigen",
        rf"  monodepth train -c <page> .* --set trainer\.load_ckpt={re.escape(str(target))}",
    ):
        assert re.search(rf"^{line}", out, re.M), line
    assert load_objective(target).legacy_sampling


def test_what_to_do_with_monodepth2_and_with_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monodepth2_folder(tmp_path / "m")
    assert main([str(tmp_path / "m"), str(tmp_path / "m.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "net.depth.mean=[0.45,0.45,0.45] net.depth.std=[0.225,0.225,0.225] net.pose.mean=" in out
    source = save(torchvision_resnet("resnet18"), tmp_path / "x.pth")
    assert main([str(source), str(tmp_path / "x.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "holds only: depth.encoder" in out
    assert "evaluate" not in out
    assert "mean=" not in out
    assert evaluate(["--ckpt", str(tmp_path / "x.safetensors")]) == 2
    assert "holds only depth.encoder, so its depth would come from random weights" in capsys.readouterr().err


def test_a_file_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(torchvision_resnet("resnet18"), tmp_path / "x.pth")
    target = tmp_path / "x.safetensors"
    target.write_text("precious")
    assert "exists already. Use --force" in refused(capsys, source, target)
    assert target.read_text() == "precious"
    assert main([str(source), str(target), "--force"]) == 0
    assert len(read(target)[0]) == 120


def test_mistakes_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.safetensors"
    source = save(lightning_checkpoint({"depth": TINY["depth"]}), tmp_path / "x.ckpt")
    assert "no such file or folder" in refused(capsys, tmp_path / "nothing.ckpt", target)
    assert "must end in .safetensors" in refused(capsys, source, tmp_path / "x.pth")
    (tmp_path / "folder.safetensors").mkdir()
    assert "is a folder" in refused(capsys, source, tmp_path / "folder.safetensors", "--force")
    assert "is a file, but a folder is needed" in refused(capsys, source, source / "x.safetensors")
    unknown = refused(capsys, save({"model": 1}, tmp_path / "y.ckpt"), target)
    assert unknown.count("  - ") == len(FORMATS.names())
    assert "It holds: model" in unknown
    content = lightning_checkpoint({"depth": TINY["depth"]})
    del content["state_dict"]["nets.depth.encoder.bn1.weight"]
    wrong = refused(capsys, save(content, tmp_path / "z.ckpt"), target)
    assert "depth.encoder.bn1.weight: nothing in the file, (32,) in the network" in wrong
    assert not target.exists()


@pytest.mark.long
def test_a_converted_file_is_scored_and_starts_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monodepth2_folder(tmp_path / "m")
    target = tmp_path / "m.safetensors"
    assert main([str(tmp_path / "m"), str(target)]) == 0
    statistics = re.search(r"want other statistics of images: (.*)$", capsys.readouterr().out, re.M)
    assert statistics
    scored = ["--ckpt", str(target), "-c", "cfg/eval/synthetic.yaml", "--limit", "2"]
    scored += ["--set", "dataset.size=[96,64]", "dataset.test.num_items=4"]
    assert evaluate([*scored, "--save", str(tmp_path / "scored.yaml")]) == 0
    assert "alignment stereo" in capsys.readouterr().out
    for source, version in ((target, "converted"), (tmp_path / "m", "itself")):
        trained = train(tmp_path, source, version, *statistics[1].split(), encoder="resnet18")
        assert trained.returncode == 0, trained.stderr
    files = [tmp_path / "run" / v / "ckpts" / "last.safetensors" for v in ("converted", "itself")]
    assert read_metadata(files[0])["step"] == "2"
    ours, theirs = (read(file)[0] for file in files)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "the way in makes no difference"
    first = read(target)[0]["networks.depth.encoder.conv1.weight"]
    assert 0 < (ours["networks.depth.encoder.conv1.weight"] - first).abs().max() < 0.01


@pytest.mark.slow
def test_training_starts_from_a_lightning_checkpoint(tmp_path: Path) -> None:
    source = save(lightning_checkpoint(TINY), tmp_path / "x.ckpt")
    done = train(tmp_path, source, "1")
    assert done.returncode == 0, done.stderr


def train(out: Path, source: Path, version: str, *overrides: str, encoder: str = "test_resnet") -> Any:
    """Two steps from the weights of `source`."""
    changes = (
        f"trainer.load_ckpt={source}",
        *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
        *("net.depth.out_scales=[0,1,2,3]", *(f"net.{net}.enc_name={encoder}" for net in ("depth", "pose"))),
    )
    return call(*train_args(out, *changes, *overrides, version=version))
