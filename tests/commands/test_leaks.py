"""The leak guard on the command line: training writes its frames, evaluation compares, conversion declares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.commands.evaluating import evaluate, refused, saved
from tests.models_zoo.foreign import lightning_checkpoint
from tests.world import call, train_args
from trainer.checkpoint import safefile
from trainer.checkpoint.trained_on import KEY, TrainedOn, read_trained_on
from trainer.commands.convert import main as convert
from trainer.commands.generate_tables import main as tables
from trainer.commands.prepare import main as prepare
from trainer.data import DATASETS


@pytest.fixture
def kitti_run(run: Path, tmp_path: Path) -> Path:
    """A run by a version that did not store its frames."""
    return Path(shutil.copytree(run, tmp_path / "models" / "md2" / "42", ignore=shutil.ignore_patterns("results")))


def on_drive(run: Path, recording: Path) -> list[str | Path]:
    """Evaluate a run on the one validation frame of the rendered drive."""
    data = f"dataset.type=kitti dataset.root={recording} dataset.split=synthetic dataset.size=[96,64]"
    return ["--ckpt", run, "--mode val --set", data]


def remember(run: Path, recording: Path, mode: str) -> None:
    """Store the items of a mode as the frames of the training of a run."""
    dataset = DATASETS.create("kitti", root=str(recording), split="synthetic", mode=mode, supp_idxs=None)
    ((entry, frames),) = dataset.lists()
    path = run / "ckpts" / "best.safetensors"
    tensors, metadata = safefile.read(path)
    safefile.write(path, tensors, metadata | TrainedOn((entry,), frames).pack()[1])


def test_a_training_stores_its_frames_and_every_reader_opens_the_file(trained_run: Path) -> None:
    for name in ("best", "last"):
        path = trained_run / "run" / "1" / "ckpts" / f"{name}.safetensors"
        trained = read_trained_on(path)
        assert trained is not None
        (entry,) = trained.lists
        assert (entry.items, entry.digest, len(trained.frames)) == (8, trained.frames.digest(), 8)
        assert trained.is_whole
        assert load_file(path)
    assert "warning" not in (trained_run / "output.txt").read_text()


def test_weights_that_do_not_say_what_they_saw(tmp_path: Path, run: Path) -> None:
    start = run / "ckpts" / "best.safetensors"
    done = call(
        *train_args(tmp_path, "trainer.max_epochs=1", "net.depth.out_scales=[0,1,2,3]", f"trainer.load_ckpt={start}")
    )
    assert done.returncode == 0, done.stderr
    trained = read_trained_on(tmp_path / "run" / "1" / "ckpts" / "last.safetensors")
    assert trained is not None
    assert not trained.is_whole


def test_evaluation_says_what_is_known(kitti_run: Path, recording: Path, tmp_path: Path, capsys) -> None:
    result = tmp_path / "r.yaml"
    words = [*on_drive(kitti_run, recording), "--save", result]
    assert evaluate(*words) == 0
    assert "training frames: unknown, so nobody can say" in capsys.readouterr().out
    assert saved(result)["protocol"]["leaks"]["training"] == "unknown"

    assert evaluate(*words, "--trained-on synthetic") == 0
    told = capsys.readouterr().err
    leaks = saved(result)["protocol"]["leaks"]
    assert (leaks["training"], leaks["lists"][0]["name"], leaks["exact"]) == ("declared", "synthetic/train", 1)
    assert "warning: leak: 1 of 1 evaluated frames are training frames (1 as supports alone)" in told
    assert "(declared: synthetic/train, " in told


def test_a_leak_is_told_stored_and_kept_out_of_tables(kitti_run: Path, recording: Path, tmp_path: Path, capsys) -> None:
    remember(kitti_run, recording, "val")
    assert evaluate(*on_drive(kitti_run, recording)) == 0
    assert "warning: leak: 1 of 1 evaluated frames are training frames, 1 have one within 10" in capsys.readouterr().err
    clean = Path(shutil.copytree(kitti_run, tmp_path / "models" / "other" / "42"))
    shutil.rmtree(clean / "results")
    remember(clean, recording, "test")
    assert evaluate(*on_drive(clean, recording)) == 0
    assert "warning: none of 1 evaluated frames is a training frame, but 1 have one" in capsys.readouterr().err
    assert tables([str(tmp_path / "models")]) == 0
    printed = capsys.readouterr()
    assert "other" in printed.out
    assert "md2 " not in printed.out
    assert "kitti_synthetic_val_best_median.yaml: 1 of its 1 frames are of its training (synthetic/val)" in printed.err
    assert tables([str(tmp_path / "models"), "--allow-leak"]) == 0
    assert "(leak)" in capsys.readouterr().out


def test_every_kind_of_evaluation_tells(run: Path, tmp_path: Path, capsys) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("results", "variations")))
    path, save = run / "ckpts" / "best.safetensors", tmp_path / "r.yaml"
    options = {"items_per_scene": 8, "num_items": 8, "clutter": 0}  # the length of drives is another at evaluation
    ((entry, frames),) = DATASETS.create("synthetic", mode="test", supp_idxs=None, **options).lists()
    tensors, metadata = safefile.read(path)
    safefile.write(path, tensors, metadata | TrainedOn((entry,), frames).pack()[1])
    data = "--set dataset.test.items_per_scene=6 dataset.test.num_items=6"
    for option, last in (
        ("--vary", f"saved: {save}"),
        ("--temporal", "temporal alignment error: "),
        ("--temporal learned", "temporal alignment error: "),
        ("--odometry", ""),
    ):
        assert evaluate("--ckpt", run, option, "--save", save, data) == 0
        told = capsys.readouterr()
        assert "warning: leak: 6 of 6 evaluated frames are training frames" in told.err
        assert "leak" not in told.out
        assert told.out.splitlines()[-1].startswith(last)
        assert saved(save)["protocol"]["leaks"]["exact"] == 6


def test_mistakes_of_a_declaration(kitti_run: Path, recording: Path, tmp_path: Path, capsys) -> None:
    words = on_drive(kitti_run, recording)
    assert "Did you mean 'synthetic'" in refused(capsys, *words, "--trained-on syntetic")
    assert "no such split file" in refused(capsys, *words, f"--trained-on {tmp_path}/none.txt")
    other = tmp_path / "list.txt"
    other.write_text("image 0\n")
    assert "list.txt:1: 'image 0': expected" in refused(capsys, *words, f"--trained-on {other}")
    remember(kitti_run, recording, "test")
    message = refused(capsys, *words, "--trained-on synthetic")
    assert "says itself what it was trained on. Leave it out" in message


def test_a_converted_checkpoint_says_what_is_declared(tmp_path: Path, recording: Path, capsys) -> None:
    import torch

    source, target = tmp_path / "x.ckpt", tmp_path / "x.safetensors"
    torch.save(lightning_checkpoint({"depth": {"enc_name": "test_resnet"}}), source)
    split = recording / "splits" / "synthetic" / "train_files.txt"
    assert convert([str(source), str(target), "--trained-on", str(split)]) == 0
    assert "trained on, as declared: synthetic/train, " in capsys.readouterr().out
    trained = read_trained_on(target)
    assert trained is not None
    assert trained.is_declared
    assert json.loads(safefile.read_metadata(target)[KEY])["declared"] is True
    assert convert([str(source), str(target), "--force", "--trained-on", "nowhere.txt"]) == 2
    assert "nowhere.txt: there is no such split file" in capsys.readouterr().err


def test_lists_are_named_by_their_content(recording: Path, shared_data: Path, tmp_path: Path, capsys) -> None:
    lists, splits = shared_data / "kitti_splits", tmp_path / "splits"
    (splits / "eigen_zhou").mkdir(parents=True)
    shutil.copy(lists / "benchmark" / "val_files.txt", splits / "eigen_zhou" / "val_files.txt")
    real = Path(shutil.copytree(recording, tmp_path / "kitti_raw_sync"))
    (real / "synthetic.json").unlink()
    words = ["kitti", "check", "--root", str(real), "--jobs", "1", "--splits-dir"]
    assert prepare([*words, str(splits)]) == 1  # there are no such drives
    told = (
        "this is the KITTI benchmark validation list under the name eigen_zhou/val: 145 of the 697 Eigen test frames"
        " are in it\n"
    )
    assert told in capsys.readouterr().out
    shutil.copy(lists / "eigen_zhou" / "val_files.txt", splits / "eigen_zhou")
    assert prepare([*words, str(splits)]) == 1
    assert "under the name" not in capsys.readouterr().out
