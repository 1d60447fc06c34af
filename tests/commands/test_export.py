"""The command `export`: files that other programs read, each as exact as it says, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from tests.world import ROOT, call, command, copied_run, refused
from trainer.checkpoint import load_objective, safefile
from trainer.checkpoint.publish import KEPT_SETTINGS
from trainer.evaluation.subject import sha256
from trainer.predict import DepthPredictor
from trainer.predict.formats import onnx_file, program

SCRIPT = re.search(r"```python\n(import sys.*?)```", (ROOT / "docs/tasks/export.md").read_text(), re.S)
# The project is not there for what runs after this.
ALONE = "import sys; sys.modules['trainer'] = sys.modules['models_zoo'] = None\n"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of another size than that of the network."""
    path = tmp_path_factory.mktemp("pictures") / "street.png"
    red, green = np.meshgrid(np.arange(150), np.arange(90))
    Image.fromarray(np.stack([red, green, (red * green) % 256], 2).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def folder(stereo_run: Path, picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for transformers."""
    pytest.importorskip("transformers", reason="of the extra `export`")
    out = tmp_path_factory.mktemp("transformers") / "depth"
    done = call("export", stereo_run, "--format", "transformers", "--out", out, "--verify", picture.parent)
    assert done.returncode == 0, done.stderr
    assert "on 1 pictures" in done.stdout
    assert "depth is metres (trained on stereo pairs" in done.stdout
    return out


@pytest.mark.long
def test_an_onnx_file_says_what_it_is(run: Path, picture: Path, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="of the extra `export`")
    onnxruntime = pytest.importorskip("onnxruntime", reason="of the extra `export`")
    run = copied_run(run, tmp_path / "run")
    path, checkpoint = tmp_path / "depth.onnx", run / "ckpts" / "best.safetensors"
    shutil.rmtree(results := run / "results", ignore_errors=True)
    results.mkdir()
    protocol = {"alignment": "median", "items": 4, "dataset": {"type": "synthetic"}}
    for name, digest in (("mine", sha256(checkpoint)), ("other", "0")):
        text = json.dumps({"mean": {"abs_rel": 0.5}, "protocol": {**protocol, "checkpoint": {"sha256": digest}}})
        (results / f"{name}.yaml").write_text(text)
    done = call("export", run, "--format", "onnx", "--out", path, "--time")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"saved: .*, [\d.]+ MB, differs from PyTorch by at most \d\.\de-\d\d \(relative, limit", done.stdout
    )
    assert re.search(r"one image on one thread: [\d.]+ ms, PyTorch [\d.]+ ms, ratio [\d.]+", done.stdout)

    session = onnxruntime.InferenceSession(str(path))
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["unit"], facts["scale"], facts["width"], facts["height"]) == ("relative", "1.0", "96", "64")
    assert facts["checkpoint_sha256"] == sha256(checkpoint)
    assert (facts["run_name"], facts["run_seed"]) == ("md2", "1")
    assert [result["file"] for result in json.loads(facts["results"])] == ["mine.yaml"]  # of this checkpoint alone
    assert json.loads(facts["results"])[0]["mean"] == {"abs_rel": 0.5}
    assert str(ROOT).encode() not in path.read_bytes()
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("image", [1, 3, 64, 96], "tensor(uint8)")]

    predictor = DepthPredictor.load(run, device="cpu")
    image = predictor.prepare(Image.open(picture, formats=["PNG"]))[None]
    disparity, depth = session.run(["disparity", "depth"], {"image": image.numpy()})
    assert disparity.shape == depth.shape == (1, 1, 64, 96)
    np.testing.assert_allclose(disparity * depth, 1, rtol=1e-5)
    np.testing.assert_allclose(disparity, predictor.disparities(image), rtol=1e-4)


@pytest.mark.long
def test_an_archive_runs_where_pytorch_is_alone(stereo_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "depth.pt2"
    done = call("export", stereo_run, "--format", "torch", "--out", path, "--dynamic", "batch", "size", "--scale", "2")
    assert done.returncode == 0, done.stderr
    code = ALONE + (
        "import json, torch\n"
        "files = {'metadata.json': ''}\n"
        "network = torch.export.load('depth.pt2', extra_files=files).module()\n"
        "facts = json.loads(files['metadata.json'])\n"
        "print(facts['unit'], facts['scale'], facts['scale_origin'])\n"
        "for shape in (1, 3, 64, 96), (3, 3, 96, 64):\n"
        "    disparity, depth = network(torch.zeros(shape, dtype=torch.uint8))\n"
        "    print(tuple(depth.shape), f'{float(depth[0, 0, 0, 0]):.5g}')\n"
    )
    done = command("-W", "ignore", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "m 2.0 calibrated: x 2, given by the user"
    depth = 2 * load_objective(stereo_run).predict_depth(torch.zeros(1, 3, 64, 96))[0, 0, 0, 0]
    assert lines[1] == f"(1, 1, 64, 96) {float(depth):.5g}"
    assert lines[2].startswith("(3, 1, 96, 64)")


@pytest.mark.long
def test_the_script_of_the_documentation_runs_without_this_project(folder, stereo_run, picture, tmp_path) -> None:
    assert SCRIPT is not None
    saving = "\nimport numpy; numpy.save('depth.npy', depth)"
    done = command(
        *("-W", "ignore", "-c", ALONE + SCRIPT[1] + saving, folder, picture, "depth.png"),
        cwd=tmp_path,
        HF_HOME=str(tmp_path / "home"),
    )
    assert done.returncode == 0, done.stderr
    assert "metres" in done.stdout
    expected = DepthPredictor.load(stereo_run, device="cpu")(picture).depth
    np.testing.assert_allclose(np.load(tmp_path / "depth.npy"), expected, rtol=1e-4)
    with Image.open(tmp_path / "depth.png", formats=["PNG"]) as coloured:
        assert (coloured.size, coloured.mode) == ((150, 90), "RGB")


def test_the_folder_needs_no_flag_where_the_project_is(folder: Path, stereo_run: Path, picture: Path) -> None:
    from transformers import pipeline

    from models_zoo.hub.modeling import register

    register()
    predicted = pipeline("depth-estimation", model=str(folder))(str(picture))["predicted_depth"]
    expected = DepthPredictor.load(stereo_run, device="cpu")(picture).depth
    np.testing.assert_allclose(predicted.numpy(), expected, rtol=1e-4)


def test_the_weights_of_the_folder_are_a_checkpoint(folder: Path, stereo_run: Path) -> None:
    mine, original = (load_objective(path).state_dict() for path in (folder / "model.safetensors", stereo_run))
    assert mine.keys() == original.keys()
    assert all(torch.equal(mine[key], original[key]) for key in mine)
    settings = json.loads(safefile.read_metadata(folder / "model.safetensors")["hparams"])
    assert settings.keys() <= {*KEPT_SETTINGS}  # nothing about the machine
    config = json.loads((folder / "config.json").read_text())
    assert (config["depth_estimation_type"], config["factor"]) == ("metric", 5.4)
    assert (config["min_depth"], config["max_depth"], config["image_size"]) == (0.1, 100.0, [64, 96])
    assert not [path for path in folder.iterdir() if path.is_dir()]  # nothing compiled is left


def test_other_files_in_a_folder_stay(folder: Path, run: Path, tmp_path: Path) -> None:
    """A relative network gives disparity, larger = nearer."""
    out = tmp_path / "depth"
    out.mkdir()
    (out / "README.md").write_text("mine")
    (out / "config.json").write_text("old")
    done = call("export", run, "--format", "transformers", "--out", out, "--force")
    assert done.returncode == 0, done.stderr
    assert (out / "README.md").read_text() == "mine"
    config = json.loads((out / "config.json").read_text())
    assert config["depth_estimation_type"] == "relative"
    assert {path.name for path in out.iterdir()} - {"README.md"} == {path.name for path in folder.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["depth"]


def test_a_file_that_differs_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(network, interface, facts, path) -> None:
        path.write_text("wrong")

    def load(path):
        return lambda images: tuple(torch.full((1, 1, 64, 96), 3.0) for _ in range(2))

    monkeypatch.setattr(program, "write", write)
    monkeypatch.setattr(program, "load", load)
    out = tmp_path / "depth.pt2"
    out.write_text("before")
    done = call("export", run, "--format", "torch", "--out", out, "--force")
    refused(done, "not written: its predictions differ from those of PyTorch by up to", "the limit is 0.0001")
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


TORCH, ONNX, FOLDER = (("--format", name, "--out") for name in ("torch", "onnx", "transformers"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((*TORCH, "depth.onnx"), "must end in .pt2"),
        ((*FOLDER, "depth.pt2"), "is a folder"),
        ((*TORCH, "there.pt2"), "exists. Use --force"),
        ((*TORCH, "there.pt2/depth.pt2"), "is a file, but a folder is needed there"),
        ((*TORCH, "x.pt2", "--size", "100,64"), "multiples of 32"),
        ((*TORCH, "x.pt2", "--scale", "-1"), "a positive number"),
        ((*TORCH, "x.pt2", "--verify", "."), "holds no picture"),
        ((*TORCH, "x.pt2", "--verify", "nothing"), "cannot be read as a folder"),
        ((*FOLDER, "x", "--dynamic", "batch", "--precision", "16"), "--dynamic, --precision: not with --format"),
    ],
)
def test_mistakes_are_sentences(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options, told) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("mine")
    refused(call("export", run, *options), told)
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]
    assert Path("there.pt2").read_text() == "mine"


@pytest.mark.parametrize(("package", "options"), [("onnxscript", ONNX), ("transformers", FOLDER)])
def test_a_missing_package_is_named(run, tmp_path, monkeypatch: pytest.MonkeyPatch, package: str, options) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ending = ".onnx" if options is ONNX else ""
    refused(call("export", run, *options, tmp_path / f"x{ending}"), f"needs the package {package}", '".[export]"')


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(torch, "__version__", "2.4.1")
    with pytest.raises(onnx_file.UserError, match=r"needs torch 2\.5 or newer, this is 2\.4\.1"):
        onnx_file.packages()


@pytest.mark.parametrize(
    ("kept", "metadata", "told"),
    [("networks.pose", {}, "depth"), ("networks.depth.encoder", {"parts": '["depth.encoder"]'}, "random weights")],
)
def test_a_checkpoint_without_depth_is_refused(run: Path, tmp_path: Path, kept: str, metadata, told: str) -> None:
    tensors, about = safefile.read(run / "ckpts" / "best.safetensors")
    hparams = json.loads(about["hparams"])
    if "pose" in kept:
        del hparams["config"]["net"]["depth"]
    about = {key: about[key] for key in ("epoch", "batch", "step", "monitor", "metrics")}
    path = tmp_path / "other.safetensors"
    safefile.write(
        path,
        {name: tensor for name, tensor in tensors.items() if name.startswith(kept)},
        {**about, "hparams": json.dumps(hparams), **metadata},
    )
    refused(call("export", path, *TORCH, tmp_path / "x.pt2"), told)
    refused(call("predict", path, ROOT / "docs/pictures/demo.png", "--out", tmp_path / "maps"), told)
    assert list(tmp_path.iterdir()) == [path]
