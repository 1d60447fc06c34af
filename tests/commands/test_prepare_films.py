"""`prepare video` on folders of films: in parallel, interrupted, with broken ones among them; the page it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections import Counter

import numpy as np
import pytest

from tests.data.clips import cut, film
from trainer.commands.jobs.preparing import Lost, apart
from trainer.commands.prepare import main
from trainer.data import DATASETS
from trainer.data.clips import films, sources
from trainer.data.clips.films import finished, pictures_of
from trainer.data.clips.selection import Selection
from trainer.data.clips.sources import choose_workers, find_films
from trainer.data.clips.survey import Survey, lasting
from trainer.data.clips.video import unfinished
from trainer.data.synthetic import Synthetic
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite
from trainer.tables.report.films import make_page


@pytest.fixture(scope="module")
def drives():
    """Two rendered drives of 10 frames."""
    options = {"supp_idxs": None, "right_targets": False, "use_depth": False}
    dataset = Synthetic(num_items=20, items_per_scene=10, size=(320, 96), **options)
    frames = [dataset.load(i).target for i in range(20)]
    return [frames[:10], frames[10:]]


def video(*arguments):
    return main(["video", *map(str, arguments)])


def content(out, *, without=(".lock",)):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in without}


def chosen(frames):
    """The survey of these frames."""
    selection = Selection(Survey(fps=10, size=(0, 0)))
    for frame in frames:
        selection.add(frame)
        selection.survey.read += 1
    selection.end()
    return selection.survey


def test_a_folder_of_films_in_two_processes(drives, tmp_path, capsys):
    """Each film as alone; what cannot be decoded is named and costs nothing else."""
    home, out = tmp_path / "drives", tmp_path / "drives" / "frames"
    for name, frames in {"one.avi": drives[0], "day 2/<two>.avi": drives[1], "cut.avi": drives[0]}.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        film(home / name, frames)
    cut(home / "cut.avi")
    (home / "empty.mp4").touch()
    (home / "text.mp4").write_text("no film" * 100)
    (home / "notes.txt").write_text("notes")
    assert video(home, "--out", out, "--workers", 2) == 1
    text = capsys.readouterr().out
    assert "not taken for films: 1 .txt" in text
    assert "2 films are left out:" in text
    assert f"{home}/empty.mp4 is empty: 0 bytes. Copy it again" in text
    assert f"{home}/text.mp4 is not a video that FFmpeg can decode" in text
    assert "4 of 10 announced frames could not be decoded" in text
    assert "in all\n  3 films of 0:00:0" in text
    assert "26 frames read\n  26 kept in 3 clips; dropped: 0 standing" in text
    printed = [line for line in text.splitlines() if line.startswith(str(home))]
    assert printed == sorted(printed)  # in the order of the films, not in which they ended

    alone = tmp_path / "alone"
    video(home / "day 2/<two>.avi", "--out", alone)
    same = {name.replace("<two>-", "day 2_<two>-"): data for name, data in content(alone).items() if "jpg" in name}
    both = content(out)
    assert same.items() <= both.items()
    page = both["survey.html"].decode()
    assert "3 films; 2 films left out" in page
    assert "day 2_&lt;two&gt;" in page
    assert "<h3>day 2/&lt;two&gt;.avi</h3>" in page
    assert "<two>" not in page

    capsys.readouterr()
    assert video(home, "--out", out) == 1  # on its own number of workers, with the broken ones to try again
    assert "3 of 5 films were looked at before" in capsys.readouterr().out
    assert content(out) == both
    assert len(DATASETS.create("folder", path=str(out), val_every=0, fov=80.0)) == 8 + 8 + 4


@pytest.mark.parametrize("after", [6, 16])
def test_an_interrupted_film_goes_on_to_the_same_bytes(drives, tmp_path, monkeypatch, capsys, after):
    """What was looked at is not looked at again, unless its frames are gone."""
    path, out = film(tmp_path / "a.avi", drives[0] + drives[1]), tmp_path / "out"
    straight = tmp_path / "straight/out"  # the page has the name of the folder
    video(path, "--out", straight)
    monkeypatch.setattr(films, "SAVE_EVERY", 4)
    write, writes, looked = films.write_bytes, iter(range(after)), Counter()

    def stop(path, data):
        if next(writes, None) is None:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(films, "write_bytes", stop)
        assert video(path, "--out", out) == 130
    assert unfinished(out) == [
        f"{path} was not decoded to its end. Finish it: monodepth prepare video {path} --out {out}"
    ]
    done = json.loads(bytes(np.load(out / ".a.npz")["survey"]))["read"] if (out / ".a.npz").exists() else 0
    assert done >= 4
    add = Selection.add
    monkeypatch.setattr(Selection, "add", lambda self, frame: looked.update("f") or add(self, frame))
    again = shutil.copytree(out, tmp_path / "again/out")
    video(path, "--out", out)
    assert looked["f"] == 20 - done
    assert content(out) == content(straight)
    (again / "a-000/0000000001.jpg").unlink()
    looked.clear()
    video(path, "--out", again)
    assert looked["f"] == 20
    assert content(again) == content(straight)


def test_a_damaged_state_is_not_used(drives, tmp_path, capsys):
    path, out = film(tmp_path / "a.avi", drives[0]), tmp_path / "out"
    out.mkdir()
    (out / ".a.npz").write_bytes(b"PK damaged")
    video(path, "--out", out)
    assert "10 kept in 1 clip" in capsys.readouterr().out
    assert not (out / ".a.npz").exists()


def test_a_film_is_known_by_its_content(drives, tmp_path, capsys):
    path, out = film(tmp_path / "a.avi", drives[0]), tmp_path / "out"
    video(path, "--out", out)
    before = content(out)
    moved = tmp_path / "moved"
    moved.mkdir()
    os.utime(shutil.copy(path, moved / "a.avi"), (1, 1))
    video(moved / "a.avi", "--out", out)
    assert content(out) == before
    film(path, drives[1])
    assert video(path, "--out", out) == 2
    assert "holds frames of another a.avi" in capsys.readouterr().err
    assert content(out) == before


def test_a_full_disk_ends_the_job(drives, tmp_path, monkeypatch, capsys):
    def refuse(path, data):
        raise CannotWrite(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(films, "write_bytes", refuse)
    path = film(tmp_path / "a.avi", drives[0])
    assert video(path, "--out", tmp_path / "out") == 2
    assert "No space left on device" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert video(path, "--out", tmp_path / "file") == 2
    assert "is a file, but a folder is needed there" in capsys.readouterr().err


def test_films_of_a_folder_have_names_of_their_own(tmp_path, capsys):
    for name in (
        "b/GX01.MP4",
        "a/GX01.mp4",
        "c.mov",
        ".hidden.mp4",
        ".trash/x.mp4",
        "out/y.mp4",
        "a/x.lrv",
        "n" * 200 + ".mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_films([tmp_path], tmp_path / "out")
    assert [source.name for source in found[:3]] == ["a_GX01", "b_GX01", "c"]
    assert len(found) == 4
    assert re.fullmatch(r"n{167}~[0-9a-f]{12}", found[3].name)
    assert others == {".lrv": 1}
    (tmp_path / "c.mkv").touch()
    with pytest.raises(UserError, match=r"whose frames would be mixed: .*c\.mkv and .*c\.mov"):
        find_films([tmp_path], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no films .* and no files at all"):
        find_films([tmp_path / "empty"], tmp_path / "out")


def test_the_number_of_workers_has_a_reason(monkeypatch):
    def offer(cores, gigabytes):
        monkeypatch.setattr(sources, "usable_cores", lambda: cores)
        memory = type("memory", (), {"available": gigabytes * 1e9})
        monkeypatch.setattr("psutil.virtual_memory", lambda: memory)

    offer(8, 64)
    assert choose_workers(3) == (3, "3 films")
    assert choose_workers(100) == (8, "8 cores")
    offer(8, 2.5)
    assert choose_workers(100) == (5, "2.5 GB of memory, of which one takes up to 0.5")
    offer(8, 0.1)
    assert choose_workers(100)[0] == 1


def work(task, tick):
    """Do what a task says."""
    tick()
    if task == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "exit":
        os._exit(3)
    if task == "fail":
        raise ZeroDivisionError("by hand")
    if task == "refuse":
        raise CannotWrite("the disk is full")
    time.sleep(0.01)
    return task.upper()


def test_a_process_that_dies_costs_its_task_alone():
    ticks = []
    results = dict(apart(work, ["a", "kill", "exit", "fail", "b"], 2, ticks.append))
    assert (results[0], results[4]) == ("A", "B")
    assert "was killed, most likely for want of memory" in results[1].reason
    assert "crashed (exit code 3)" in results[2].reason
    assert results[3] == Lost("unexpected ZeroDivisionError: by hand. Alone, it shows where")
    assert sum(ticks) == 3  # the others died before they told
    with pytest.raises(CannotWrite, match="the disk is full"):
        list(apart(work, ["refuse", "a"], 1, ticks.append))


def test_changes_of_light_are_no_cuts(drives):
    one, two = drives
    flash = [frame.copy() for frame in one]
    for i in (3, 6, 7):
        flash[i] = (flash[i] * 0.3 + 170).astype(np.uint8)
    dimmed = [(frame * share).astype(np.uint8) for frame, share in zip(one, np.linspace(1, 0.25, 10), strict=True)]
    for frames in (flash, dimmed):
        survey = chosen(frames)
        assert (survey.cuts, len(survey.clips)) == (0, 1)
    strange = [*one[:5], two[0], two[3], *one[5:]]  # two frames of something else
    survey = chosen(strange)
    assert (survey.cuts, survey.flashes, survey.kept) == (0, 2, 10)
    survey = chosen([*one[:5], *two[:3], *one[5:]])  # three make a scene
    assert (survey.cut_at, survey.flashes, survey.clips) == ([5, 8], 0, [5, 3, 5])
    survey = chosen([*one, two[0]])
    assert (survey.cut_at, survey.too_short, survey.kept) == ([10], 1, 10)


def test_frames_of_another_size_are_dropped(drives):
    survey = chosen([*drives[0][:5], drives[0][5][:, :300], *drives[0][6:]])
    assert (survey.other_size, survey.kept, survey.size) == (1, 9, (320, 96))
    assert "1 of another size" in survey.report()[1]


def test_pictures_are_spread_over_the_clips_of_a_film(tmp_path):
    film = films.Finished("a", {}, Survey(fps=10, size=(8, 8), clips=[4, 2, 6]))
    places = [(clip, str(path.relative_to(tmp_path))) for clip, path in pictures_of(tmp_path, film, 3)]
    assert places == [(0, "a-000/0000000002.jpg"), (2, "a-002/0000000000.jpg"), (2, "a-002/0000000004.jpg")]
    assert len(pictures_of(tmp_path, film, 100)) == 12
    assert pictures_of(tmp_path, films.Finished("a", {}, Survey(fps=10, size=(8, 8))), 3) == []


def test_the_page_holds_what_it_shows(drives, tmp_path):
    out = tmp_path / "out"
    video(film(tmp_path / "a.avi", drives[0] + drives[1]), "--out", out)
    page = make_page(out, finished(out), ["b/<x>.mp4 is empty"])
    assert page == make_page(out, finished(out), ["b/<x>.mp4 is empty"])
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<img src="data:image/jpeg;base64,') == 8
    assert "<x>" not in page
    assert "default-src &#39;none&#39;; img-src data:" in page
    shutil.rmtree(out / "a-000")
    assert make_page(out, finished(out), []).count("<img") == 4  # those of the other clip
    assert "Left out" not in make_page(out, finished(out), [])


def test_durations_are_written_as_clocks_do():
    assert [lasting(s) for s in (0, 59.6, 3600 * 12 + 61)] == ["0:00:00", "0:01:00", "12:01:01"]
