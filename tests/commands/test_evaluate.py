"""The command `evaluate` on an untrained network: what it prints, what it saves, how it refuses."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.world import ROOT, command
from trainer.build import build_objective
from trainer.checkpoint.safefile import write
from trainer.commands.evaluate import main, parse
from trainer.config import load_config
from trainer.metrics import METRICS
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.crop import CROPS

SMALL = {
    "dataset.size": [96, 64],
    "dataset.items_per_scene": 2,
    "dataset.test.num_items": 4,
    "dataset.val.num_items": 3,
    "net.depth.enc_name": "resnet10t",
    "net.pose.enc_name": "resnet10t",
}


CPU_X2 = ("-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/cpu_x2.yaml")


def write_run(folder: Path, supp_idxs: list[int], **changes) -> Path:
    """Write a run folder with an untrained network and return it."""
    cfg_files = [ROOT / "cfg/synthetic/default.yaml", ROOT / "cfg/synthetic/monodepth2_M.yaml"]
    cfg = load_config(cfg_files, overrides=[{**SMALL, "dataset.supp_idxs": supp_idxs, **changes}])
    torch.manual_seed(0)
    tensors = dict(build_objective(cfg).state_dict())
    hparams = {"name": "md2", "version": "42", "seed": 1, "trainer_version": "0", "config": cfg.to_dict()}
    facts = {
        "hparams": json.dumps(hparams),
        "epoch": "3",
        "step": "120",
        "monitor": "AbsRel",
        "metrics": "{}",
    }
    (folder / "ckpts").mkdir(parents=True)
    write(folder / "ckpts" / "best.safetensors", tensors, facts)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on video, so it has a pose network and no scale."""
    return write_run(tmp_path_factory.mktemp("runs") / "md2" / "42", [-1, 1])


