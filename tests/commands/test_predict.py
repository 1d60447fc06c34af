"""The command `predict` on an untrained network: names, refusals, the price of a broken picture, a stop."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.world import call, refused
from trainer.commands import bench
from trainer.runtime import signals


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two good pictures and a broken one in `photos`; the working folder is that above."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a2.png", (90, 60)), ("a10.jpg", (200, 40))):
        Image.new("RGB", size, "green").save(folder / name)
    (folder / "a3.png").write_bytes(b"")
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_broken_picture_costs_one_picture(stereo_run, pictures):
    done = call("predict", stereo_run, "photos", "--save", "color,gray16", "--save", "npz,ply")
    assert done.returncode == 1
    assert "camera: 81.53 degrees" in done.stdout  # a focal length of 0.58 widths
    assert "depth: metres (trained on stereo pairs" in done.stdout
    assert "saved: 2 frames" in done.stdout
    assert "frames that could not be read: 1\n" in done.stderr
    assert "a3.png is not a readable picture" in done.stderr
    assert names(pictures.parent / "depth") == [
        *("a10.npz", "a10.ply", "a10_color.png", "a10_gray16.png"),
        *("a2.npz", "a2.ply", "a2_color.png", "a2_gray16.png"),
    ]
    with Image.open("depth/a10_gray16.png") as metres, np.load("depth/a10.npz") as file:
        assert metres.size == (200, 40)
        assert np.asarray(metres) == pytest.approx(256 / file["disparity"], abs=0.51)
        checkpoint = (stereo_run / "ckpts/best.safetensors").read_bytes()
        assert (str(file["unit"]), str(file["model_sha256"])) == ("m", hashlib.sha256(checkpoint).hexdigest())


def test_what_exists_is_kept_unless_a_user_says_so(run, pictures):
    (pictures / "a3.png").unlink()
    command = ["predict", run, "photos", "--save", "npy", "--out", "out"]
    done = call(*command, "--limit", "1")
    assert "depth: relative depth (trained on video alone" in done.stdout
    (pictures.parent / "out/a2.npy").write_bytes(b"mine")
    refused(call(*command), "a2.npy: exists", "--force", "--skip-existing")
    assert call(*command, "--skip-existing").returncode == 0
    assert names(pictures.parent / "out") == ["a10.npy", "a2.npy"]
    assert (pictures.parent / "out/a2.npy").read_bytes() == b"mine"
    assert call(*command, "--force", "--scale", "2").returncode == 0
    assert np.load("out/a2.npy").shape == (60, 90)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--size", "97,64"], "size [97, 64]"),
        (["--scale", "docs"], "neither a number"),
        (["--device", "cuda:99"], "finds cpu"),
        (["--min", "1", "--save", "npy"], "are for colours"),
    ],
)
def test_a_wrong_argument_is_told_before_what_exists(run, pictures, options, told):
    for kind in ("a2_color.png", "a2.npy"):
        (pictures.parent / "depth").mkdir(exist_ok=True)
        (pictures.parent / "depth" / kind).touch()
    refused(call("predict", run, "photos/a2.png", *options), told)
    refused(call("predict", "no_such_model", "photos/a2.png"), "no_such_model")
    refused(call("predict", run, "photos/a2.png"), "a2_color.png: exists")


def test_a_picture_in_the_place_of_the_model_is_told(run, pictures):
    told = f"a2.png: is no checkpoint. MODEL comes first: monodepth predict {run} photos/a2.png"
    refused(call("predict", "photos/a2.png", run), told)


def test_a_single_broken_picture_is_a_sentence(run, pictures):
    done = call("predict", run, "photos/a3.png")
    assert (done.returncode, done.stdout.count("saved")) == (1, 1)
    assert "saved: nothing" in done.stdout
    assert "is not a readable picture" in done.stderr


def test_options_of_the_network_change_the_result(run, pictures):
    results = []
    for options in ([], ["--flip"], ["--size", "128,64"], ["--precision", "bf16"]):
        done = call("predict", run, "photos/a2.png", "--save", "npy", "--force", *options)
        assert done.returncode == 0, done.stderr
        results.append(np.load("depth/a2.npy"))
    assert all(not np.array_equal(results[0], other) for other in results[1:])
    assert np.allclose(results[0], results[3], rtol=0.2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.png"], "no such file or folder"),
        (["photos", "--out", "photos"], "is the folder that is read"),
        (["photos", "--save", "colour"], "Did you mean 'color'"),
        (["photos", "--size", "100,64"], "size"),
        (["photos", "--scale", "zero"], "neither a number"),
        (["photos", "--fov", "3"], "--fov must be"),
        (["photos", "--K", "0,1,1,1"], "no camera has these"),
        (["photos", "--device", "tpu9"], "device"),
        (["photos", "--device", "cuda:99"], "device cuda:99: is not there. PyTorch"),
        (["photos", "--fov", "60"], "Add ply to --save"),
        (["photos", "--save", "npy", "--max", "5"], "are for colours"),
    ],
)
def test_mistakes_are_sentences(run, pictures, arguments, told):
    refused(call("predict", run, *arguments), told)
    assert not (pictures.parent / "depth").exists()


@pytest.mark.parametrize(
    "options", [["--min", "5", "--max", "2"], ["--fov", "60", "--K", "1,1,1,1"], ["--force", "--skip-existing"],
                ["--min", "inf"], ["--K", "1,2"], ["--size", "3.5,4"]],
)  # fmt: skip
def test_options_that_contradict_are_refused(options, capsys):
    assert call("predict", "model", "photos", *options).returncode == 2


def test_outputs_do_not_replace_inputs(run, pictures):
    (pictures / "a2.png").rename(pictures / "a2_color.png")
    Image.new("RGB", (64, 64)).save(pictures / "a2.jpg")
    words = ["photos/a2.jpg", "photos/a2_color.png", "--out", "photos", "--force"]
    refused(call("predict", run, *words), "would replace a picture that is read")


def test_a_checkpoint_needs_a_depth_network(run, pictures, tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(call("predict", tmp_path / "other.safetensors", "photos"), "other.safetensors")
    refused(
        call("predict", run.parents[1], "photos"),
        "is not the folder of a run. Choose one of those in it: ",
        "/".join(run.parts[-2:]),
    )


def test_ctrl_c_finishes_what_is_under_way(run, pictures, monkeypatch):
    for i in range(40):
        Image.new("RGB", (20, 20)).save(pictures / f"b{i}.png")
    entered = signals.StopSignals.__enter__

    def interrupted(self):
        entered(self)
        signals.signal.raise_signal(signals.signal.SIGINT)
        return self

    monkeypatch.setattr(signals.StopSignals, "__enter__", interrupted)
    done = call("predict", run, "photos", "--save", "npy")
    assert done.returncode == 130
    assert "saved: 0 frames" in done.stdout


def test_the_pipeline_is_measured_beside_a_bare_loop(capsys):
    pytest.importorskip("av", reason="makes a film: the extra `video`")
    tiny = [
        "--encoder",
        "test_resnet",
        "--size",
        "64",
        "64",
        "--frames",
        "3",
        "--rounds",
        "1",
        "--pictures",
        "64",
        "48",
        "--batch-size",
        "2",
    ]
    assert bench.main(["predict", *tiny, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert set(numbers["frames_per_second"]) == {"bare", "folder", "film"}
    assert set(numbers["share_of_bare"]) == {"folder", "film"}
    assert min(*numbers["frames_per_second"].values(), numbers["peak_memory_mb"]) > 0
