"""Frames go through in order, with bounds, and films keep their time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.data.clips.video import Film
from trainer.predict.colours import ColourRange
from trainer.predict.filmwriter import FilmWriter
from trainer.predict.pipeline import look_first, predict_all
from trainer.predict.sources import FilmFile, names_of, open_source
from trainer.predict.threads import Ahead, Budget, in_threads
from trainer.predict.writing import Outputs
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite

pytest.importorskip("av", reason="reads and writes films: the extra `video`")

TIMES = [0.0, 0.04, 0.08, 0.5, 0.54, 1.0]  # of a film whose rate varies


def write_film(path: Path, times=TIMES, size=(64, 48)) -> Path:
    with FilmWriter(path, size, 25, {"unit": "m"}) as film:
        for i, second in enumerate(times):
            film.write(Image.new("RGB", size, (30 * i % 256, 100, 50)), second)
    return path


def times_of(path: Path) -> list[float]:
    with Film(path) as film:
        return [frame.time for frame in film]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "drive.mp4")


def predicted(predictor, source, folder, *kinds, **options):
    outputs, colours = Outputs(folder, source, kinds), ColourRange(follows=source.is_stream)
    return predict_all(predictor, source, outputs, colours, look_first(predictor, source, colours), **options)


def test_a_film_keeps_its_times_and_says_its_unit(predictor, film, tmp_path):
    import av

    assert predicted(predictor, open_source([str(film)]), tmp_path, "side-by-side", "video").frames == 6
    made = tmp_path / "drive_side-by-side.mp4"
    assert times_of(made) == pytest.approx(TIMES, abs=1e-4)
    with av.open(str(made)) as container:
        assert container.duration / 1e6 == pytest.approx(1.04, abs=0.002)  # the last frame is shown as long as others
        (video,) = container.streams.video
        assert (video.width, video.height, video.codec_context.pix_fmt) == (128, 48, "yuv420p")
        assert "unit: m;" in container.metadata["comment"]
    assert [path.name for path in tmp_path.iterdir()] == ["drive_side-by-side.mp4"]


def test_frames_of_a_film_are_numbered_as_in_the_film(predictor, film, tmp_path):
    source = open_source([str(film)], every=2, limit=2)
    assert source.total == 2
    assert predicted(predictor, source, tmp_path, "npy").frames == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive_0000000.npy", "drive_0000002.npy"]


def test_odd_sizes_are_made_even(predictor, tmp_path):
    for i, size in enumerate([(33, 21), (50, 21)]):
        Image.new("RGB", size, "red").save(tmp_path / f"{i}.png")
    source = open_source([str(tmp_path)], fps=10)
    predicted(predictor, source, tmp_path / "out", "video")
    with Film(tmp_path / "out" / f"{tmp_path.name}_color.mp4") as film:
        assert [(frame.width, frame.height, frame.time) for frame in film] == [(34, 22, 0.0), (34, 22, 0.1)]


def test_key_frames_are_looked_at_in_a_long_film(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.predict.sources.NEAR", 1)
    source = FilmFile(write_film(tmp_path / "a.mp4", [i / 25 for i in range(8)]))
    seen = list(source.samples(3))
    assert len(seen) == 3
    assert all(item.load().size == (64, 48) for item in seen)


def test_stopping_leaves_a_film_that_plays(predictor, film, tmp_path):
    done: list[int] = []
    outcome = predicted(
        predictor, open_source([str(film)]), tmp_path, "video", on_frame=lambda: done.append(1), is_stopped=lambda: True
    )
    assert outcome.frames == 0
    source = write_film(tmp_path / "long.mp4", [i / 25 for i in range(60)])
    outcome = predicted(
        predictor, open_source([str(source)]), tmp_path, "video",
        on_frame=lambda: done.append(1), is_stopped=lambda: len(done) >= 3,
    )  # fmt: skip
    assert 3 <= outcome.frames < 60
    assert len(times_of(tmp_path / "long_color.mp4")) == outcome.frames


def test_frames_from_stdin(predictor, tmp_path):
    with open(tmp_path / "frames", "wb") as file:
        for i in range(4):
            Image.new("RGB", (64, 48), (60 * i, 0, 0)).save(file, "JPEG")
    kept = os.dup(0)
    try:
        with open(tmp_path / "frames", "rb") as file:
            os.dup2(file.fileno(), 0)
        source = open_source(["-"], fps=10)
        assert source.is_stream
        outcome = predicted(predictor, source, tmp_path / "out", "video", "npy")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert outcome.frames == 4
    assert times_of(tmp_path / "out" / "stdin_color.mp4") == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_full_disk_is_a_sentence_and_leaves_nothing(predictor, film, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.predict.filmwriter.FilmWriter._encode", refuse)
    with pytest.raises(CannotWrite, match="No space left on device"):
        predicted(predictor, open_source([str(film)]), tmp_path, "video")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("numpy.save", refuse)
    with pytest.raises(CannotWrite, match=r"\.npy: cannot be written: No space"):
        predicted(predictor, open_source([str(film)]), tmp_path, "npy")
    assert list(tmp_path.iterdir()) == []


def test_names_are_unique():
    def names(*paths: str) -> list[str]:
        return names_of([Path(path) for path in paths])

    assert names("a/x.jpg", "a/y.jpg") == ["x", "y"]
    assert names("a/x.jpg", "a/x.png", "a/y.png") == ["x.jpg", "x.png", "y"]
    assert names("a/x.jpg", "b/x.jpg") == ["a/x", "b/x"]
    assert names("a/X.jpg", "a/x.jpg") == ["X.jpg", "x.jpg"] or names("a/X.jpg", "a/x.jpg") == ["X.jpg", "x.jpg"]
    assert names("x.jpg.png", "x.jpg", "x.png") == ["x.jpg.png", "x.jpg", "x.png"]


def test_a_folder_is_read_in_natural_order_without_what_is_hidden_or_written(tmp_path):
    for name in ("b10.png", "b9.JPG", ".hidden.png", ".git/x.png", "a/c2.png", "out/b9_color.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    source = open_source([str(tmp_path)], apart=tmp_path / "out")
    assert source.names == ["a/c2", "b9", "b10"]
    assert open_source([str(tmp_path / "b*")]).names == ["b9", "b10"]
    assert open_source([str(tmp_path)], apart=tmp_path / "out", every=2, limit=1).total == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.jpg"], "no such file or folder"),
        (["none*.jpg"], "no file has such a name"),
        (["empty"], "no pictures"),
        (["films"], "It holds films"),
        (["text.txt"], "is not a video that FFmpeg can decode"),
        (["cut.mp4"], "is not a video that FFmpeg can decode"),
        (["a.jpg", "cut.mp4"], "a film is predicted alone"),
        (["a.jpg", "empty"], "is a folder: give it alone"),
    ],
)
def test_what_is_no_source_is_refused(words, told, tmp_path, film, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("films").mkdir()
    Path("films/a.mp4").write_bytes(b"")
    Path("text.txt").write_text("text")
    Path("a.jpg").write_bytes(b"")
    Path("cut.mp4").write_bytes(film.read_bytes()[:200])
    with pytest.raises(UserError, match=told):
        open_source(words)


def test_a_film_has_a_rate_of_its_own(film):
    with pytest.raises(UserError, match="--fps is for stdin"):
        open_source([str(film)], fps=5)


def test_a_camera_that_is_pulled_out_ends_the_stream(monkeypatch):
    cv2 = pytest.importorskip("cv2", reason="reads cameras: the extra `hints`")

    class Capture:
        frames = 3

        def __init__(self, number):
            self.isOpened = lambda: True
            self.get = lambda key: 0
            self.release = lambda: None

        def read(self):
            self.frames -= 1
            return self.frames >= 0, np.full((4, 6, 3), (255, 0, 0), np.uint8)  # blue first

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    *good, last = open_source(["97"]).items()
    assert [item.name for item in good] == [f"camera97_000000{i}" for i in range(3)]
    assert good[0].load().getpixel((0, 0)) == (0, 0, 255)
    assert [item.time for item in good] == sorted(item.time for item in good)
    with pytest.raises(UserError, match="gives no frames any more"):
        last.load()


def test_an_absent_camera_is_refused():
    pytest.importorskip("cv2", reason="reads cameras: the extra `hints`")
    with pytest.raises(UserError, match="camera 97 cannot be opened"):
        open_source(["97"])


def test_threads_keep_the_order_and_their_distance():
    running, most = 0, 0
    lock = threading.Lock()

    def work(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (i % 3))
        with lock:
            running -= 1
        return i

    assert list(in_threads(work, range(20), 3)) == list(range(20))
    assert most <= 3


def test_one_who_runs_ahead_waits():
    made: list[int] = []

    def count():
        for i in range(100):
            made.append(i)
            yield i

    with Ahead(count(), 2) as numbers:
        assert next(numbers) == 0
        time.sleep(0.05)
        assert len(made) <= 4  # one taken, two waiting, one in hand
    with Ahead(count(), 2) as numbers:
        assert list(numbers) == list(range(100))


def test_errors_come_through():
    def fail():
        yield 1
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"), Ahead(fail(), 2) as numbers:
        list(numbers)


def test_a_silent_stream_can_be_stopped():
    silence = threading.Event()

    def wait():
        yield 1
        silence.wait(10)

    with Ahead(wait(), 2, lambda: True) as numbers:
        assert list(numbers) == [1]
    silence.set()


def test_the_budget_lets_one_pass_that_is_too_large():
    budget, passed = Budget(100), []
    budget.take(20)
    budget.take(1000)  # little else is on its way

    def take() -> None:
        budget.take(50)
        passed.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(0.05)
    assert not passed
    budget.give(1000)
    thread.join(5)
    assert passed


def test_large_pictures_go_through_in_small_batches(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.predict.pipeline.IN_FLIGHT", 1000)
    for i in range(5):
        Image.fromarray(np.full((40, 60, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    assert predicted(predictor, open_source([str(tmp_path)]), tmp_path / "out", "npy").frames == 5
