"""`evaluate` on an untrained network: what it prints, what it saves and where, how it refuses."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.commands.evaluating import evaluate, hparams_of, refused, saved
from tests.world import fork
from trainer.commands.evaluate import parse
from trainer.commands.jobs.evaluate_depth import against_constant
from trainer.metrics import METRICS
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.crop import CROPS
from trainer.tables.results import read_result, read_results

RATIO = r"ratio to best constant depth: \d+\.\d\d"


def test_prints_a_table_and_the_ratio_last(run, capsys):
    assert evaluate("--ckpt", run) == 0
    out = capsys.readouterr().out
    last = out.strip().splitlines()[-1]
    assert re.fullmatch(RATIO, last)
    for text in (
        "Abs Rel",
        "RMSE [m]",
        "δ<1.25",
        "abs_rel",
        "best constant",
        "mean of row",
        "protocol: synthetic test, 4 items",
    ):
        assert text in out
    path = run / "results" / "synthetic_best_median.yaml"
    assert f"saved: {path}" in out
    assert float(last.split()[-1]) == pytest.approx(saved(path)["ratio_to_constant_depth"], abs=0.006)


def test_result_file_holds_the_whole_protocol(run, tmp_path):
    options = "--crop garg --max-depth 40 --mode val --limit 2 --save"
    for save in (tmp_path / "deep" / "a.yaml", tmp_path / "b.yaml"):
        assert evaluate("--ckpt", run, options, save) == 0
    assert (tmp_path / "deep" / "a.yaml").read_bytes() == save.read_bytes()
    protocol = saved(save)["protocol"]
    assert (protocol["alignment"], protocol["crop"], protocol["max_depth_m"]) == ("median", "garg", 40)
    assert (protocol["items"], protocol["limit"]) == (2, "2 of 3, evenly spaced")
    data = protocol["dataset"]
    assert (data["type"], data["mode"], data["size"]) == ("synthetic", "val", [96, 64])
    checkpoint = protocol["checkpoint"]
    assert (checkpoint["epoch"], checkpoint["step"], checkpoint["run"]["name"]) == (3, 120, "md2")
    assert len(checkpoint["sha256"]) == 64
    assert "trainer_version" in protocol


def test_advice_is_that_of_the_options_given(run, capsys):
    assert "add eigen (--metrics eigen boundary)" in refused(capsys, "--ckpt", run, "--metrics boundary")
    message = refused(capsys, "--ckpt", run, "--vary --pooled")
    assert "--vary scores depth under many protocols and takes no --pooled: leave out --pooled" in message


def test_a_part_of_the_items_does_not_replace_the_whole(run):
    assert evaluate("--ckpt", run / "ckpts" / "best.safetensors", "--limit 2") == 0
    assert (run / "results" / "synthetic_best_median_2items.yaml").is_file()


def test_training_with_a_stereo_pair_gives_the_scale(stereo_run, capsys):
    assert evaluate("--ckpt", stereo_run, "--limit 2") == 0
    assert "alignment stereo (factor 5.4), crop" in capsys.readouterr().out  # fixed, so without a spread


def test_weights_of_others_are_known_as_such(run, tmp_path):
    path, save = tmp_path / "hparams.yaml", tmp_path / "official" / "results" / "r.yaml"
    path.write_text(yaml.safe_dump({**hparams_of(run), "imported": {"format": "Monodepth2", "source": "x"}}))
    assert evaluate("--ckpt", run, "--hparams", path, "--limit 1 --save", save) == 0
    assert saved(save)["protocol"]["checkpoint"]["imported"] == "Monodepth2"
    (result,) = read_result(save)
    assert result.protocol["origin"] == result.seed == "official weights"
    assert result.folder == save.parents[1] / "best"


@pytest.mark.parametrize("change", ["supp_idxs=~", "use_depth=false"])
def test_what_only_the_training_needs_is_not_asked_for(run, tmp_path, change):
    assert evaluate("--ckpt", run, "--limit 1 --save", tmp_path / "r.yaml", f"--set dataset.{change}") == 0


def test_settings_that_only_a_training_reads_are_named(run, tmp_path, capsys):
    settings = "trainer.min_depth=1 dataset.use_depth=false evaluation.max_depth=50 loss.disp_smooth.weight=1"
    assert evaluate("--ckpt", run, "--limit 1 --save", tmp_path / "r.yaml", f"--set {settings}") == 0
    told = "trainer.min_depth, loss.disp_smooth.weight change nothing here, where --set is about dataset and evaluation"
    assert f"note: {told}\n" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--pose", "--odometry"])
def test_motion_needs_a_pose_network(stereo_run, capsys, option):
    assert "has no pose network" in refused(capsys, "--ckpt", stereo_run, option)


def test_pose_and_sheet(run, tmp_path, capsys):
    save, sheet = tmp_path / "r.yaml", tmp_path / "pictures" / "sheet.png"
    assert evaluate("--ckpt", run, "--pose --limit 3 --num-sheet 1 --save", save, "--sheet", sheet) == 0
    pose = saved(save)["pose"]
    assert (pose["count"], pose["supp_idxs"]) == (6, [-1, 1])  # two supports each
    assert 0 < pose["mean"] < 180
    out = capsys.readouterr().out
    assert "pose: " in out
    assert f"sheet: {sheet}" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("longer", [1, 20])
def test_no_text_leaves_the_sheet(run, tmp_path, monkeypatch, longer):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from trainer.evaluation import report

    line = report.protocol_line
    words = "LiDAR, metres ahead of the scanner (targets_test.npz, sha256 0123456789abcdef); "
    monkeypatch.setattr(report, "protocol_line", lambda result: words * longer + line(result))
    monkeypatch.setattr(report, "replacing", nullcontext)
    boxes = []

    def measure(canvas, _, metadata):
        canvas.draw()
        text = [text for text in canvas.figure.texts if text.get_text()][-1]
        boxes.append((canvas.figure.bbox, text.get_text(), text.get_window_extent(canvas.renderer)))

    monkeypatch.setattr(FigureCanvasAgg, "print_png", measure)
    places = ["--sheet", tmp_path / "s.png", "--save", tmp_path / "r.yaml"]
    assert evaluate("--ckpt", run, "--num-sheet 1 --limit 1", *places) == 0
    ((page, text, box),) = boxes
    assert text.startswith("LiDAR")
    assert text.endswith("..." if longer > 1 else "step 120")
    assert text.count("\n") == 1
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert page.y0 <= box.y0


def test_a_data_set_without_depth_names_the_alternatives(run, tmp_path, capsys):
    for number in range(4):
        Image.new("RGB", (96, 64), (number * 50, 90, 30)).save(tmp_path / f"{number:03}.png")
    page = tmp_path / "page.yaml"
    page.write_text(f"dataset: {{type: folder, path: {tmp_path}, val_every: 0}}\n")
    message = refused(capsys, "--ckpt", run, "-c", page)
    assert "folder has no true depth here" in message
    assert "export-depth" in message
    assert "use_depth" not in message
    assert "--odometry" not in message  # there are no poses either


def test_configuration_can_be_changed_from_outside(run, tmp_path):
    page, save = tmp_path / "other.yaml", tmp_path / "r.yaml"
    page.write_text("dataset: {scene: corridor, test: {num_items: 2}}\n")
    assert evaluate("--ckpt", run, "-c", page, "--set dataset.scene_seed=7 --save", save) == 0
    data = saved(save)["protocol"]["dataset"]
    assert (data["scene"], data["scene_seed"], data["num_items"]) == ("corridor", 7, 2)


def test_corrected_hparams_replace_the_embedded_ones(run, tmp_path):
    hparams, path = hparams_of(run), tmp_path / "hparams.yaml"
    hparams["config"]["dataset"]["test"]["num_items"] = 1
    path.write_text(yaml.safe_dump(hparams))
    assert evaluate("--ckpt", run, "--hparams", path, "--save", tmp_path / "r.yaml") == 0
    assert saved(tmp_path / "r.yaml")["protocol"]["items"] == 1


def test_kitti_with_the_checkpoint_of_other_data(run, tmp_path, shared_data, capsys):
    """Another type starts afresh but for the size; crop of Garg by default; truths keep their size."""
    page, split = tmp_path / "kitti.yaml", shared_data / "splits" / "kitti_raw" / "test_files.txt"
    page.write_text(f"dataset: {{type: kitti, root: {shared_data}, split_file: {split}, use_benchmark: true}}\n")
    assert evaluate("--ckpt", run, "-c", page) == 0
    assert "protocol: kitti test_files test" in capsys.readouterr().out
    protocol = saved(run / "results" / "kitti_test_files_annotated_best_median.yaml")["protocol"]
    assert (protocol["crop"], protocol["dataset"]["size"]) == ("garg", [96, 64])
    assert protocol["dataset"]["depth_size"] is None
    assert protocol["items"] > 0


def test_camera_paths_of_a_real_sequence(run, shared_data, tmp_path, capsys):
    page, split = tmp_path / "odom.yaml", tmp_path / "files.txt"
    split.write_text("".join(f"6 {i} l\n" for i in range(50)))
    page.write_text(f"dataset: {{type: kitti_odom, root: {shared_data}, split_file: {split}}}\n")
    assert evaluate("--ckpt", run, "-c", page, "--odometry") == 0
    result = saved(run / "results" / "kitti_odom_files_best_odometry.yaml")
    (sequence,) = result["sequences"]
    assert (sequence["frames"], sequence["snippets"]) == (51, 47)
    poses = np.loadtxt(shared_data / "kitti_odom" / "poses" / "06.txt")[:51].reshape(-1, 3, 4)
    length = np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=1).sum()
    assert sequence["path_m"] == pytest.approx(length, rel=1e-5)
    assert (sequence["segments"], sequence["t_err_pct"]) == (0, None)  # too short for KITTI's drift
    assert 0 < result["mean"]["ate_m"] < 2
    assert "^2) / frames" in result["protocol"]["metrics"]["odometry"]["formulas"]["ate_m"]
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("ate_m ")
    # without scans there is no depth
    assert "--odometry scores its camera paths" in refused(capsys, "--ckpt", run, "-c", page)
    for option in ("--limit 2", "--flip", "--alignment none", "--max-depth 50"):
        assert f"{option.split()[0]} is about depth" in refused(capsys, "--ckpt", run, "--odometry", option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--alignment mediam", "Did you mean 'median'"),
        ("--alignment mono", "Did you mean 'median'"),
        ("--crop grag", "Did you mean 'garg'"),
        ("--metrics egien", "Did you mean 'eigen'"),
        ("--min-depth 90", "0 < min_depth < max_depth"),
        ("--sheet x.pgn", "must end in .png"),
        ("--set dataset.scnee=road", "Did you mean 'scene'"),
        ("--set dataset.type=kiti", "Did you mean 'kitti'"),
        ("--cfg-file absent.yaml", "absent.yaml: "),
        ("--hparams absent.yaml", "absent.yaml: "),
        ("--max-depth 0.002", "nothing was scored"),
        ("--pred-kind disp", "describe a --pred-file"),
    ],
)
def test_errors_are_sentences_and_leave_no_file(run, tmp_path, capsys, options, message):
    assert message in refused(capsys, "--ckpt", run, "--save", tmp_path / "r.yaml", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no such file"), ("folder", "holds no checkpoint"), (b"not a checkpoint", "safetensors")],
)
def test_what_is_not_a_checkpoint(tmp_path, capsys, content, message):
    path = tmp_path / "x.safetensors"
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    assert message in refused(capsys, "--ckpt", path)


def test_a_run_that_does_not_exist_names_others(tmp_path, capsys):
    for version in ("1", "2", "3", "4"):
        (tmp_path / version / "ckpts").mkdir(parents=True)
    told = refused(capsys, "--ckpt", tmp_path / "42")
    assert f"42: there is no such file or run. The folder {tmp_path} holds: 1, 2, 3" in told


@pytest.mark.parametrize(
    ("given", "message"),
    [("", "md2/42, md2/7"), ("md2", "42, 7"), ("md2/43", "42, 7"), ("md3", "md2/42, md2/7"),
     ("many", "00, 01, 02, 03, 04, 05, 06, 07 and 4 more")],
)  # fmt: skip
def test_a_folder_above_runs_lists_them(tmp_path, capsys, given, message):
    runs = [f"many/{i:02d}" for i in range(12)] if given == "many" else ["md2/42", "md2/7"]
    for version in runs:
        (tmp_path / version / "ckpts").mkdir(parents=True)
        (tmp_path / version / "ckpts" / "last.safetensors").touch()
    place = tmp_path / given
    shown = refused(capsys, "--ckpt", place)
    assert f"error: {place}: " in shown
    assert message in shown


def test_help_names_every_choice(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    out = capsys.readouterr().out
    for name in (*ALIGNMENTS, *CROPS, *METRICS.names()):
        assert name in out
    assert "default: what the file says, else m" in " ".join(out.split())


# Places


def test_an_earlier_result_is_replaced_and_reported(run, tmp_path, capsys):
    for note in ("", " (replaces an earlier one)"):
        assert evaluate("--ckpt", run, "--limit 1 --save", tmp_path / "r.yaml") == 0
        assert f"saved: {tmp_path / 'r.yaml'}{note}\n" in capsys.readouterr().out


def test_a_result_of_another_protocol_is_kept(run, capsys):
    before = set(run.glob("results/*"))
    usual = run / "results" / "synthetic_val_best_stereo_2items.yaml"
    for options, name in (
        ("", usual),
        ("--min-depth 1 --max-depth 50", usual.with_stem(f"{usual.stem}_1-50m")),
        ("--min-depth 1 --max-depth 50", usual.with_stem(f"{usual.stem}_1-50m")),
        ("--max-depth 50 --crop eigen", usual.with_stem(f"{usual.stem}_0.001-50m_crop_eigen")),
        ("--flip", usual.with_stem(f"{usual.stem}_flip")),
        ("", usual),
    ):
        note = " (replaces an earlier one)" if name.exists() else ""
        assert evaluate("--ckpt", run, "--mode val --limit 2 --alignment stereo", options) == 0
        assert f"saved: {name}{note}\n" in capsys.readouterr().out
    made = set(run.glob("results/*")) - before
    assert len(made) == 4
    assert len(read_results(run.parents[1], [str(path) for path in made])) == 4
    for path in made:
        path.unlink()


@pytest.mark.parametrize("option", ["--save", "--sheet"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(run, tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr("trainer.evaluation.session.load_objective", None)  # nothing is loaded
    (tmp_path / "file").touch()
    places = {"--save": tmp_path / "r.yaml", option: tmp_path / "file" / "out.png"}
    message = refused(capsys, "--ckpt", run, *(word for pair in places.items() for word in pair))
    assert f"error: {tmp_path / 'file'}" in message
    folder = refused(capsys, "--ckpt", run, "--save", tmp_path)
    assert f"{tmp_path}: is a folder. Name a file with --save" in folder
    monkeypatch.setattr("os.access", lambda *_: False)
    message = refused(capsys, "--ckpt", run)
    assert f"error: {run}" in message
    assert "you may not write there. Choose another place with --save" in message


def test_a_sheet_that_cannot_be_drawn_leaves_the_old_one(run, tmp_path, monkeypatch):
    def full(rows, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"old")
    monkeypatch.setattr("trainer.tracking.viz.picture_sheet", full)
    assert evaluate("--ckpt", run, "--limit 1 --save", tmp_path / "r.yaml", "--sheet", sheet) == 2
    assert sheet.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml", "sheet.png"]


def test_interrupted_it_ends_with_130(run, tmp_path, monkeypatch, capsys):
    from trainer.commands.jobs import evaluate_depth as job

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "evaluate_side_by_side", interrupted)
    with pytest.raises(SystemExit) as ended:
        evaluate("--ckpt", run, "--save", tmp_path / "r.yaml")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: nothing more is written\n"
    assert not list(tmp_path.iterdir())


# Processes of their own


@pytest.mark.slow
def test_exit_code_of_the_process(tmp_path):
    done = fork("launch/evaluate.py", "--ckpt", tmp_path / "absent")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_two_processes_report_a_mistake_once(run):
    done = fork("launch/evaluate.py", "--ckpt", run, "--max-depth", "0.002", processes=2)
    assert done.returncode != 0
    assert done.stderr.count("nothing was scored") == 1, done.stderr


@pytest.mark.slow
def test_two_processes_write_what_one_writes(run, tmp_path):
    options = ["--pose", "--flip", "--batch-size", "2", "--alignment", "median", "lsqr_disp"]
    for processes in (1, 2):
        places = ["--save", tmp_path / f"{processes}.yaml", "--legacy", tmp_path / f"{processes}_old.yaml"]
        done = fork("launch/evaluate.py", "--ckpt", run, *options, *places, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved: ") == 2
        assert re.fullmatch(RATIO, done.stdout.strip().splitlines()[-1])
    for ending in ("_median", "_lsqr_disp", "_old_median", "_old_lsqr_disp"):
        assert (tmp_path / f"1{ending}.yaml").read_bytes() == (tmp_path / f"2{ending}.yaml").read_bytes()


def test_a_ratio_of_one_is_no_better_and_not_worse() -> None:
    known = {"0.99": "", "nan": "", "1.00": "no better", "1.01": "worse"}
    assert {shown: against_constant(shown).partition(" than")[0] for shown in known} == known
