"""`prepare video`: standing frames and cuts are found, clips can be trained on, and what is wrong is said before."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.clips import damage_frames, film
from trainer.commands import train
from trainer.commands.prepare import main
from trainer.config import load_config
from trainer.data import DATASETS
from trainer.data.clips import films
from trainer.data.clips.motion import WIDTH, compare, small_grey, uneven_share
from trainer.data.clips.survey import Survey
from trainer.data.synthetic import Synthetic

SIZE = (320, 96)


@pytest.fixture(scope="module")
def drives():
    """Two rendered drives of 10 frames."""
    options = {"supp_idxs": None, "right_targets": False, "use_depth": False}
    dataset = Synthetic(num_items=20, items_per_scene=10, size=SIZE, **options)
    frames = [dataset.load(i).target for i in range(20)]
    return [frames[:10], frames[10:]]


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def video(*arguments):
    return main(["video", *map(str, arguments)])


@pytest.fixture
def report(tmp_path, capsys):
    """What `prepare video` prints for a film of these frames."""

    def run(frames):
        video(film(tmp_path / "a.avi", frames), "--out", tmp_path / "out", "--report-only")
        return capsys.readouterr().out

    return run


def test_standing_frames_go_and_cuts_begin_clips(drives, tmp_path, capsys):
    one, two = drives
    blank = np.zeros_like(one[0])
    frames = [*one[:4], *[one[3]] * 5, *one[4:], *[blank] * 2, *two, one[0], one[1]]
    path = film(tmp_path / "drive.avi", frames)
    out = tmp_path / "frames"
    assert video(path, "--out", out) == 1  # so few frames are worth a warning
    text = capsys.readouterr().out
    assert "320x96, 10 frames per second, 29 frames read" in text
    dropped = "5 standing, 2 blank, 2 in clips shorter than 3 frames; 2 cuts"
    assert f"20 kept in 2 clips; dropped: {dropped}" in text
    assert "warning: only 20 frames are left" in text
    assert f"monodepth train -c real/folder -n drive --set dataset.path={out} dataset.frame_gap=1" in text
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*.jpg"))
    assert names == [f"drive-{clip:03d}/{i:010d}.jpg" for clip in (0, 1) for i in range(10)]
    back = read(out / "drive-000/0000000004.jpg").astype(float)
    assert np.abs(back - one[4]).mean() < np.abs(back - one[5]).mean() / 2

    dataset = DATASETS.create("folder", path=str(out), val_every=0, fov=80.0, size=[128, 32])
    assert dataset.check() == []
    assert len(dataset) == 2 * 8


def test_the_same_command_continues(drives, tmp_path, capsys):
    path, out = film(tmp_path / "a.avi", drives[0]), tmp_path / "frames"
    video(path, "--out", out)
    first = capsys.readouterr().out
    files = sorted(out.rglob("*.jpg"))
    before = {file: file.stat().st_mtime_ns for file in files}
    (out / ".a.json").unlink()  # as if stopped before the end
    files[2].unlink()
    stale = files[2].with_name(f".{files[2].name}.tmp-999999999")
    stale.write_bytes(b"cut off")
    video(path, "--out", out)
    assert capsys.readouterr().out == first
    assert sorted(p for p in out.rglob("*") if p.is_file() and p.parent != out) == files
    assert [file for file in files if file.stat().st_mtime_ns != before[file]] == [files[2]]
    video(path, "--out", out)  # what is done is left alone
    assert capsys.readouterr().out == first
    shutil.rmtree(out / "a-000")
    video(path, "--out", out)
    gone = f"{path}: 10 of 10 frames are no longer in {out}: decoded again"
    assert capsys.readouterr().out == f"{gone}\n{first}"
    assert sorted(out.rglob("*.jpg")) == files
    assert video(path, "--out", out, "--every", 2) == 2
    assert "holds frames of another a.avi, or with another --every" in capsys.readouterr().err


def test_frames_of_a_run_that_was_stopped_are_not_mixed_with_others(drives, tmp_path, monkeypatch, capsys):
    path, out = film(tmp_path / "a.avi", drives[0]), tmp_path / "frames"
    write, calls = films.write_bytes, iter(range(5))

    def stop(path, content):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(films, "write_bytes", stop)
        assert video(path, "--out", out) == 130
    assert 0 < len(list(out.rglob("*.jpg"))) < 10
    note = f"{path} was not decoded to its end. Finish it: monodepth prepare video {path} --out {out}"
    options = {"path": str(out), "val_every": 0, "fov": 80.0}
    assert note in DATASETS.create("folder", **options).notes()
    assert video(path, "--out", out, "--every", 2) == 2
    assert "holds frames of another a.avi, or with another --every" in capsys.readouterr().err
    video(path, "--out", out)
    assert len(list(out.rglob("*.jpg"))) == 10
    assert note not in DATASETS.create("folder", **options).notes()


def test_the_last_line_trains_on_the_frames(drives, tmp_path, capsys):
    out = tmp_path / "my frames"
    video(film(tmp_path / "Зима (2).avi", drives[0]), "--out", out)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("train on them: ")[2])
    assert words[:2] == ["monodepth", "train"]
    args = train.parse(words[2:])
    assert args.name == "Зима_2"
    name, dataset = load_config(args.cfg_file, args.cfg_default, args.set).dataset_kwargs("train")
    assert (name, dataset["path"]) == ("folder", str(out))
    assert len(DATASETS.create(name, **dataset)) > 0


def test_a_film_that_stands_leaves_nothing_to_train_on(drives, report):
    text = report([drives[0][0]] * 12)
    assert "warning: nothing is left to train on: the camera stands" in text
    assert "train on them" not in text
    assert "most frames are blank" in report([np.zeros_like(drives[0][0])] * 5)


def test_interlaced_films_are_told_apart(drives, report):
    assert "warning: interlaced" not in report(drives[0])
    woven = [frame.copy() for frame in drives[0][:-1]]
    for frame, later in zip(woven, drives[0][1:], strict=True):
        frame[1::2] = later[1::2]
    assert "warning: interlaced: every second line is of another moment" in report(woven)


def test_the_command_in_the_warning_cuts_black_bars_off(drives, report):
    text = report([np.pad(frame, ((32, 16), (48, 16), (0, 0))) for frame in drives[0]])
    width, height, left, top = map(int, re.search(r"crop=(\d+):(\d+):(\d+):(\d+)", text).groups())
    assert 48 <= left <= 52
    assert 32 <= top <= 36
    assert 360 <= left + width <= 368  # 48 + 320
    assert 122 <= top + height <= 128  # 32 + 96


def test_a_burnt_out_sky_is_no_bonnet(drives, report):
    sky = [frame.copy() for frame in drives[0]]
    for frame in sky:
        frame[:30] = 255
    assert "never changes" not in report(sky)


def test_time_steps_that_differ_are_counted():
    assert uneven_share([0, 40, 80, 120, 160]) == 0
    assert uneven_share([0, 33, 67, 100, 133]) == 0
    assert uneven_share([0, 100, 200, 600, 700, 800, 900, 1300, 1400]) == 0.25
    assert uneven_share([0, 0, 0]) == uneven_share([]) == 0
    survey = Survey(fps=6, size=(640, 192), clips=[900], read=900, uneven=0.25)
    assert any("25% of the frames come off the beat" in line for line in survey.warnings())


def test_broken_videos_are_named_and_the_others_are_done(drives, tmp_path, capsys):
    good = film(tmp_path / "good.avi", drives[0])
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no film" * 100)
    assert video(broken, good, "--out", tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert f"1 film is left out:\n  {broken} is not a video that FFmpeg can decode" in text
    assert "10 kept in 1 clip;" in text
    assert video(broken, "--out", tmp_path / "out") == 2
    assert "is not a video that FFmpeg can decode" in capsys.readouterr().err
    assert video(good, tmp_path / "none.mp4", "--out", tmp_path / "out") == 2
    assert "none.mp4 does not exist" in capsys.readouterr().err
    assert video(good, good, "--out", tmp_path / "out") == 2
    assert f"videos of the same name, whose frames would be mixed: {good} and {good}" in capsys.readouterr().err


def test_report_only_writes_nothing(drives, tmp_path, report):
    assert "10 kept in 1 clip" in report(drives[0])
    assert not (tmp_path / "out").exists()


def test_a_camera_that_only_turns_is_warned_of(drives, report):
    """Everything shifts alike, as what is far away does."""
    moves = [np.array([[1.0, 0, -4 * i], [0, 1, 0]]) for i in range(12)]
    assert "warning: no parallax" in report([cv2.warpAffine(drives[0][0], move, (240, 96)) for move in moves])
    assert "no parallax" not in report(drives[0])


def test_a_bonnet_blur_and_flicker_are_warned_of(drives, report):
    frames = []
    for i, frame in enumerate(drives[0]):
        frame = cv2.GaussianBlur(frame, (9, 9), 0) if i % 3 == 2 else frame.copy()
        if i % 4 == 1:
            frame = np.clip(frame * 0.8, 0, 255).astype(np.uint8)
        frame[80:] = 40  # a bonnet
        frames.append(frame)
    text = report(frames)
    assert "of the picture never changes (bonnet" in text
    assert "% of the frames are blurred" in text
    assert "the brightness jumps" in text


def test_frames_that_cannot_be_decoded_are_counted(drives, tmp_path, capsys):
    path = damage_frames(film(tmp_path / "a.avi", drives[0]), 3, 6, 7)
    assert video(path, "--out", tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert "7 frames read" in text
    assert "3 of 10 announced frames could not be decoded" in text


def test_shift_and_parallax_have_the_size_they_should(drives):
    grey = small_grey(drives[0][0])
    assert grey.shape[1] == WIDTH
    moved = np.roll(grey, 5, axis=1)
    seen = compare(grey, moved)
    assert seen.found > 0.8
    assert seen.shift == pytest.approx(5, abs=0.1)
    assert seen.parallax < 0.1
    assert compare(grey, grey).shift < 0.01
    assert compare(grey, small_grey(drives[1][0])).found < 0.3


@pytest.mark.parametrize(("shift", "gap"), [(0.5, 5), (2.5, 1), (20.0, 1), (0.1, 10)])
def test_the_gap_makes_neighbours_differ_as_those_of_kitti(shift, gap):
    survey = Survey(fps=30, size=(640, 192), shifts=[shift] * 3, parallaxes=[1.0] * 3, clips=[3])
    assert survey.frame_gap == gap
    assert any(f"frame_gap: {gap}" in line for line in survey.report())


def test_more_of_what_goes_wrong():
    survey = Survey(
        fps=30, size=(480, 640), announced=1000, read=900, standing=600, clips=[10] * 5, shifts=[60.0],
        parallaxes=[20.0],
    )  # fmt: skip
    text = "\n".join(survey.warnings())
    for part in ("100 of 1000 announced", "67% of the frames stand still", "higher than wide", "far apart (19%",
                 "a cut every 10 frames"):  # fmt: skip
        assert part in text
    counts = {"announced": 1000, "read": 1000, "clips": [1000]}
    fine = Survey(fps=10, size=(640, 192), shifts=[3.0], parallaxes=[1.0], **counts)
    assert fine.warnings() == []
    assert json.dumps(fine.report())


def test_real_frames_are_fit_for_training(shared_data, tmp_path):
    paths = sorted((shared_data / "kitti_odom/sequences/06/image_0").glob("*.jpg"))[:20]
    path = film(tmp_path / "kitti.avi", [read(path) for path in paths])
    assert video(path, "--out", tmp_path / "out") == 1
    survey = Survey(**json.loads((tmp_path / "out/.kitti.json").read_text())["survey"])
    assert (survey.kept, survey.standing, survey.cuts, survey.frame_gap) == (20, 0, 0, 1)
    (warning,) = survey.warnings()
    assert "only 20 frames" in warning
