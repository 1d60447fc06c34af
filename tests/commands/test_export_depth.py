"""The command `export_depth` on an untrained network: what it writes, and that `evaluate` reads it back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands.test_evaluate import CPU_X2, write_run
from tests.world import command
from trainer.checkpoint.safefile import read_metadata
from trainer.commands.evaluate import main as evaluate
from trainer.commands.export_depth import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with a stereo pair."""
    return write_run(tmp_path_factory.mktemp("runs") / "md2" / "42", [0], **{"net.pose": None})


def test_what_is_written(run, capsys):
    assert main(["--ckpt", str(run)]) == 0
    path = run / "preds" / "synthetic_best.npz"
    assert f"saved: {path}, 4 x 64 x 96" in capsys.readouterr().out
    with np.load(path) as file:
        assert (file["pred"].dtype, file["pred"].shape) == (np.float32, (4, 64, 96))
        assert (file["pred"] >= 0.01).all()  # 1 / depth in [0.1, 100]
        assert (file["pred"] <= 10).all()
        assert (str(file["kind"]), str(file["unit"]), str(file["flip"])) == ("disp", "baseline", "false")
        assert len(str(file["checkpoint"])) == 64


@pytest.mark.parametrize("flip", [[], ["--flip"]])
def test_evaluating_the_file_equals_evaluating_the_checkpoint(run, tmp_path, flip):
    preds, cfg = tmp_path / "p.npz", tmp_path / "data.yaml"
    assert main(["--ckpt", str(run), "--save", str(preds), *flip]) == 0
    hparams = json.loads(read_metadata(run / "ckpts" / "best.safetensors")["hparams"])
    cfg.write_text(yaml.safe_dump({"dataset": hparams["config"]["dataset"]}))
    results = {}
    for name, subject in (
        ("ckpt", ["--ckpt", str(run), *flip]),
        ("file", ["--pred-file", str(preds), "-c", str(cfg)]),
    ):
        assert evaluate([*subject, "--save", str(tmp_path / f"{name}.yaml")]) == 0
        results[name] = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
    assert results["file"]["protocol"]["alignment"] == results["ckpt"]["protocol"]["alignment"] == "stereo"
    assert results["file"]["mean"] == pytest.approx(results["ckpt"]["mean"], rel=1e-6)


def test_mirrored_images_change_predictions(run, tmp_path):
    for name, flip in (("plain", []), ("flip", ["--flip"])):
        assert main(["--ckpt", str(run), "--save", str(tmp_path / f"{name}.npz"), *flip]) == 0
    plain, flipped = (np.load(tmp_path / f"{name}.npz")["pred"] for name in ("plain", "flip"))
    assert not np.allclose(plain, flipped, rtol=1e-6)


def test_an_existing_file_stays_unless_forced(run, tmp_path, capsys):
    path = tmp_path / "p.npz"
    path.write_bytes(b"mine")
    assert main(["--ckpt", str(run), "--save", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main(["--ckpt", str(run), "--save", str(path), "--force"]) == 0
    assert np.load(path)["pred"].shape == (4, 64, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "x.npy"], "must end in .npz"),
        (["--batch-size", "0"], "1 or more"),
        (["--set", "dataset.scnee=road"], "Did you mean 'scene'"),
        (["--set", "dataset.type=kiti"], "Did you mean 'kitti'"),
    ],
)
def test_errors_are_sentences(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--ckpt", str(run), "--save", "y.npz", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_write_what_one_writes(run, tmp_path):
    for name, launcher in (("one", ()), ("two", CPU_X2)):
        save = str(tmp_path / f"{name}.npz")
        done = command(
            *launcher, "launch/export_depth.py", "--ckpt", run, "--batch-size", "3", "--save", save
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved: ") == 1
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
