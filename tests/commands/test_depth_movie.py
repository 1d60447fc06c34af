"""`depth-movie`: a film in, one twice as wide out; every stage is a command, films that teach nothing are refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="films need the extra video")
pytest.importorskip("cv2", reason="motion in films needs the extra hints")

from tests.data.clips import film  # noqa: E402
from tests.world import call, refused  # noqa: E402
from trainer.commands.jobs.depth_movie import best_size, check, choices, settle  # noqa: E402
from trainer.config import load_config  # noqa: E402
from trainer.config.pages import find_page  # noqa: E402
from trainer.data.clips.survey import Survey  # noqa: E402
from trainer.data.synthetic import Synthetic  # noqa: E402
from trainer.runtime.errors import UserError  # noqa: E402

FRAMES = 66
SMALL = """
net: {depth: {enc_name: test_resnet, out_scales: [0, 1]}, pose: {enc_name: test_resnet}}
dataset: {path: PATH, size: [64, 64]}
loader: {batch_size: 2, num_workers: 0}
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, log_images: false, trackers: []}
"""


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of a drive through a rendered street."""
    options = {"supp_idxs": None, "right_targets": False, "use_depth": False, "focal": (0.8, 1.2)}
    street = Synthetic(num_items=FRAMES, items_per_scene=FRAMES, size=(192, 128), motion=0.4, **options)
    path = tmp_path_factory.mktemp("film") / "my drive.avi"
    return film(path, (street.load(i).target for i in range(FRAMES)))


@pytest.mark.slow
def test_a_film_becomes_one_of_film_and_depth_and_the_same_command_finds_it_done(drive: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "mine", tmp_path / "out.mp4"
    folder.mkdir()
    (folder / "film.yaml").write_text(SMALL.replace("PATH", str(folder / "frames")))  # in place of the chosen settings
    args = ("launch/depth_movie.py", drive, "-o", out, "--folder", folder, "--minutes", "9", "--fov", "64")
    done = call(*args)
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as made:
        frames = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    assert len(frames) == FRAMES
    assert frames[0].shape[1] == 2 * 192
    with av.open(str(drive)) as given:
        first = next(given.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(frames[0][:128, :192].astype(int) - first).mean() < 10  # the film on the left
    assert "settings: those of" in done.stdout

    again = call(*args)
    assert again.returncode == 0, again.stderr
    assert "had finished before: nothing was trained" in again.stdout
    assert "shows this network already" in again.stdout

    prepare, train, predict = (shlex.split(line)[2:] for line in again.stdout.splitlines() if line.startswith("$ "))
    assert f"{FRAMES} frames read" in call("launch/prepare.py", *prepare[1:]).stdout
    assert "had finished before: nothing was trained" in call("launch/train.py", *train[1:]).stdout
    assert call("launch/predict.py", *predict[1:], "--limit", "1").returncode == 0


def test_the_settings_follow_from_the_film(tmp_path: Path) -> None:
    """A shift of 1 pixel of 320 per frame: over 2 frames it is nearest to that of KITTI, 2.5."""
    survey = Survey(fps=25, size=(1920, 1080), read=600, clips=[600], shifts=[1.0] * 599, parallaxes=[0.5] * 599)
    page = tmp_path / "film.yaml"
    settle(page, Path("a\nb: c.mp4"), choices(survey, tmp_path / "frames of mine"))  # a name is not YAML
    folder = find_page("real/folder")
    cfg = load_config([folder, page], [folder.with_name("default.yaml")], ["trainer.max_minutes=20"])
    _, kwargs = cfg.dataset_kwargs("train")
    assert (kwargs["path"], kwargs["frame_gap"]) == (str(tmp_path / "frames of mine"), 2)
    assert (cfg.trainer.max_minutes, cfg.scheduler, cfg.trainer.ema is not None) == (20.0, None, True)
    assert tuple(kwargs["size"]) in ((160, 96), (512, 288))  # on a CPU, on a GPU


def test_the_size_has_the_shape_of_the_film() -> None:
    assert best_size((640, 320), 256 * 128) == (256, 128)
    assert best_size((100, 100), 96 * 96) == (96, 96)
    assert best_size((1920, 1080), 512 * 288) == (512, 288)
    assert best_size((4000, 100), 192 * 96)[1] == 64  # the least side


GOOD = {"fps": 25.0, "size": (640, 480), "read": 300, "shifts": [2.0], "parallaxes": [1.0], "clips": [300]}
BAD = {
    "only turning": ({"parallaxes": [0.05]}, "no parallax: the camera turns or zooms but hardly moves"),
    "standing": (
        {"clips": [20], "standing": 280},
        "20 of 300 frames are left to learn from, and at least 60 are needed: in",
    ),
    "short": ({"clips": [30], "read": 30}, "30 of 30 frames are left to learn from, and at least 60 are needed: the"),
    "nothing": ({"clips": [], "shifts": [], "parallaxes": [], "standing": 299}, "0 of 300 frames are left"),
    "upright": ({"size": (480, 640)}, "480x640 is higher than wide, and networks take landscape pictures. Cut it: ff"),
}


@pytest.mark.parametrize("case", BAD)
def test_films_that_teach_nothing_are_refused_in_a_sentence(case: str) -> None:
    check(Path("film.mp4"), Survey(**GOOD))
    changes, words = BAD[case]
    with pytest.raises(UserError, match=f"^film.mp4: {re.escape(words)}") as refusal:
        check(Path("film.mp4"), Survey(**{**GOOD, **changes}))
    assert "\n" not in str(refusal.value)


def test_what_is_no_film_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    broken, folder = tmp_path / "broken.mp4", tmp_path / "models"
    broken.write_bytes(b"no film at all" * 100)
    for path, words in ((broken, "is not a video"), (tmp_path / "none.mp4", "does not exist")):
        refused(call("launch/depth_movie.py", path, "--folder", folder), words)
    assert not folder.exists() or not list(folder.rglob("*.jpg"))
    other = tmp_path / "other.mp4"
    other.write_bytes(b"of somebody")
    refused(call("launch/depth_movie.py", broken, "--folder", folder, "-o", other), "is not a film of this command")
    assert other.read_bytes() == b"of somebody"
    refused(call("launch/depth_movie.py", broken, "--folder", folder, "-o", broken), "is not a film of this command")
    wrong = call("launch/depth_movie.py", broken, "-o", "out.gif")
    assert (wrong.returncode, "must end with .mp4" in wrong.stderr) == (2, True)
    assert "above 0" in call("launch/depth_movie.py", broken, "--minutes", "0").stderr


def test_a_camera_that_only_turns_is_found_out(tmp_path: Path) -> None:
    """A window that wanders over one picture is what a camera sees that turns: a homography explains it all."""
    coarse = np.random.default_rng(0).integers(0, 256, (20, 60, 3), dtype=np.uint8)
    wide = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    path = film(tmp_path / "turn.avi", (wide[:96, 2 * i : 2 * i + 160] for i in range(FRAMES)))
    refused(call("launch/depth_movie.py", path, "--folder", tmp_path / "turn"), "no parallax", "Film while you walk")
