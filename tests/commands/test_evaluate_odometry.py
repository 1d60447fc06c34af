"""`evaluate --odometry` on a path that is known, and on a real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from tests.commands.test_evaluate import write_run
from tests.metrics.test_odometry import straight
from tests.world import run_world
from trainer.commands.evaluate import main
from trainer.evaluation import Processes, evaluate_odometry, save_odometry
from trainer.runtime.errors import UserError


class Drive:
    """Two drives straight ahead, 1 m per frame; the second one lacks its frame 3."""

    supp_idxs = (1,)
    names = (*(f"a/{i}" for i in range(6)), *(f"b/{i}" for i in (0, 1, 2, 4, 5, 6, 7)))

    def __len__(self):
        return len(self.names)

    def describe(self, index):
        return self.names[index]

    def __getitem__(self, index):
        Ts = torch.from_numpy(straight(1)).float()
        return {"target": torch.full((3, 2, 4), float(index)), "Ts_true": Ts, "index": torch.tensor(index)}


def half_as_far(batch):
    Ts = batch["Ts_true"].clone()
    Ts[..., :3, 3] /= 2
    return Ts


def test_sequences_are_cut_where_a_frame_is_missing():
    told = evaluate_odometry(half_as_far, Drive(), batch_size=4)
    assert [(s["name"], s["first_frame"], s["frames"]) for s in told["sequences"]] == [
        ("a", 0, 7),
        ("b", 0, 4),
        ("b", 4, 5),
    ]
    assert [s["snippets"] for s in told["sequences"]] == [3, 0, 1]
    assert told["mean"] == {"ate_m": pytest.approx(0, abs=1e-6)}
    assert [s["scale"] for s in told["sequences"]] == pytest.approx([2, 2, 2])


def _share(rank, world, folder):
    result = evaluate_odometry(half_as_far, Drive(), batch_size=2, processes=Processes(rank, world))
    save_odometry(result, folder / f"{world}_{rank}.yaml")


def test_two_processes_find_what_one_finds(tmp_path):
    _share(0, 1, tmp_path)
    run_world(_share, 2, tmp_path, tmp_path)
    assert (tmp_path / "1_0.yaml").read_bytes() == (tmp_path / "2_0.yaml").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supp_idxs": (-1, 1)}, "the next frame"),
        ({"names": ("a/0", "a/x")}, "does not end in a frame number"),
        ({"names": ("a/0", "a/1")}, "5 frames in a row"),
    ],
)
def test_what_is_no_path(changes, message):
    data = type("Other", (Drive,), changes)()
    with pytest.raises(UserError, match=message):
        evaluate_odometry(half_as_far, data)


def test_a_real_sequence(shared_data, tmp_path, capsys):
    run, cfg = write_run(tmp_path / "run", [-1, 1]), tmp_path / "odom.yaml"
    split = tmp_path / "files.txt"
    split.write_text("".join(f"6 {i} l\n" for i in range(50)))
    cfg.write_text(f"dataset: {{type: kitti_odom, root: {shared_data}, split_file: {split}}}\n")
    code = main(["--ckpt", str(run), "-c", str(cfg), "--odometry"])
    told_user = capsys.readouterr()
    assert code == 0, told_user.err
    told = yaml.safe_load((run / "results" / "kitti_odom_files_best_odometry.yaml").read_text())
    (sequence,) = told["sequences"]
    assert (sequence["frames"], sequence["snippets"]) == (51, 47)
    poses = np.loadtxt(shared_data / "kitti_odom" / "poses" / "06.txt")[:51].reshape(-1, 3, 4)
    length = np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=1).sum()
    assert sequence["path_m"] == pytest.approx(length, rel=1e-5)
    assert (sequence["segments"], sequence["t_err_pct"]) == (
        0,
        None,
    )  # some 60 m: too short for KITTI's drift
    assert 0 < told["mean"]["ate_m"] < 2
    assert "^2) / frames" in told["protocol"]["metrics"]["odometry"]["formulas"]["ate_m"]
    assert told_user.out.strip().splitlines()[-1].startswith("ate_m ")
    assert main(["--ckpt", str(run), "-c", str(cfg)]) == 2  # no scans, so no depth
    assert "--odometry scores its camera paths" in capsys.readouterr().err


def test_it_needs_a_pose_network(tmp_path, capsys):
    run = write_run(tmp_path / "run", [0], **{"net.pose": None})
    assert main(["--ckpt", str(run), "--odometry"]) == 2
    assert "has no pose network" in capsys.readouterr().err
