"""`prepare pseudo`: what a teacher says of a picture is what the data set reads, whoever the teacher is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.hub import serving
from tests.world import SMALL, call, refused, train_args
from trainer.checkpoint.safefile import read_metadata
from trainer.commands.jobs import prepare_pseudo
from trainer.data import DATASETS
from trainer.data.files.pictures import read_image
from trainer.data.files.pseudo import label_facts, read_label
from trainer.predict import DepthPredictor
from trainer.predict.teachers import least_size

SIZE = (96, 64)
NAMES = ("frame_00", "frame_01", "frame_02")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three pictures of noise, 48x32."""
    folder = tmp_path_factory.mktemp("films") / "film"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory):
    """A folder of transformers with random weights."""
    transformers = pytest.importorskip("transformers", reason="of the extra `export`")
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=8, neck_hidden_sizes=[4] * 4, fusion_hidden_size=4,
        head_hidden_size=4,
    )  # fmt: skip
    model = transformers.DepthAnythingForDepthEstimation(config)
    for name, values in model.named_parameters():
        torch.nn.init.normal_(values, std=0.3 if name.startswith(("neck", "head")) else 0.1)
    torch.nn.init.constant_(model.head.conv3.bias, 1.0)
    model.save_pretrained(folder)
    size = {"height": 28, "width": 28}
    transformers.DPTImageProcessor(size=size, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A file whose disparity is ten more than the mean of the standardised channels."""
    onnx = pytest.importorskip("onnx", reason="of the extra `export`")
    pytest.importorskip("onnxruntime", reason="of the extra `export`")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "ten"], ["map"]),
    ]
    ends = [helper.make_tensor_value_info(*about) for about in (
        ("image", kind, ["b", 3, "h", "w"]), ("map", kind, ["b", "h", "w"]))]  # fmt: skip
    ten = [helper.make_tensor("ten", kind, [], [10.0])]
    graph = helper.make_graph(nodes, "teacher", ends[:1], ends[1:], ten)
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def pseudo(films, out, teacher, *options, **env):
    words = ["-c", "real/folder", "--teacher", str(teacher), "--out", str(out), "--jobs", "2", *options]
    settings = [f"dataset.path={films}", "dataset.val_every=0", f"dataset.size={list(SIZE)}"]
    page = ["dataset.supp_idxs=~", "trainer.limit_val_batches=0"]
    return call("prepare", "pseudo", *words, "--set", *settings, *page, **env)


def made(out):
    return {path.stem: path for path in sorted((out / "film").iterdir())}


def check(out, films, disparity):
    """Assert that the labels are `disparity` of each picture (h w 3) uint8, to 1/65534 of the maximum."""
    paths = made(out)
    assert tuple(paths) == NAMES
    dataset = DATASETS.create("folder", path=str(films), val_every=0, size=SIZE, use_pseudo=True, pseudo_root=str(out),
                              supp_idxs=None)  # fmt: skip
    assert dataset.check() + dataset.label_problems() == []
    for index, path in enumerate(paths.values()):
        expected = disparity(films / f"{path.stem}.png")
        assert expected.std() > 0.003 * expected.max()
        label = read_label(str(path))
        np.testing.assert_allclose(label, expected, rtol=0, atol=1.01 * expected.max() / 65534)
        if label.shape == SIZE[::-1]:
            assert dataset[index]["pseudo"].equal(torch.from_numpy(label)[None])


def test_a_folder_of_transformers(films, depth_anything, tmp_path):
    import transformers

    done = pseudo(films, tmp_path, depth_anything, "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 items (train) have labels, 3 new" in done.stdout
    model = transformers.AutoModelForDepthEstimation.from_pretrained(depth_anything)

    def disparity(path):
        image = torch.from_numpy(read_image(path, (42, 28)).copy()).permute(2, 0, 1)[None] / 255
        values = (image - 0.5) / 0.5  # mean and deviation of the processor
        with torch.no_grad():
            return model(values).predicted_depth[0].numpy()

    check(tmp_path, films, disparity)
    facts = label_facts(str(made(tmp_path)["frame_00"]))
    record = json.loads((tmp_path / "pseudo.json").read_text())
    assert facts["model"] == record["model"] == "tiny"
    assert facts["sha256"] == record["sha256"] != ""
    assert facts["resize"] == "pictures resized bilinearly to 42x28, no crop"
    assert (record["licence"], record["kind"], record["items"]) == ("apache-2.0", "disparity", {"train": 3})
    assert done.stdout.splitlines()[-1].endswith(
        f"dataset.use_pseudo=true dataset.pseudo_root={tmp_path} loss.disp_ssi.weight=0.1"
    )


def test_a_checkpoint_of_this_trainer(films, run, tmp_path):
    done = pseudo(films, tmp_path, run)
    assert done.returncode == 0, done.stderr
    predictor = DepthPredictor.load(run)
    check(tmp_path, films, lambda path: predictor.disparities(predictor.prepare(Image.open(path))[None])[0, 0].numpy())
    record = json.loads((tmp_path / "pseudo.json").read_text())
    assert (record["model"], record["sha256"]) == ("md2/42", predictor.model)


def standardised(path, size):
    image = read_image(path, size) / 255
    return (((image - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).mean(2) + 10).astype(np.float32)


def test_an_onnx_file(films, onnx_file, tmp_path):
    done = pseudo(films, tmp_path, onnx_file, "--size", "48x32")
    assert done.returncode == 0, done.stderr
    check(tmp_path, films, lambda path: standardised(path, (48, 32)))
    assert pseudo(films, tmp_path / "plain", onnx_file, "--size", "48x32", "--normalise", "none").returncode == 0
    check(tmp_path / "plain", films, lambda path: (read_image(path, (48, 32)) / 255).mean(2) + 10)


def test_depth_becomes_disparity(films, onnx_file, tmp_path):
    options = ("--size", "96x64", "--kind", "depth")
    assert pseudo(films, tmp_path, onnx_file, *options).returncode == 0
    check(tmp_path, films, lambda path: 1 / standardised(path, SIZE))


@pytest.fixture
def maps(films, tmp_path):
    folder = tmp_path / "maps"
    (folder / "film").mkdir(parents=True)
    for number, name in enumerate(NAMES, 1):
        np.save(folder / "film" / f"{name}.npy", np.linspace(number, 5 * number, 12).reshape(3, 4))
    return folder


def test_a_folder_of_arrays(films, maps, tmp_path):
    done = pseudo(films, tmp_path / "out", maps)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "out", films, lambda path: np.load(maps / "film" / f"{path.stem}.npy"))
    broken = np.full((3, 4), np.nan)
    broken[0, 0] = 4
    np.save(maps / "film/frame_00.npy", broken)
    (maps / "film/frame_01.npy").unlink()
    done = pseudo(films, tmp_path / "depth", maps, "--kind", "depth")
    assert done.returncode == 1
    assert "2 of 3 items (train) have labels, 2 new" in done.stdout
    assert f"1 item has none:\n  film/frame_01: no such map in {maps}" in done.stdout
    label = read_label(str(tmp_path / "depth/film/frame_00.png"))
    assert (label[0, 0], np.count_nonzero(label)) == (0.25, 1)


def test_only_what_is_missing_or_broken_is_made(films, maps, tmp_path):
    out = tmp_path / "out"
    assert pseudo(films, out, maps).returncode == 0
    paths = made(out)
    before = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    whole = paths["frame_01"].read_bytes()
    paths["frame_01"].write_bytes(whole[:50] + bytes(20) + whole[70:])  # damaged inside
    (out / "film" / ".frame_02.png.tmp-999999999").write_bytes(b"cut off")
    done = pseudo(films, out, maps)
    assert "3 of 3 items (train) have labels, 1 new" in done.stdout
    assert made(out) == paths
    assert paths["frame_01"].read_bytes() == whole
    assert all(paths[name].stat().st_mtime_ns == before[name] for name in ("frame_00", "frame_02"))


def test_a_stopped_run_leaves_whole_files_and_continues(films, maps, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "out", prepare_pseudo.encode_label, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(prepare_pseudo, "encode_label", stopped)
    assert pseudo(films, out, maps, "--batch-size", "1").returncode == 130
    there = list((out / "film").iterdir())
    assert 1 <= len(there) < 3
    assert all(read_label(str(path)).any() for path in there)
    monkeypatch.undo()
    assert f"{3 - len(there)} new" in pseudo(films, out, maps).stdout


def test_labels_of_two_teachers_do_not_mix(films, maps, onnx_file, tmp_path):
    out = tmp_path / "out"
    assert pseudo(films, out, maps).returncode == 0
    done = pseudo(films, out, onnx_file, "--size", "48x32")
    refused(done, f"{out} has other labels: model maps there, teacher.onnx now", "--overwrite")
    assert "3 new" in pseudo(films, out, onnx_file, "--size", "48x32", "--overwrite").stdout
    check(out, films, lambda path: standardised(path, (48, 32)))


def test_large_maps_are_stored_at_the_size_of_the_training(films, onnx_file, tmp_path):
    done = pseudo(films, tmp_path / "usual", onnx_file, "--size", "192x128")
    assert done.returncode == 0, done.stderr
    assert read_label(str(made(tmp_path / "usual")["frame_00"])).shape == (64, 96)
    assert pseudo(films, tmp_path / "own", onnx_file, "--size", "96x64", "--label-size", "24x16").returncode == 0
    assert read_label(str(made(tmp_path / "own")["frame_00"])).shape == (16, 24)


def test_a_model_on_the_hub(films, depth_anything, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving({"alice/tiny": depth_anything}, tmp_path / "cache") as server:
        done = pseudo(films, tmp_path / "out", "alice/tiny")
        assert done.returncode == 0, done.stderr
        assert server.fetched["model.safetensors"] == 1
        refused(
            pseudo(films, tmp_path / "other", "alice/nothing"),
            "alice/nothing: no such file or folder, and no such model",
        )
    record = json.loads((tmp_path / "out/pseudo.json").read_text())
    assert record["model"] == "alice/tiny"
    assert len(record["revision"]) == 40


@pytest.mark.long
def test_a_checkpoint_remembers_the_teacher_and_continues_with_its_labels_alone(onnx_file, tmp_path):
    page = ["-c", "cfg/synthetic/monodepth2_MS.yaml", "-d", "cfg/synthetic/default.yaml"]
    for size, out in (("64x64", "one"), ("96x96", "two")):
        teacher = tmp_path / out / "teacher.onnx"
        teacher.parent.mkdir()
        teacher.write_bytes(onnx_file.read_bytes() + (b"\x82\x01\x00" if out == "two" else b""))  # an empty field
        words = ["--teacher", teacher, "--out", tmp_path / out, "--size", size, "--mode", "train", "val"]
        assert call("prepare", "pseudo", *page, *words, "--set", *SMALL).returncode == 0

    def train(out, *more):
        labels = ["dataset.use_pseudo=true", f"dataset.pseudo_root={tmp_path / out}", *more]
        return call(*train_args(tmp_path / "models", *labels))

    assert train("one", "trainer.max_epochs=1").returncode == 0
    (last,) = tmp_path.glob("models/*/*/ckpts/last.safetensors")
    known = json.loads(read_metadata(last)["hparams"])["pseudo"]
    record = json.loads((tmp_path / "one/pseudo.json").read_text())
    assert known == {key: value for key, value in record.items() if key not in ("command", "items")}
    refused(train("two"), "pseudo.sha256")
    assert train("one").returncode == 0
    (tmp_path / "one/synthetic/val/scene 0/frame 0/left.png").unlink()
    refused(train("one"), "dataset (val): 1 of 4 items have no pseudo-label")


@pytest.mark.parametrize(
    ("teacher", "options", "told"),
    [
        ("nowhere.onnx", (), "--teacher nowhere.onnx: no such file"),
        ("/nowhere", (), "/nowhere"),
        ("broken.onnx", (), "cannot be loaded as ONNX"),
        ("bert", (), "transformers cannot load it as a network of depth (ValueError: Unrecognized"),
        ("half", (), "its weights lack"),
        ("tiny", ("--size", "50x40"), "--size 50x40: sides must be multiples of 14. Nearest: 56x42"),
        ("onnx", ("--precision", "16"), "--precision 16: an ONNX file has its own"),
        ("run", ("--kind", "depth"), "--kind depth: "),
        ("tiny", ("--device", "moon"), "--device moon"),
    ],
)
def test_mistakes_are_sentences(films, depth_anything, onnx_file, run, tmp_path, monkeypatch, teacher, options, told):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    if teacher == "half":
        from safetensors.torch import load_file, save_file

        shutil.copytree(depth_anything, tmp_path / "half")
        tensors = load_file(tmp_path / "half/model.safetensors")
        tensors.pop("head.conv1.weight")
        save_file(tensors, tmp_path / "half/model.safetensors", {"format": "pt"})
    made_here = {"broken.onnx": tmp_path / "broken.onnx", "bert": tmp_path / "bert", "half": tmp_path / "half"}
    found = {"tiny": depth_anything, "onnx": onnx_file, "run": run, **made_here}.get(teacher, teacher)
    done = pseudo(films, tmp_path / "out", found, *options)
    refused(done, told)
    assert not (tmp_path / "out").exists()


def test_the_folder_must_be_named(films, maps):
    words = ["-c", "real/folder", "--teacher", str(maps), "--set", f"dataset.path={films}"]
    refused(call("prepare", "pseudo", *words), "--out is required")


def test_the_size_rule_of_depth_anything():
    assert least_size((1242, 375)) == (1722, 518)  # 1242 * 518 / 375 = 1715.6, nearest multiple of 14: 1722
    assert least_size((640, 480)) == (686, 518)  # 690.7
    assert least_size((518, 518)) == (518, 518)