def told(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def test_prints_a_table_and_the_ratio_last(run, capsys):
    assert main(["--ckpt", str(run)]) == 0
    out = capsys.readouterr().out
    last = out.strip().splitlines()[-1]
    assert re.fullmatch(r"ratio to best constant depth: \d+\.\d\d", last)
    for text in ("abs_rel", "best constant", "mean of row", "protocol: synthetic test, 4 items", "results"):
        assert text in out
    saved = run / "results" / "synthetic_best_median.yaml"
    assert f"saved: {saved}" in out
    assert float(last.split()[-1]) == pytest.approx(told(saved)["ratio_to_constant_depth"], abs=0.006)


def test_result_file_tells_the_whole_protocol(run, tmp_path):
    save = tmp_path / "deep" / "result.yaml"
    arguments = ["--crop", "garg", "--max-depth", "40", "--mode", "val", "--limit", "2"]
    assert main(["--ckpt", str(run), "--save", str(save), *arguments]) == 0
    protocol = told(save)["protocol"]
    assert (protocol["alignment"], protocol["crop"], protocol["max_depth_m"]) == ("median", "garg", 40)
    assert (protocol["items"], protocol["limit"]) == (2, "2 of 3, evenly spaced")
    assert protocol["dataset"]["type"] == "synthetic"
    assert (protocol["dataset"]["mode"], protocol["dataset"]["size"]) == ("val", [96, 64])
    checkpoint = protocol["checkpoint"]
    assert (checkpoint["epoch"], checkpoint["step"], checkpoint["run"]["name"]) == (3, 120, "md2")
    assert len(checkpoint["sha256"]) == 64
    assert "trainer_version" in protocol


def test_same_checkpoint_same_file(run, tmp_path):
    saves = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for save in saves:
        assert main(["--ckpt", str(run), "--save", str(save), "--limit", "2"]) == 0
    assert saves[0].read_bytes() == saves[1].read_bytes()


def test_a_part_of_the_items_does_not_replace_the_whole(run):
    assert main(["--ckpt", str(run / "ckpts" / "best.safetensors"), "--limit", "2"]) == 0
    assert (run / "results" / "synthetic_best_median_2items.yaml").is_file()


def test_training_with_a_stereo_pair_knows_the_scale(tmp_path, capsys):
    stereo = write_run(tmp_path / "stereo", [0], **{"net.pose": None})
    assert main(["--ckpt", str(stereo), "--limit", "2"]) == 0
    assert "alignment stereo (factor 5.4" in capsys.readouterr().out
    assert main(["--ckpt", str(stereo), "--pose"]) == 2
    assert "has no pose network" in capsys.readouterr().err


def test_pose_is_stored_beside_depth(run, tmp_path, capsys):
    assert main(["--ckpt", str(run), "--save", str(tmp_path / "r.yaml"), "--pose", "--limit", "3"]) == 0
    pose = told(tmp_path / "r.yaml")["pose"]
    assert pose["count"] == 6  # two supports each
    assert pose["supp_idxs"] == [-1, 1]
    assert 0 < pose["mean"] < 180
    assert "pose: " in capsys.readouterr().out


def test_sheet(run, tmp_path, capsys):
    sheet = tmp_path / "pictures" / "sheet.png"
    arguments = [
        "--sheet",
        str(sheet),
        "--num-sheet",
        "1",
        "--limit",
        "2",
        "--save",
        str(tmp_path / "r.yaml"),
    ]
    assert main(["--ckpt", str(run), *arguments]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert f"sheet: {sheet}" in capsys.readouterr().out


@pytest.mark.parametrize("longer", [1, 20])
def test_no_text_leaves_the_sheet(run, tmp_path, monkeypatch, longer):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from trainer.evaluation import report

    line = report.protocol_line
    told = "LiDAR, metres ahead of the scanner (targets_test.npz, sha256 0123456789abcdef); "
    monkeypatch.setattr(report, "protocol_line", lambda result: told * longer + line(result))
    boxes = []

    def measure(canvas, _):
        texts = [text for text in canvas.figure.texts if text.get_text()]
        boxes.append((canvas.figure.bbox, texts[-1].get_text(), texts[-1].get_window_extent(canvas.renderer)))

    monkeypatch.setattr(
        FigureCanvasAgg, "print_png", lambda canvas, path: (canvas.draw(), measure(canvas, path))
    )
    monkeypatch.setattr(report, "replacing", _staged)
    arguments = ["--sheet", str(tmp_path / "s.png"), "--num-sheet", "1", "--limit", "1"]
    assert main(["--ckpt", str(run), *arguments, "--save", str(tmp_path / "r.yaml")]) == 0
    ((page, text, box),) = boxes
    assert text.startswith("LiDAR")
    assert text.endswith("..." if longer > 1 else "step 120")
    assert text.count("\n") == 1
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert page.y0 <= box.y0


@contextmanager
def _staged(path: Path):
    yield path


def test_a_data_set_without_depth_says_what_can_be_done_instead(run, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        Image.new("RGB", (96, 64), (number * 50, 90, 30)).save(frames / f"{number:03}.png")
    page = tmp_path / "page.yaml"
    page.write_text(f"dataset: {{type: folder, path: {frames}, val_every: 0}}\n")
    assert main(["--ckpt", str(run), "-c", str(page)]) == 2
    told = capsys.readouterr().err
    assert "folder has no true depth here" in told
    assert "export_depth" in told
    assert "use_depth" not in told
    assert "--odometry" not in told  # nor any poses


def test_configuration_can_be_changed_from_outside(run, tmp_path):
    override = tmp_path / "other.yaml"
    override.write_text("dataset: {scene: corridor, test: {num_items: 4}}\n")
    arguments = [
        "--cfg-file",
        str(override),
        "--set",
        "dataset.scene_seed=7",
        "--save",
        str(tmp_path / "r.yaml"),
    ]
    assert main(["--ckpt", str(run), *arguments]) == 0
    data = told(tmp_path / "r.yaml")["protocol"]["dataset"]
    assert (data["scene"], data["scene_seed"], data["num_items"]) == ("corridor", 7, 4)


def test_corrected_hparams_replace_the_embedded_ones(run, tmp_path):
    hparams = json.loads(_metadata(run)["hparams"])
    hparams["config"]["dataset"]["test"]["num_items"] = 1
    path = tmp_path / "hparams.yaml"
    path.write_text(yaml.safe_dump(hparams))
    assert main(["--ckpt", str(run), "--hparams", str(path), "--save", str(tmp_path / "r.yaml")]) == 0
    assert told(tmp_path / "r.yaml")["protocol"]["items"] == 1


def _metadata(run: Path) -> dict[str, str]:
    from trainer.checkpoint.safefile import read_metadata

    return read_metadata(run / "ckpts" / "best.safetensors")


def test_kitti_with_the_checkpoint_of_other_data(run, tmp_path, shared_data, capsys):
    """Another type starts afresh but for the size; crop of Garg by default; truths keep their size."""
    override = tmp_path / "kitti.yaml"
    split = shared_data / "splits" / "kitti_raw" / "test_files.txt"
    override.write_text(
        f"dataset: {{type: kitti, root: {shared_data}, split_file: {split}, use_benchmark: true}}\n"
    )
    code = main(["--ckpt", str(run), "-c", str(override)])
    told_user = capsys.readouterr()
    assert code == 0, told_user.err
    assert "protocol: kitti test_files test" in told_user.out
    protocol = told(run / "results" / "kitti_test_files_annotated_best_median.yaml")["protocol"]
    assert (protocol["crop"], protocol["dataset"]["size"]) == ("garg", [96, 64])
    assert protocol["dataset"]["depth_size"] is None
    assert protocol["items"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alignment", "mediam"], "Did you mean 'median'"),
        (["--crop", "grag"], "Did you mean 'garg'"),
        (["--metrics", "egien"], "Did you mean 'eigen'"),
        (["--min-depth", "90"], "0 < min_depth < max_depth"),
        (["--limit", "0"], "1 or more"),
        (["--batch-size", "0"], "1 or more"),
        (["--num-sheet", "0", "--sheet", "x.png"], "1 or more"),
        (["--sheet", "x.pgn"], "must end in .png"),
        (["--set", "dataset.scnee=road"], "Did you mean 'scene'"),
        (["--set", "dataset.type=kiti"], "Did you mean 'kitti'"),
        (["--cfg-file", "absent.yaml"], "absent.yaml: "),
        (["--hparams", "absent.yaml"], "absent.yaml: "),
        (["--max-depth", "0.002"], "nothing was scored"),
    ],
)
def test_errors_are_sentences_and_leave_no_file(run, tmp_path, capsys, arguments, message):
    save = tmp_path / "r.yaml"
    assert main(["--ckpt", str(run), "--save", str(save), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not save.exists()


@pytest.mark.parametrize("option", ["--save", "--sheet"])
def test_a_place_that_cannot_be_written(run, tmp_path, capsys, option):
    (tmp_path / "file").touch()
    outputs = {"--save": str(tmp_path / "r.yaml"), option: str(tmp_path / "file" / "out.png")}
    arguments = [word for pair in outputs.items() for word in pair]
    assert main(["--ckpt", str(run), "--limit", "1", *arguments]) == 2
    assert f"error: {tmp_path / 'file'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("folder", "holds no checkpoint"),
        (b"not a checkpoint", "safetensors"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, capsys, content, message):
    path = tmp_path / "x.safetensors"
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    assert main(["--ckpt", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_choice(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    out = capsys.readouterr().out
    for name in (*ALIGNMENTS, *CROPS, *METRICS.names()):
        assert name in out
    assert "default: what the file says, else m" in " ".join(out.split())


@pytest.mark.parametrize("path", sorted((ROOT / "cfg").glob("e[vx]*/*.yaml")), ids=str)
def test_shipped_overrides_are_valid_changes(run, path):
    from trainer.evaluation.subject import changed_config

    cfg = changed_config(json.loads(_metadata(run)["hparams"])["config"], [path], [])
    _, kwargs = cfg.dataset_kwargs("test")
    assert list(kwargs["size"]) == [96, 64]


@pytest.mark.slow
def test_exit_code_of_the_process(tmp_path):
    done = command("launch/evaluate.py", "--ckpt", str(tmp_path / "absent"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
