"""The command `export_depth` on an untrained network: what it writes, and that `evaluate` reads it back."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from tests.commands.evaluating import evaluate, hparams_of, saved
from tests.world import fork
from trainer.commands.export_depth import main
from trainer.evaluation.mdec import why_no_submission


def test_what_is_written(stereo_run, capsys):
    assert main(["--ckpt", str(stereo_run)]) == 0
    path = stereo_run / "preds" / "synthetic_best.npz"
    assert f"saved: {path}, 4 x 64 x 96" in capsys.readouterr().out
    with np.load(path) as file:
        assert (file["pred"].dtype, file["pred"].shape) == (np.float32, (4, 64, 96))
        assert (file["pred"] >= 0.01).all()  # 1 / depth in [0.1, 100]
        assert (file["pred"] <= 10).all()
        assert (str(file["kind"]), str(file["unit"]), str(file["flip"])) == ("disp", "baseline", "false")
        assert len(str(file["checkpoint"])) == 64


def test_evaluating_the_file_equals_evaluating_the_checkpoint(stereo_run, tmp_path):
    cfg, maps = tmp_path / "data.yaml", []
    cfg.write_text(yaml.safe_dump({"dataset": hparams_of(stereo_run)["config"]["dataset"]}))
    for flip in ([], ["--flip"]):
        preds, save = tmp_path / f"p{len(flip)}.npz", tmp_path / "r.yaml"
        assert main(["--ckpt", str(stereo_run), "--save", str(preds), *flip]) == 0
        results = []
        for subject in (["--ckpt", stereo_run, *flip], ["--pred-file", preds, "-c", cfg]):
            assert evaluate(*subject, "--save", save) == 0
            results.append(saved(save))
            assert results[-1]["protocol"]["alignment"] == "stereo"
        assert results[0]["mean"] == pytest.approx(results[1]["mean"], rel=1e-6)
        maps.append(np.load(preds)["pred"])
    assert not np.allclose(*maps, rtol=1e-6)  # mirrored images change predictions


def test_an_existing_file_stays_unless_forced(stereo_run, tmp_path, capsys):
    path = tmp_path / "p.npz"
    path.write_bytes(b"mine")
    assert main(["--ckpt", str(stereo_run), "--save", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main(["--ckpt", str(stereo_run), "--save", str(path), "--force"]) == 0
    assert np.load(path)["pred"].shape == (4, 64, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "x.npy"], "must end in .npz"),
        (["--set", "dataset.scnee=road"], "Did you mean 'scene'"),
    ],
)
def test_errors_are_sentences(stereo_run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--ckpt", str(stereo_run), "--save", "y.npz", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_submission_holds_two_arrays_and_scores_the_same(stereo_run, tmp_path, capsys):
    cfg, save = tmp_path / "data.yaml", tmp_path / "r.yaml"
    cfg.write_text(yaml.safe_dump({"dataset": hparams_of(stereo_run)["config"]["dataset"]}))
    assert main(["--ckpt", str(stereo_run), "--format", "mdec"]) == 0
    err = capsys.readouterr().err
    assert "no submission: these are 4 items of synthetic test, and MDEC 2025 takes the 400 of val or the 775 of" in err
    path = stereo_run / "preds" / "synthetic_best_mdec.npz"
    with np.load(path) as file:
        assert file.files == ["pred", "pred_type"]
        assert (file["pred"].dtype, file["pred"].shape, str(file["pred_type"])) == (
            np.float32,
            (4, 64, 96),
            "disparity",
        )
    results = []
    for subject in (["--ckpt", stereo_run, "--alignment lsqr_depth_trim"], ["--pred-file", path, "-c", cfg]):
        assert evaluate(*subject, "--max-depth 100 --save", save) == 0
        results.append(saved(save))
        assert results[-1]["protocol"]["alignment"] == "lsqr_depth_trim"
    assert results[0]["mean"] == pytest.approx(results[1]["mean"], rel=1e-6)
    assert results[1]["protocol"]["predictions"]["pred_type"] == "disparity"


def test_all_images_of_a_part_are_a_submission():
    def reason(**changes):
        return why_no_submission({"type": "syns_patches", "mode": "val", "num_items": 400, **changes})

    assert reason() == reason(mode="test", num_items=775) == ""
    assert "these are 40 items of syns_patches val, and" in reason(num_items=40)
    assert reason(mode="test")
    assert reason(type="kitti")


@pytest.mark.slow
def test_two_processes_write_what_one_writes(stereo_run, tmp_path):
    for processes in (1, 2):
        options = ["--ckpt", stereo_run, "--batch-size", "3", "--save", tmp_path / f"{processes}.npz"]
        done = fork("launch/export_depth.py", *options, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved: ") == 1
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
