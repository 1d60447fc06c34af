"""`evaluate --temporal` on an untrained network: clips of drives and of a room, its own film, how it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.commands.evaluating import evaluate, refused, saved
from tests.world import fork
from trainer.tables.results import read_result

FOUR = ("--set", "dataset.test.items_per_scene=4", "dataset.test.num_items=8")


def test_true_motion_of_drives(run, capsys):
    assert evaluate("--ckpt", run, "--temporal", *FOUR) == 0
    out = capsys.readouterr().out
    path = run / "results" / "synthetic_best_temporal_lsqr_disp.yaml"
    assert f"saved: {path}" in out
    assert "synthetic/test/scene 1/left, from synthetic/test/scene 1/frame 0/left: 4 frames; tae_pct " in out
    assert "protocol: true motion; alignment lsqr_disp (scale and shift of inverse depth" in out
    result = saved(path)
    assert out.strip().splitlines()[-1] == (
        f"temporal alignment error: tae_pct {result['mean']['tae_pct']:.4f} %, mean over clips"
    )
    assert result["protocol"]["max_depth_m"] == 80
    (table,) = read_result(path)
    assert {(column.key, column.unit, column.direction) for column in table.values} == {("tae_pct", "%", -1)}
    path.unlink()


def test_alignments_get_a_file_each(run, tmp_path):
    options = "--temporal true --alignment median none --max-depth 30 --flip --save"
    assert evaluate("--ckpt", run, options, tmp_path / "t.yaml", *FOUR) == 0
    results = [saved(tmp_path / f"t_{name}.yaml") for name in ("median", "none")]
    assert [r["protocol"]["alignment"] for r in results] == ["median", "none"]
    assert [r["protocol"]["flip_post_processing"] for r in results] == [True, True]
    assert results[0]["clips"][0]["factor"] != 1 == results[1]["clips"][0]["factor"]


def test_learned_motion_of_a_film(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    film = rng.integers(0, 255, (64, 160, 3), np.uint8)
    for number in range(4):
        Image.fromarray(film[:, 4 * number : 4 * number + 96]).save(tmp_path / f"{number:03}.png")
    page, save = tmp_path / "page.yaml", tmp_path / "r.yaml"
    page.write_text(f"dataset: {{type: folder, path: {tmp_path}, val_every: 0}}\n")
    assert evaluate("--ckpt", run, "--temporal -c", page, "--save", save) == 0
    said = capsys.readouterr()
    assert "no true depth and no true poses (Ts_true): depth is moved by the motion that the network" in said.err
    result = saved(save)
    assert result["protocol"]["poses"] == "learned motion"
    assert (result["protocol"]["alignment"], result["clips"][0]["pairs"]) == ("none", 2)  # the last has no next frame
    assert 0 <= result["mean"]["tae_pct"] < 100
    assert "has no true depth" in refused(capsys, "--ckpt", run, "--temporal true -c", page)


def test_drives_by_learned_motion(run, tmp_path):
    assert evaluate("--ckpt", run, "--temporal learned --save", tmp_path / "r.yaml", *FOUR) == 0
    assert "min_depth_m" not in saved(tmp_path / "r.yaml")["protocol"]


def test_a_real_room(run, shared_data, tmp_path):
    """A perfect prediction of a real room, by its own depth camera: rounding, edges and its noise remain."""
    from trainer.data.rgbd import RgbdScenes

    root = shared_data / "indoor_hololens"
    room = RgbdScenes(root=str(root), val_every=0, supp_idxs=None, mode="test")
    truths = [room[i]["depth"][0].numpy() for i in range(8)]
    lines = "".join(f"{room.place(i)[0]} {room.describe(i).rpartition('/')[2]}\n" for i in range(8))
    (tmp_path / "split.txt").write_text(lines)
    page, save = tmp_path / "page.yaml", tmp_path / "r.yaml"
    page.write_text(f"dataset: {{type: rgbd, root: {root}, split_file: {tmp_path / 'split.txt'}}}\n")
    names = np.array([room.describe(i) for i in range(8)])
    errors = []
    for wrong in (np.ones(8), np.array([1, 1.2] * 4)):
        values = np.stack(truths) * wrong[:, None, None].astype(np.float32)
        np.savez(tmp_path / "p.npz", pred=values, kind="depth", unit="m", items=names)
        options = "--temporal --alignment median --max-depth 10 --save"
        assert evaluate("--pred-file", tmp_path / "p.npz", "-c", page, options, save) == 0
        errors.append(saved(save)["mean"]["tae_pct"])
        assert saved(save)["clips"][0]["pairs"] == 7
    assert errors[0] < 6 < errors[1]
    assert errors[1] > errors[0] + 8


def test_mistakes_are_sentences(run, stereo_run, tmp_path, capsys):
    np.savez(tmp_path / "p.npz", pred=np.ones((4, 64, 96), np.float32), kind="disp")
    wrong = [
        ((run, "--temporal --odometry"), "--odometry has no meaning with --temporal"),
        ((run, "--temporal --limit 3"), "--limit has no meaning with --temporal"),
        ((run, "--temporal --uncertainty flip"), "--uncertainty has no meaning"),
        ((run, "--temporal learned --max-depth 9"), "--max-depth has no meaning with --temporal learned"),
        ((run, "--temporal --set dataset.test.items_per_scene=1"), "is followed by the next frame"),
        ((run, "--temporal --min-depth 900 --max-depth 999", *FOUR), "no two neighbouring frames"),
        ((stereo_run, "--temporal learned"), "has no network that predicts motion"),
    ]
    for (ckpt, *words), message in wrong:
        assert message in refused(capsys, "--ckpt", ckpt, *words, "--save", tmp_path / "r.yaml")
    file = ("--pred-file", tmp_path / "p.npz", "-c", "eval/synthetic", "--temporal learned")
    assert "--pred-file has no meaning with --temporal learned" in refused(capsys, *file)
    assert not (tmp_path / "r.yaml").exists()


def test_a_data_set_without_a_camera_is_refused_before_the_work(run, tmp_path, capsys):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "depth").mkdir()
    for number in range(3):
        Image.fromarray(np.full((64, 96, 3), 40 * number, np.uint8)).save(tmp_path / "rgb" / f"{number}.png")
        np.save(tmp_path / "depth" / f"{number}.npy", np.full((64, 96), 2, np.float32))
    page = tmp_path / "page.yaml"
    data = "images: 'rgb/{stem}.png', depth: 'depth/{stem}.npy'"
    page.write_text(f"dataset: {{type: frames, root: {tmp_path}, {data}}}\n")
    for option in ("--temporal", "--temporal learned"):
        assert "the data set has no camera matrix K" in refused(capsys, "--ckpt", run, option, "-c", page)
    page.write_text(f"dataset: {{type: frames, root: {tmp_path}, {data}, K: [90, 90, 48, 32]}}\n")
    assert evaluate("--ckpt", run, "--temporal -c", page, "--save", tmp_path / "r.yaml") == 0


def test_odometry_of_drives(run, tmp_path):
    """Every second target is not of the right camera then."""
    data = ("--set", "dataset.test.items_per_scene=6", "dataset.test.num_items=6")
    assert evaluate("--ckpt", run, "--odometry --save", tmp_path / "r.yaml", *data) == 0
    (drive,) = saved(tmp_path / "r.yaml")["sequences"]
    assert (drive["frames"], drive["snippets"]) == (7, 3)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(run, tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    assert evaluate("--ckpt", run, "--temporal --save", one, *FOUR) == 0
    words = ["launch/evaluate.py", "--ckpt", run, "--temporal", "--save", two, *FOUR]
    done = fork(*map(str, words), processes=2, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert one.read_bytes() == two.read_bytes()
