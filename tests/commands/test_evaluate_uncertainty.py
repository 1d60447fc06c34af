"""`evaluate --uncertainty` on untrained networks: sources, what it saves, how it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.commands.evaluating import evaluate, refused, saved, write_run
from trainer.checkpoint import safefile
from trainer.tables.aggregate import Table
from trainer.tables.results import read_result


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second network, trained on films: what is changed about the data of the first does not fit it."""
    made = write_run(tmp_path_factory.mktemp("other") / "md2" / "43", [-1, 1], **{"net.depth.init_disp": 0.3})
    path = made / "ckpts" / "best.safetensors"
    tensors, metadata = safefile.read(path)
    hparams = json.loads(metadata["hparams"])
    hparams["config"]["dataset"] = {"type": "folder", "path": "films", "size": [96, 64], "supp_idxs": [-1, 1]}
    safefile.write(path, tensors, {**metadata, "hparams": json.dumps(hparams)})
    return made


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Networks with a mask, by its name."""
    changes = {"net.depth.num_ch_mask": 2}
    return {
        name: write_run(
            tmp_path_factory.mktemp(name) / "md2" / "42",
            [-1, 1],
            **changes | {"net.depth.mask_name": name, "loss.img_recon.mask_name": name},
        )
        for name in ("uncertainty", "explainability")
    }


@pytest.mark.parametrize("source", ["flip", "ensemble", "mask"])
def test_sources_of_a_network(run, other, masked, tmp_path, capsys, source):
    """The numbers of depth are those without; several alignments get what belongs to each."""
    ckpt = masked["uncertainty"] if source == "mask" else run
    members = ("--ensemble", other) if source == "ensemble" else ()
    plain, save = tmp_path / "plain.yaml", tmp_path / "r.yaml"
    assert evaluate("--ckpt", ckpt, "--save", plain) == 0
    assert evaluate("--ckpt", ckpt, "--uncertainty", source, *members, "--set dataset.clutter=0 --save", save) == 0
    out = capsys.readouterr().out
    assert "AUSE Abs Rel" in out
    result, without = saved(save), saved(plain)
    assert {key: result["mean"][key] for key in without["mean"]} == without["mean"]
    assert set(result["mean"]) - set(without["mean"]) == {
        *("ause_abs_rel", "aurg_abs_rel", "ause_rmse", "aurg_rmse", "ause_d1", "aurg_d1")
    }
    name = "ensemble of 2" if source == "ensemble" else source
    assert result["protocol"]["uncertainty"] == f"{name}, 50 steps"
    assert f"uncertainty {name}, 50 steps" in out
    assert result["protocol"]["metrics"]["sparsification"]["rule"].startswith("50 steps")
    assert result["mean"]["ause_abs_rel"] >= 0
    gain = result["mean"]["aurg_abs_rel"] + result["mean"]["ause_abs_rel"]  # that of the true error
    best = np.array(result["curves"]["abs_rel_by_error"])
    assert len(best) == 50
    assert gain == pytest.approx((50 * best[0] - best.sum() + (best[-1] - best[0]) / 2) / 50, abs=1e-8)
    if source == "ensemble":
        (member,) = result["protocol"]["uncertainty_source"]["members"]
        assert len(member["sha256"]) == 64


def test_tables_keep_them_apart(run, tmp_path):
    assert evaluate("--ckpt", run, "--uncertainty flip --sparsification-steps 10 --limit 2") == 0
    path = run / "results" / "synthetic_best_median_2items_flip.yaml"
    (result,) = read_result(path)
    assert result.protocol["uncertainty"] == "flip, 10 steps"
    assert Table(dict(result.protocol), [], []).title.endswith("uncertainty flip, 10 steps, input 96x64")
    directions = {column.key: column.direction for column in result.values}
    assert (directions["ause_rmse"], directions["aurg_rmse"]) == (-1, 1)
    path.unlink()


def test_an_uncertainty_from_a_file(run, tmp_path):
    from trainer.commands.export_depth import main

    preds, save = tmp_path / "p.npz", tmp_path / "r.yaml"
    assert main(["--ckpt", str(run), "--save", str(preds)]) == 0
    arrays = dict(np.load(preds))
    data = ("-c", "eval/synthetic", "--set", "dataset.size=[96,64]", "dataset.test.items_per_scene=2")
    data += ("dataset.test.num_items=4", "dataset.test.clutter=0")
    file = ("--pred-file", preds, *data, "--uncertainty file --save", save)
    for doubt, gain in ((np.ones((4, 2, 3)), 0), (np.random.default_rng(0).random((4, 64, 96)), None)):
        np.savez(preds, **arrays, uncertainty=doubt.astype(np.float32))
        assert evaluate(*file) == 0
        found = saved(save)["mean"]["aurg_abs_rel"]
        assert found == pytest.approx(0, abs=1e-12 if gain == 0 else 0.01)


def test_mistakes_are_sentences(run, stereo_run, masked, tmp_path, capsys):
    np.savez(tmp_path / "p.npz", pred=np.ones((4, 64, 96), np.float32), kind="disp")
    ckpt, file = ("--ckpt", run), ("--pred-file", tmp_path / "p.npz", "-c", "eval/synthetic")
    small = ("--set", "dataset.test.num_items=4")
    wrong = [
        ((*ckpt, "--uncertainty ensemble"), "belong together"),
        ((*ckpt, "--ensemble", stereo_run), "belong together"),
        ((*ckpt, "--uncertainty ensemble --ensemble", run), "is the same network as"),
        ((*ckpt, "--uncertainty ensemble --alignment none --ensemble", stereo_run), "has another unit than"),
        ((*ckpt, "--uncertainty ensemble --ensemble", tmp_path / "no"), "no such file"),
        ((*ckpt, "--uncertainty mask"), "predicts no mask. --uncertainty mask needs one trained with"),
        (("--ckpt", masked["explainability"], "--uncertainty mask"), "how well pixels can be explained"),
        ((*ckpt, "--uncertainty file"), "reads an array of --pred-file"),
        ((*ckpt, "--sparsification-steps 9"), "no effect without --uncertainty"),
        ((*file, "--uncertainty flip"), "is about a network"),
        ((*file, "--uncertainty file", *small), "has no array 'uncertainty'"),
    ]
    for words, message in wrong:
        assert message in refused(capsys, *words, "--save", tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()
