"""`prepare kitti check`: what is missing or broken is named and counted, for all splits at once."""

from __future__ import annotations

import pytest

from trainer.commands.prepare import main

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"


def check(raw, *options):
    return main(["kitti", "check", "--root", str(raw), "--jobs", "1", *options])


def row(text, *start):
    return next(line.split() for line in text.splitlines() if line.split()[: len(start)] == list(start))


def test_a_complete_recording_passes(recording, capsys):
    assert check(recording, "--deep") == 0
    text = capsys.readouterr().out
    # split mode lines published bad complete target -1 +1 stereo LiDAR annotated hints
    assert row(text, "synthetic", "train") == ["synthetic", "train", "4", "-", "0", *"44444440"]
    assert row(text, "synthetic", "val") == ["synthetic", "val", "2", "-", "0", *"22222220"]
    assert "\n8 of 8 items are complete\n" in text
    assert "files read to their end, none broken" in text


def test_every_kind_of_broken_file_is_named_and_counted(raw, capsys):
    picture = raw / DRIVE / "image_02/data/0000000001.png"
    picture.write_bytes(picture.read_bytes()[:-200])
    scan = raw / DRIVE / "velodyne_points/data/0000000002.bin"
    scan.write_bytes(b"")
    truth = raw / "depth_benchmark" / DRIVE / "proj_depth/groundtruth/image_03/0000000003.png"
    truth.write_bytes(truth.read_bytes()[:60])
    calibration = raw / DATE / "calib_velo_to_cam.txt"
    calibration.write_text("R: 1\n")
    hints = raw / "depth_hints" / DRIVE / "image_02/0000000001.npy"
    hints.parent.mkdir(parents=True)
    hints.write_bytes(b"\x93NUMPY cut")
    assert check(raw) == 1  # of these, only the calibration is read
    assert "1 broken file or database" in capsys.readouterr().out
    assert check(raw, "--deep") == 1
    text = capsys.readouterr().out
    assert "5 broken files or databases:" in text
    for path in (picture, scan, truth, calibration, hints):
        assert str(path) in text
    assert "0 bytes, and a point has 16" in text
    assert row(text, "synthetic", "train")[-1] == "1"


def test_processes_find_the_same(raw, capsys):
    (raw / DRIVE / "velodyne_points/data/0000000002.bin").write_bytes(b"123")
    assert check(raw, "--deep", "--jobs", "2") == 1
    assert "1 broken file or database:" in capsys.readouterr().out


def test_missing_pictures_absent_drives_and_bad_lines(raw, capsys):
    (raw / DRIVE / "image_02/data/0000000000.png").unlink()
    other = f"{DATE}/{DATE}_drive_0099_sync"
    lines = [f"{DRIVE} 1 l", f"{DRIVE} 2 r", f"{other} 1 l", f"{other} 2 r", "nonsense"]
    split = raw / "splits/mine/train_files.txt"
    split.parent.mkdir()
    split.write_text("\n".join(lines))
    assert check(raw, "--splits", "mine") == 1
    text = capsys.readouterr().out
    assert row(text, "mine", "train") == ["mine", "train", "5", "-", "1", *"12122220"]
    assert f"1 date or drive is absent:\n  {other}: 2 items" in text
    assert "\n1 of 4 items are complete\n" in text
    assert f"{split}:5: 'nonsense'" in text
    assert f"1 item of mine train lacks its support -1:\n  {DRIVE}/image_02/0000000000" in text


def test_a_neighbour_before_the_first_frame_is_reported_in_words(raw, capsys):
    split = raw / "splits/mine/train_files.txt"
    split.parent.mkdir()
    split.write_text(f"{DRIVE} 0 l\n")
    assert check(raw, "--splits", "mine") == 1
    assert f"lacks its support -1:\n  {DRIVE}/image_02 before the first frame" in capsys.readouterr().out


def test_a_date_of_which_there_is_nothing_is_reported_once(raw, capsys):
    split = raw / "splits/mine/train_files.txt"
    split.parent.mkdir()
    date = "2011_09_28"
    split.write_text("".join(f"{date}/{date}_drive_{i:04d}_sync 1 l\n" for i in (1, 2, 2)))
    assert check(raw, "--splits", "mine") == 1
    text = capsys.readouterr().out
    assert f"1 date or drive is absent:\n  {date} (all of it): 3 items" in text
    assert "drive_0001" not in text


@pytest.mark.parametrize(
    ("split", "line", "kind", "published"),
    [
        ("benchmark", "image {}", "pictures of KITTI's test server", "500"),
        ("odom", "8 {} r", "frames of KITTI odometry (dataset.type=kitti_odom)", "-"),
    ],
)
def test_splits_of_other_data_are_no_mistake(raw, capsys, split, line, kind, published):
    folder = raw.parent / "elsewhere" / split
    folder.mkdir(parents=True)
    (folder / "test_files.txt").write_text("".join(f"{line.format(i)}\n" for i in range(500)))
    assert check(raw, "--splits-dir", str(folder.parent)) == 0
    text = capsys.readouterr().out
    assert row(text, split, "test")[:5] == [split, "test", "500", published, "500"]
    assert f"{split} test names {kind}: they are no raw items" in text
    with (folder / "test_files.txt").open("a") as file:
        file.write("nonsense\n")
    assert check(raw, "--splits-dir", str(folder.parent)) == 1
    assert f"501 bad lines in {split} test" in capsys.readouterr().out


def test_wrong_names_are_answered_with_the_choices(raw, capsys):
    assert check(raw, "--splits", "sinthetic") == 2
    assert "Did you mean 'synthetic'?" in capsys.readouterr().err
    assert check(raw.parent / "nowhere") == 2
    assert "Set --root, the environment variable" in capsys.readouterr().err
    assert check(raw, "--splits-dir", str(raw / DATE)) == 2
    assert f"no <split>/<mode>_files.txt in {raw / DATE}. Name the folder" in capsys.readouterr().err


def test_real_recordings(shared_data, capsys):
    assert check(shared_data / "kitti_raw", "--splits", "kitti_raw", "--deep") == 0
    text = capsys.readouterr().out
    assert row(text, "kitti_raw", "train")[2:10] == ["8", "-", "0", "8", "8", "8", "8", "8"]
    assert "none broken" in text
