"""`prepare synthetic`: a KITTI recording that the KITTI reader reads, with the depth that was rendered."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.world import ROOT
from trainer.commands.jobs.preparing import _begin, spread
from trainer.commands.prepare import main
from trainer.data.kitti import KittiRaw
from trainer.data.kitti_raw.calibration import read_calibration
from trainer.data.kitti_raw.writer import DRIVE_SEED, KittiWriter, Moment, Recording, split_lines
from trainer.data.world.layouts import draw_scene
from trainer.runtime.errors import UserError
from trainer.types import STEREO_BASELINE_M

SIZE = (248, 76)
OPTIONS = ["--drives", "2", "--frames", "5", "--size", f"{SIZE[0]}x{SIZE[1]}", "--annotated"]
DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


def _run(out, *options):
    return main(["synthetic", "--out", str(out), *OPTIONS, *options])


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _reader(out, **options):
    defaults = {"split": "synthetic", "depth_size": None, "size": SIZE, "supp_idxs": (-1, 0, 1)}
    return KittiRaw(root=str(out), **(defaults | options))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepare") / "kitti_raw_sync"
    assert _run(out) == 0
    return out


class TestLayout:
    def test_files_lie_where_kitti_has_them(self, recording):
        names = set(_files(recording))
        truth = "depth_benchmark/2011_09_26/2011_09_26_drive_0002_sync/proj_depth/groundtruth"
        assert names >= {
            f"{DRIVE}/image_02/data/0000000000.png", f"{DRIVE}/image_03/data/0000000004.png",
            f"{DRIVE}/velodyne_points/data/0000000003.bin", f"{DRIVE}/image_02/timestamps.txt",
            "2011_09_26/calib_cam_to_cam.txt", "2011_09_26/calib_velo_to_cam.txt",
            "2011_09_26/calib_imu_to_velo.txt", f"{truth}/image_02/0000000002.png",
            "splits/synthetic/train_files.txt", "splits/synthetic/val_files.txt", "splits/synthetic/test_files.txt",
        }  # fmt: skip
        assert len(names) == 2 * 5 * 5 + 2 * 3 + 3 + 3 + 1  # frames, timestamps, calibration, splits, manifest
        assert len((recording / DRIVE / "image_02/timestamps.txt").read_text().splitlines()) == 5

    def test_the_right_camera_stands_54_cm_to_the_right(self, recording):
        calibration = read_calibration(recording / "2011_09_26")
        left, right = calibration.P_rect[2], calibration.P_rect[3]
        np.testing.assert_allclose((right - left)[0, 3] / left[0, 0], -STEREO_BASELINE_M)
        np.testing.assert_allclose(left[:2, :2], [[0.58 * SIZE[0], 0], [0, 1.92 * SIZE[1]]])
        assert calibration.sizes[2] == SIZE

    @pytest.mark.parametrize(("drives", "frames"), [(1, 5), (2, 30), (3, 3), (25, 4)])
    def test_modes_share_no_frame_and_leave_none_out(self, drives, frames):
        modes = split_lines(Recording(drives=drives, frames=frames))
        lines = [line for mode in modes.values() for line in mode]
        assert len(lines) == len(set(lines)) == drives * (frames - 2) * 2
        assert all(modes.values())
        if drives >= 3:
            drives_of = [{line.split()[0] for line in mode} for mode in modes.values()]
            assert not drives_of[0] & drives_of[1] | drives_of[0] & drives_of[2] | drives_of[1] & drives_of[2]


class TestReader:
    @pytest.mark.parametrize("mode", ["train", "val", "test"])
    def test_every_item_of_every_split_is_complete(self, recording, mode):
        dataset = _reader(recording, mode=mode)
        assert dataset.check() == []
        assert dataset.notes() == []
        assert dataset[len(dataset) - 1]["supports"].shape == (3, 3, SIZE[1], SIZE[0])

    def test_pictures_and_annotated_depth_are_what_was_rendered(self, recording):
        dataset = _reader(recording, use_benchmark=True)
        writer = KittiWriter(recording, Recording(2, 5, SIZE, annotated=True))
        scene = draw_scene((0, DRIVE_SEED, 0), "road", 5, **writer.recording.drive)
        for index, right in ((0, False), (1, True)):
            item = dataset.load(index)
            assert dataset.describe(index) == f"{DRIVE}/image_0{3 if right else 2}/0000000001"
            image, depth, background = scene.render(1, scene.view(1, right, writer.K, SIZE))
            np.testing.assert_array_equal(item.target, image)
            np.testing.assert_allclose(item.K, writer.K)
            expected = np.where(background | (depth > 80), 0, depth)
            assert item.depth is not None
            np.testing.assert_allclose(item.depth, expected, atol=1 / 512 + 1e-4)

    def test_scans_fall_on_their_pixels(self, recording):
        """Exact for the left camera, which the scan is made from; the right one looks past some edges."""
        scans, exact = _reader(recording), _reader(recording, use_benchmark=True)
        for index in range(4):
            scan, depth = scans.load(index).depth, exact.load(index).depth
            assert scan is not None
            assert depth is not None
            assert (scan > 0).mean() > 0.05
            shared = (scan > 0) & (depth > 0)
            error = np.abs(scan - depth)[shared] / depth[shared]
            assert shared.sum() > 0.98 * (scan > 0).sum()
            if scans.describe(index).endswith("image_02/0000000001"):
                assert error.max() < 0.01
            else:
                assert np.median(error) < 0.01

    def test_jpeg_without_scans(self, tmp_path):
        assert _run(tmp_path, "--format", "jpg", "--no-lidar", "--no-annotated", "--scene", "corridor") == 0
        dataset = _reader(tmp_path, use_depth=False, size=(124, 38))
        assert dataset.check() == []
        assert dataset.load(0).target.std() > 10
        assert not [name for name in _files(tmp_path) if name.endswith((".bin", ".png"))]


class TestResume:
    def test_only_what_is_missing_is_written_again(self, recording, tmp_path, capsys):
        out = shutil.copytree(recording, tmp_path / "copy")
        (out / DRIVE / "velodyne_points/data/0000000002.bin").unlink()
        (out / DRIVE / "image_03/data/.0000000002.png.tmp").write_bytes(b"cut off")
        (out / DRIVE / "image_03/data/0000000002.png").unlink()
        kept = out / DRIVE / "image_02/data/0000000002.png"
        before = kept.stat().st_mtime_ns
        assert _run(out) == 0
        assert "10 frames, 1 of them new" in capsys.readouterr().out
        assert _files(out) == _files(recording)
        assert kept.stat().st_mtime_ns == before

    def test_a_full_disk_stops_it_and_the_same_command_continues(self, recording, tmp_path, monkeypatch, capsys):
        write, calls = Path.write_bytes, iter(range(30))

        def fill(path, content):
            if next(calls, None) is None:
                write(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", fill)
            assert _run(tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert "cannot be written: No space left on device" in message
        assert "continues where this one stopped" in message
        assert _run(tmp_path / "out") == 0
        assert _files(tmp_path / "out") == _files(recording)

    def test_other_values_are_refused_and_named(self, recording, capsys):
        before = _files(recording)
        assert _run(recording, "--seed", "7") == 2
        assert "other values: seed 0 -> 7" in capsys.readouterr().err
        assert _files(recording) == before

    @pytest.mark.parametrize(
        ("file", "out", "message"),
        [
            ("thesis.tex", "", "is not empty and was not written by this command"),
            ("file", "file/out", "cannot be written"),
            ("synthetic.json", "", "synthetic.json cannot be read"),
        ],
    )
    def test_other_files_are_left_alone(self, tmp_path, capsys, file, out, message):
        (tmp_path / file).write_text("{")
        assert _run(tmp_path / out) == 2
        assert message in capsys.readouterr().err
        assert _files(tmp_path) == {file: b"{"}


def test_moments_of_a_drive_are_independent(recording, tmp_path):
    writer = KittiWriter(tmp_path, Recording(2, 5, SIZE, annotated=True))
    writer.write(Moment(1, 3))
    written = _files(tmp_path)
    assert len(written) == 5
    assert written.items() <= _files(recording).items()


def test_another_seed_is_another_street(recording, tmp_path):
    writer = KittiWriter(tmp_path, Recording(2, 5, SIZE, seed=1, lidar=False))
    writer.write(Moment(0, 0))
    name = f"{DRIVE}/image_02/data/0000000000.png"
    one, other = (np.asarray(Image.open(root / name), dtype=int) for root in (recording, tmp_path))
    assert np.abs(one - other).mean() > 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drives": 0}, "--drives must be at least 1, got 0"),
        ({"drives": 2, "frames": 4}, r"--frames must be at least 5: each mode needs a frame .*, got 4"),
        ({"drives": 3, "frames": 2}, "--frames must be at least 3"),
        ({"size": (8, 8)}, "--size must be at least 16x16, got 8x8"),
        ({"motion": 11.0}, "--motion must be between 0 and 10, got 11"),
        ({"moving_objects": -1}, "--moving-objects must be between 0 and 100"),
        ({"seed": -1}, "--seed must be at least 0"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(UserError, match=message):
        Recording(**values)


def test_a_size_needs_two_numbers(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["synthetic", "--out", str(tmp_path), "--size", "1242"])
    told = "argument --size: expected width and height as in 640x192, got '1242'"
    assert told in capsys.readouterr().err


def test_ctrl_c_is_reported_in_a_sentence(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(KittiWriter, "write", stop)
    assert _run(tmp_path / "out") == 130
    assert capsys.readouterr().err.endswith("stopped; the same command continues\n")


def die(_):
    os._exit(9)


def test_a_process_that_is_killed_is_reported():
    with pytest.raises(UserError, match=r"one of 2 processes was killed.*lower --jobs"):
        list(spread(die, [0, 1], 2))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="asks for a group of processes")
def test_a_killed_run_leaves_no_process_behind():
    start = "import time; from trainer.commands.jobs.preparing import spread"
    code = f"{start}\nfor _ in spread(time.sleep, [0, 600, 600], 2): print(flush=True)"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE)
    run.stdout.readline()  # of the first task: the others run
    run.kill()
    run.communicate()
    end = time.monotonic() + 60
    while group_lives(run.pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def group_lives(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_other_processes_leave_at_ctrl_c_without_a_word(monkeypatch):
    before, left = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr(os, "_exit", left.append)
    try:
        _begin(None)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left == [130]


@pytest.mark.parametrize("jobs", ["0", "-2", "many"])
def test_jobs_is_a_number_of_processes(jobs, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["jpeg", "--jobs", jobs])
    assert f"--jobs: expected a whole number from 1 to 1,024, got '{jobs}'" in capsys.readouterr().err
