"""Frames and videos of one's own: order, neighbours, division, intrinsics; damage is named and costs one item."""

from __future__ import annotations

import errno
import logging
import math
import os
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.clips import HEIGHT, WIDTH, cut, damage_frames, film, frames, grey_frame, level, noise_frame, scar
from trainer.data import DATASETS
from trainer.data.clips import video as _video
from trainer.data.clips.clips import Clip, choose_frames, gaps, list_clip
from trainer.data.clips.intrinsics import read_intrinsics
from trainer.data.clips.video import Film, pixels
from trainer.data.files import damage
from trainer.data.files.damage import TAIL, find_damaged, is_whole
from trainer.data.loaders import EpochBatches, make_loader
from trainer.runtime.errors import DataError, UserError


def folder(path: Path, **options):
    return DATASETS.create("folder", path=str(path), **{"size": (20, 10), "val_every": 0, **options})


def test_neighbours_are_those_of_the_natural_order(tmp_path):
    for number in (9, 10, 11, 8):
        grey_frame(tmp_path / f"frame{number}.png", 10 * number)
    dataset = folder(tmp_path)
    assert dataset.check() == []
    assert [dataset.describe(i) for i in range(len(dataset))] == [f"{tmp_path.name}/9", f"{tmp_path.name}/10"]
    item = dataset[0]
    assert level(item["target"]) == 90
    assert [level(support) for support in item["supports"]] == [80, 100]
    assert item["target"].shape == (3, 10, 20)
    assert "depth" not in item


def test_frames_that_were_thinned_out_keep_their_step_and_gaps_are_not_crossed(tmp_path):
    clip = list_clip(frames(tmp_path, [0, 5, 10, 15, 30, 35, 40]), "a")
    assert clip.step == 5
    assert gaps(clip) == 1
    assert choose_frames(clip, (-1, 1), "train", 0) == [5, 10, 35]
    assert folder(tmp_path).notes()[0] == f"{tmp_path.name}: 1 gap in the numbers of its frames"


def test_a_picture_in_two_formats_is_one_frame_and_hidden_files_are_none(tmp_path):
    for name in ("1.png", "1.jpg", "2.JPG", "3.Png", "._4.png", ".5.jpg"):
        grey_frame(tmp_path / name, 10)
    clip = list_clip(tmp_path, "a")
    assert clip.frames == {1: f"{tmp_path}/1.png", 2: f"{tmp_path}/2.JPG", 3: f"{tmp_path}/3.Png"}
    for name in ("IMG_1.png", "img_2.png", "Img_10.png"):
        grey_frame(tmp_path / "cases" / name, 10)
    assert list(list_clip(tmp_path / "cases", "a", step=1).frames) == [1, 2, 10]


def test_names_without_numbers_are_taken_in_order(tmp_path):
    for i, stamp in enumerate(("1305.175", "1305.240", "1306.003", "1309.771")):
        grey_frame(tmp_path / f"{stamp}.png", 10 * i)
    clip = list_clip(tmp_path, "a")
    assert list(clip.frames) == [0, 1, 2, 3]
    assert choose_frames(clip, (-1, 1), "train", 0) == [1, 2]
    (note,) = folder(tmp_path, fov=60).notes()
    assert "not numbered in one row: taken in natural order" in note


def test_frame_gap_reaches_further(tmp_path):
    dataset = folder(frames(tmp_path, range(8)), frame_gap=3)
    assert [dataset.describe(i).rpartition("/")[2] for i in range(len(dataset))] == ["3", "4"]
    assert [level(support) for support in dataset[0]["supports"]] == [0, 60]


@pytest.mark.parametrize("num_frames", [24, 51, 400, 2000])
@pytest.mark.parametrize("offsets", [(-1, 1), (-3, 3), (1,)])
def test_training_and_validation_never_read_the_same_picture(num_frames, offsets):
    clip = Clip("a", dict.fromkeys(range(num_frames), ""))

    def read(mode):
        return {n + o for n in choose_frames(clip, offsets, mode, 10) for o in (0, *offsets)}

    targets = {mode: choose_frames(clip, offsets, mode, 10) for mode in ("train", "val", "test")}
    assert not read("train") & read("val")
    assert targets["val"] == targets["test"]
    assert 0.05 * num_frames < len(targets["val"]) <= 0.1 * num_frames
    if num_frames >= 400:
        assert len(targets["train"]) > 0.7 * num_frames


def test_frames_that_are_no_items_are_counted_with_the_reason(tmp_path):
    """Blocks of two: the tenth, 18 and 19, is held out; two frames on either side of it are near."""
    path = frames(tmp_path / "a", range(24))
    near = (
        "4 of 22 frames are no items, because they are next to frames held out for validation: a/16, a/17, a/20 and 1"
    )
    alone = "2 of 22 frames are no items, because they have no neighbour at -1 and +1: a/0, a/23"
    assert folder(path, mode="train", val_every=10).left_out() == [alone, f"{near} more"]
    assert folder(path, mode="val", val_every=10).left_out() == []


def test_blocks_by_hand():
    clip = Clip("a", dict.fromkeys(range(24), ""))  # blocks of two: the tenth is 18 and 19
    assert choose_frames(clip, (-1, 1), "val", 10) == [18, 19]
    assert choose_frames(clip, (-1, 1), "train", 10) == [*range(1, 16), 22]


def test_folders_beside_pictures_and_hidden_ones_are_not_clips(tmp_path):
    frames(tmp_path / "a", range(3))
    frames(tmp_path / ".thumbnails", range(3))
    (tmp_path / "._film.mp4").write_bytes(b"what macOS leaves on foreign disks")
    dataset = folder(tmp_path, fov=60)
    assert [dataset.describe(i) for i in range(len(dataset))] == ["a/1"]
    assert dataset.notes() == []
    frames(tmp_path, range(3))
    (note,) = folder(tmp_path, fov=60).notes()
    assert "has pictures of its own, which are the only clip: 1 folders and videos in it are not read" in note


def test_names_of_clips_may_have_spaces(tmp_path):
    frames(tmp_path / "my film 2", range(3))
    split = tmp_path / "split.txt"
    split.write_text("my film 2 1\nmy film 2\t1\n", encoding="utf-8-sig")
    dataset = folder(tmp_path, split_file=str(split))
    assert [dataset.describe(i) for i in range(2)] == ["my film 2/1"] * 2
    assert dataset.check() == []
    with pytest.raises(UserError, match="frame_gap must be 1"):
        folder(tmp_path, split_file=str(split), frame_gap=0)


# Pictures that would be read wrongly


def exif(turn):
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


@pytest.mark.parametrize(
    ("picture", "options", "message"),
    [
        (Image.new("RGB", (64, 20)), {}, "are not 40x20 as the first of the clip, the first: {path} (64x20"),
        (Image.new("RGB", (WIDTH, HEIGHT)), {"exif": exif(6)}, "lie on a side or head"),
        (Image.new("RGB", (WIDTH, HEIGHT)), {"exif": exif(1)}, ""),
        (Image.fromarray(np.full((HEIGHT, WIDTH), 20_000, np.uint16)), {}, "have more than 8 bits per pixel"),
    ],
    ids=["size", "on its side", "upright", "16 bits"],
)
def test_pictures_that_would_be_read_wrongly_are_named(tmp_path, monkeypatch, picture, options, message):
    path = frames(tmp_path, range(5)) / "000002.png"
    picture.save(path, **options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):  # the first process of a machine looks for all
        monkeypatch.setenv("LOCAL_RANK", rank)
        problems = folder(tmp_path).check()
        assert len(problems) == (rank == "0" and bool(message))
        assert all("1 of 5 pictures " + message.format(path=path) in problem for problem in problems)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_other_kinds_of_pictures_come_out_as_they_look(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    for number in range(3):
        Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255)).convert(mode).save(tmp_path / f"{number}{suffix}")
    dataset = folder(tmp_path)
    assert dataset.check() == []
    assert level(dataset[0]["target"]) == 255


# Intrinsics


@pytest.mark.parametrize(
    "text", ["30 32 19.5 9.5", "\ufeff30 32 19.5 9.5", "30 0 19.5\n0 32 9.5\n0 0 1\n", "30,0,19.5,0,32,9.5,0,0,1"]
)
def test_intrinsics_of_the_file_follow_the_size(tmp_path, text):
    frames(tmp_path, range(3))
    (tmp_path / "K.txt").write_text(text, encoding="utf-8")
    assert folder(tmp_path)[0]["K"].tolist() == [[15, 0, 9.75], [0, 16, 4.75], [0, 0, 1]]
    assert folder(tmp_path).notes() == []


def test_clips_are_folders_that_may_have_their_own_intrinsics(tmp_path):
    for name in "ab":
        frames(tmp_path / name, range(3))
    (tmp_path / "K.txt").write_text("30 32 19.5 9.5")
    (tmp_path / "b" / "K.txt").write_text("60 32 19.5 9.5")
    dataset = folder(tmp_path)
    assert [dataset.describe(i) for i in range(len(dataset))] == ["a/1", "b/1"]
    assert [float(item["K"][0, 0]) for item in dataset] == [15, 30]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "got 3 numbers"),
        ("a b", "cannot be read"),
        ("0 1 2 3", "no camera"),
        ("nan 1 2 3", "no camera"),
        ("0.58 1.92 0.5 0.5", "normalised.*first row .* by the width .* second .* by their height"),
        ("0.58 0 0.5 0 1.92 0.5 0 0 1", "normalised"),
    ],
)
def test_intrinsics_that_are_none_are_named(tmp_path, text, message):
    (tmp_path / "K.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"K\.txt.*{message}"):
        read_intrinsics(tmp_path / "K.txt")


def test_intrinsics_of_another_size_are_doubted(tmp_path):
    frames(tmp_path, range(3))
    (tmp_path / "K.txt").write_text("60 64 39.5 19.5")
    (note,) = folder(tmp_path).notes()
    assert "principal point at (40, 20), far from the middle of pictures of 40x20. Does it belong to" in note
    (tmp_path / "K.txt").write_text("30 32 9.5 19.5")
    (note,) = folder(tmp_path).notes()
    assert "principal point at (10, 20), far from the middle of pictures of 40x20. Are cx and cy swapped" in note


def test_a_field_of_view_of_90_degrees_is_a_focal_length_of_half_the_width(tmp_path):
    frames(tmp_path, range(3))
    dataset = folder(tmp_path, fov=90, size=(WIDTH, HEIGHT))
    assert dataset[0]["K"].tolist() == [pytest.approx([20, 0, 19.5]), pytest.approx([0, 20, 9.5]), [0, 0, 1]]
    assert dataset.notes() == []


def test_a_field_of_view_wins_over_a_file_and_says_so(tmp_path):
    for name in ("a", "b"):
        frames(tmp_path / name, range(3))
    (tmp_path / "K.txt").write_text("30 32 19.5 9.5")
    dataset = folder(tmp_path, fov=90, size=(WIDTH, HEIGHT))
    assert float(dataset[0]["K"][0, 0]) == pytest.approx(20)
    (note,) = dataset.notes()
    assert note == f"{tmp_path / 'K.txt'} is not read: dataset.fov: 90 wins. Set it to null to take K.txt"


def test_an_unknown_camera_is_guessed_and_noted(tmp_path):
    dataset = folder(frames(tmp_path, range(3)), size=(WIDTH, HEIGHT))
    assert float(dataset[0]["K"][0, 0]) == pytest.approx(20 / math.tan(math.radians(30)))
    assert "60 degrees" in dataset.notes()[0]
    assert "wrong shape" in dataset.notes()[0]
    assert dataset.guesses_K
    dataset.K_is_learned = True
    (note,) = dataset.notes()
    assert note.endswith("the camera is not known; net.pose.learn_K learns it")
    assert not folder(tmp_path, fov=90).guesses_K


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supp_idxs": [-1, 0]}, "stereo partner"),
        ({"use_hints": True}, "no depth hints"),
        ({"fov": 200}, "5 to 170 degrees, got 200$"),
        ({"fov": 1.4}, r"5 to 170 degrees, got 1\.4\. Is it in radians\? Then dataset\.fov: 80\.2"),
        ({"frame_gap": 0}, "frame_gap must be 1"),
        ({"val_every": 1}, "val_every must be 2"),
        ({"supp_idxs": [-9]}, "none of 5 frames is left for train"),
        ({"val_every": 10, "mode": "val"}, "none of 5 frames is left for val"),
    ],
)
def test_options_without_meaning_are_refused(tmp_path, options, message):
    frames(tmp_path, range(5))
    with pytest.raises(UserError, match=message):
        folder(tmp_path, **options)


def test_no_such_folder_lists_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MONODEPTH_DATA", f"{tmp_path / 'x'}:{tmp_path / 'y'}")
    with pytest.raises(UserError) as caught:
        folder(Path("walk"))
    assert str(tmp_path / "x" / "walk") in str(caught.value)
    frames(tmp_path / "y" / "walk", range(3))
    assert len(folder(Path("walk"))) == 1  # the first that exists wins
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        folder(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes\.txt is no video"):
        folder(tmp_path / "notes.txt")


def test_a_split_with_a_missing_neighbour_names_line_role_and_frame(tmp_path):
    frames(tmp_path / "a", range(4))
    split = tmp_path / "split.txt"
    split.write_text("a 1\na 3\nnonsense\nb 2\n")
    problems = folder(tmp_path, split_file=str(split)).check()
    assert problems == [
        f"{split}:3: 'nonsense': expected \"<clip> <frame>\"",
        "there are no pictures of 'b': 1 frame is missing. Known: a",
        f"{split}:2: support +1 a/4 is missing: no such picture. The clip has 4 frames, 0 to 3",
    ]


def test_a_thousand_unknown_clips_beside_a_thousand_known_ones_are_a_short_report(tmp_path):
    frames(tmp_path / "a", range(3))
    split = tmp_path / "split.txt"
    split.write_text("".join(f"no{i} 1\n" for i in range(1000)))
    dataset = folder(tmp_path, split_file=str(split))
    dataset.clips = {f"clip{i:03}": Clip(f"clip{i:03}", {0: "0.png"}) for i in range(1000)}
    first, *rest = dataset.check()
    assert first.endswith(
        "Known: clip000, clip001, clip002, clip003, clip004, clip005, clip006, clip007, clip008, clip009 and 990 more"
    )
    assert rest[-1] == "... and 980 more clips without pictures"
    assert max(map(len, rest)) < 200


def test_a_clip_whose_first_picture_is_broken_has_the_size_of_the_next(tmp_path):
    for number in range(5):
        grey_frame(tmp_path / f"{number}.png", 10 * number)
    (tmp_path / "0.png").write_bytes(b"no picture")
    dataset = folder(tmp_path)
    assert level(dataset[2]["target"]) == 30
    with pytest.raises(DataError, match=r"0\.png is not a readable picture"):
        dataset[0]
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png is not a readable picture"):
        folder(tmp_path)._native_size(tmp_path.name)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_that_are_cut_short_or_empty_are_named_before_training(tmp_path, suffix, monkeypatch):
    for number in range(4):
        noise_frame(tmp_path / f"{number}{suffix}", number)
    assert folder(tmp_path).check() == []
    cut(tmp_path / f"2{suffix}")
    (tmp_path / f"3{suffix}").write_bytes(b"")
    problems = folder(tmp_path).check()
    assert len(problems) == 2
    assert f"2{suffix} is not a readable picture" in problems[0]
    assert f"3{suffix} is empty" in problems[1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")  # the first process of a machine looks for all
    assert folder(tmp_path).check() == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_ends_are_judged_by_what_they_are_not_by_the_name(tmp_path, suffix):
    noise_frame(tmp_path / "a.jpg")
    path = (tmp_path / "a.jpg").rename(tmp_path / f"a{suffix}")
    with path.open("ab") as file:
        file.write(bytes(900))  # some cameras fill a block
    assert is_whole(path.read_bytes()[-TAIL:])
    assert find_damaged([str(path)]) == ([], 0)
    with path.open("ab") as file:
        file.write(bytes(5000))  # and others write more: it has to be decoded
    assert find_damaged([str(path)]) == ([], 0)
    path.write_bytes(b"")
    assert find_damaged([str(path)]) == ([f"{path} is empty. Copy it again"], 0)


def test_what_there_was_no_time_for_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "_SECONDS", -1)
    dataset = folder(frames(tmp_path, range(4)), fov=60)
    assert dataset.check() == []
    assert dataset.notes() == ["no time to check 4 files: a broken one costs its items when it is read"]


def test_a_picture_that_claims_to_be_enormous_is_left_to_the_reading(tmp_path):
    frames(tmp_path, range(4))
    path = tmp_path / "000002.png"
    header = b"IHDR" + struct.pack(">II", 1 << 20, 1 << 20)
    content = bytearray(path.read_bytes())
    content[12:24] = header
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    dataset = folder(tmp_path)
    assert dataset.check() == []
    with pytest.raises(DataError, match=r"000002\.png is not a readable picture .*decompression bomb"):
        dataset[1]


# Damage that only decoding tells


@pytest.fixture
def scarred(tmp_path):
    """Nine frames, of which 4 is broken inside: items 3, 4, 5 need it."""
    for number in range(9):
        noise_frame(tmp_path / f"{number}.png", number)
    scar(tmp_path / "4.png")
    return tmp_path


def loaded(dataset, **options):
    sampler = EpochBatches(len(dataset), 1, seed=1, shuffle=dataset.mode == "train")
    sampler.set_position(options.pop("epoch", 0))
    return list(make_loader(dataset, sampler, **options))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_cannot_be_read_is_replaced_named_and_counted(scarred, num_workers, capfd, caplog):
    dataset = folder(scarred)
    assert dataset.check() == []
    batches = loaded(dataset, num_workers=num_workers)
    assert len(batches) == 7
    read = [int(batch["index"]) for batch in batches]
    assert not {2, 3, 4} & set(read)
    assert {0, 1, 5, 6} <= set(read)
    assert dataset.unreadable.nonzero().flatten().tolist() == [2, 3, 4]  # counted for all processes
    if not num_workers:
        message = [r.message for r in caplog.records]
        assert len(message) == 3
        assert all("4.png is not a readable picture" in line for line in message)
        assert message[2].endswith("Another item takes its place (3 of 7 items so far)")
        loaded(dataset, epoch=1)
        assert len(caplog.records) == 3  # message once


def test_a_program_that_calls_itself_a_picture_is_not_run_and_costs_its_items(tmp_path, monkeypatch, caplog):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    frames(tmp_path, range(9), suffix=".jpg")
    evil = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n%%EndComments\n%%EOF\n\xff\xd9"
    (tmp_path / "000004.jpg").write_bytes(evil)
    dataset = folder(tmp_path, size=(32, 16), fov=60)
    assert dataset.check() == []  # it ends as a JPEG does
    assert len(loaded(dataset)) == 7
    assert not (tmp_path / "ran").exists()
    assert int(dataset.unreadable.sum()) == 3
    assert "000004.jpg is not a readable picture (none of PNG, JPEG, BMP, WEBP, TIFF)" in caplog.text
    with Image.open(tmp_path / "000004.jpg") as careless, suppress(OSError):
        careless.load()
    assert (tmp_path / "ran").exists()  # so the file is what it is meant to be


@pytest.mark.parametrize("error", [RuntimeError, CalledProcessError(1, "gs"), struct.error, KeyError, MemoryError])
def test_whatever_a_decoder_raises_costs_one_item(tmp_path, monkeypatch, error):
    def load(picture):
        raise error

    def decode(content, picture):
        raise error

    frames(tmp_path, range(5))
    monkeypatch.setattr("trainer.data.files.pictures._decoder", lambda: decode)
    dataset = folder(tmp_path, fov=60)
    dataset[0]  # Pillow is asked then
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DataError, match=r"\.png is not a readable picture .*item 0 of train"):
        dataset[0]


def test_the_stand_in_depends_on_seed_epoch_and_item_only(scarred):
    def order(epoch=0, **options):
        return [int(batch["index"]) for batch in loaded(folder(scarred), epoch=epoch, **options)]

    assert order() == order() == order(num_workers=1)
    assert order(epoch=0) != order(epoch=1)


def test_bare_access_and_tests_are_strict_and_a_disk_that_is_gone_ends_the_run(scarred):
    gone = folder(scarred)
    with pytest.raises(DataError, match=r"4\.png.*item 3 of train"):
        folder(scarred)[3]
    with pytest.raises(DataError, match=r"4\.png"):
        loaded(folder(scarred, mode="test"))
    validated = loaded(folder(scarred, mode="val"))  # goes on and keeps its rows
    assert [int(batch["index"]) for batch in validated] == list(range(7))
    for path in scarred.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"10 items in a row cannot be read.*Is the disk still there"):
        loaded(gone)


# Videos


def noisy(number):
    """A picture of 64 x 48 with the mean level 20 number + 9.5."""
    noise = np.random.default_rng(number).integers(0, 20, (48, 64, 3))
    return (20 * number + noise).astype(np.uint8)


@pytest.fixture
def video(tmp_path):
    return film(tmp_path / "walk.avi", map(noisy, range(12)))


def test_a_video_is_its_frames_and_is_decoded_once(video, tmp_path):
    dataset = folder(video, cache=str(tmp_path / "cache"))
    assert len(dataset) == 10
    assert dataset.check() == []
    item = dataset[4]
    assert level(item["target"]) == pytest.approx(109, abs=4)
    assert [level(s) for s in item["supports"]] == pytest.approx([89, 129], abs=4)
    (kept,) = (tmp_path / "cache").glob("walk-*")
    before = {p.name: p.stat().st_mtime_ns for p in kept.iterdir()}
    again = folder(video, cache=str(tmp_path / "cache"))
    assert {p.name: p.stat().st_mtime_ns for p in kept.iterdir()} == before
    assert torch.equal(again[4]["target"], item["target"])


def test_decoding_that_was_interrupted_goes_on(video, tmp_path):
    cache = tmp_path / "cache"
    folder(video, cache=str(cache))
    (kept,) = cache.glob("walk-*")
    whole = {p.name: p.read_bytes() for p in kept.iterdir()}
    for path in sorted(kept.glob("*.jpg"))[5:]:
        path.unlink()
    cut(kept / "0000004.jpg")
    (kept / "frames.txt").unlink()
    kept.rename(cache / f".{kept.name}.part")
    folder(video, cache=str(cache))
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == whole


def test_frames_that_were_cleaned_away_are_decoded_again(video, tmp_path):
    cache = tmp_path / "cache"
    folder(video, cache=str(cache))
    (kept,) = cache.glob("walk-*")
    whole = {p.name: p.read_bytes() for p in kept.iterdir()}
    for name in ("0000000.jpg", "0000003.jpg"):
        (kept / name).unlink()
    assert len(folder(video, cache=str(cache))) == 10
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == whole
    for cut_short in ("", "12", "12 "):
        (kept / "frames.txt").write_text(cut_short)
        assert len(folder(video, cache=str(cache))) == 10
        assert {p.name: p.read_bytes() for p in kept.iterdir()} == whole


def test_processes_that_come_together_decode_once(video, tmp_path, monkeypatch):
    decode, calls = _video._decode, []

    def slowly(*arguments):
        calls.append(arguments)
        time.sleep(0.2)
        decode(*arguments)

    monkeypatch.setattr(_video, "_decode", slowly)
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: _video.extract_frames(video, tmp_path / "cache"), range(3)))
    assert len(found) == len(calls) == 1


@pytest.mark.parametrize("reason", ["no module", "no locks on this disk"])
def test_where_there_are_no_locks_videos_are_decoded_all_the_same(video, tmp_path, monkeypatch, caplog, reason):
    if reason == "no module":  # as on Windows
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", refuse(errno.ENOLCK))
    assert len(folder(video, cache=str(tmp_path / "cache"))) == 10
    assert "no file locks here" in caplog.text


def refuse(number):
    def call(*_):
        raise OSError(number, os.strerror(number))

    return call


def test_a_full_disk_is_reported_and_decoding_goes_on_later(video, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse(errno.ENOSPC))
        with pytest.raises(UserError, match=r"No space left on device\)\. Choose another .* dataset\.cache"):
            folder(video, cache=str(cache))
    assert len(folder(video, cache=str(cache))) == 10


def test_a_frame_that_cannot_be_decoded_is_a_gap(video, tmp_path):
    damage_frames(video, 5)
    dataset = folder(video, cache=str(tmp_path / "cache"), fov=60)
    assert [int(dataset.describe(i).rpartition("/")[2]) for i in range(len(dataset))] == [1, 2, 3, 7, 8, 9, 10]
    assert "walk: 1 gap in the numbers of its frames" in dataset.notes()
    assert f"{video}: 1 frame that it announces could not be decoded" in dataset.notes()


def levels(path):
    with Film(path) as frames_of_it:
        return [frame and round(float(pixels(frame).mean()) / 20) for frame in frames_of_it]


def test_a_gap_is_where_time_jumps_though_the_decoder_fails_earlier(tmp_path):
    """H.264 stores frames that refer to later ones behind these: the error comes before frames ahead of the gap."""
    path = film(tmp_path / "a.mp4", map(noisy, range(12)), codec="libx264", bf="2", g="12")
    damage_frames(path, 4)
    found = levels(path)
    (gap,) = [i for i, value in enumerate(found) if value is None]
    assert found[:gap] + found[gap + 1 :] == [i for i in range(12) if i != gap]


def test_frames_are_turned_upright_and_have_their_times(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, 32:] = 255  # white on the right
    path = film(tmp_path / "a.mp4", [picture] * 4, codec="mpeg4", times=[0, 10, 40, 50])
    with Film(path) as straight:
        assert [frame.time for frame in straight] == pytest.approx([0, 0.1, 0.4, 0.5])
    content = path.read_bytes()
    place = content.index(b"tkhd") + 44  # of the matrix; a quarter turn clockwise
    path.write_bytes(
        content[:place] + struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30) + content[place + 36 :]
    )
    with Film(path) as turned:
        rgb = pixels(next(iter(turned)))
    assert rgb.shape == (64, 48, 3)
    assert rgb[:24].mean() < 20 < 235 < rgb[40:].mean()


def test_interlaced_films_are_decoded(tmp_path):
    path = film(tmp_path / "a.avi", map(noisy, range(6)), codec="mpeg4", flags="+ildct+ilme")
    assert levels(path) == list(range(6))


def test_a_blank_film_is_refused(tmp_path):
    path = film(tmp_path / "walk.avi", [np.zeros((48, 64, 3), np.uint8)] * 5)
    with pytest.raises(UserError, match=r"walk\.avi: its frames are blank"):
        folder(path, cache=str(tmp_path / "cache"))


def test_a_video_that_is_none_or_cut_is_named(video, tmp_path):
    (tmp_path / "no.mp4").write_text("not a film")
    with pytest.raises(UserError, match=r"no\.mp4 is not a video that FFmpeg can decode"):
        folder(tmp_path / "no.mp4", cache=str(tmp_path / "cache"))
    damage_frames(video, *range(12))
    with pytest.raises(UserError, match=r"walk\.avi: no frame can be decoded"):
        folder(video, cache=str(tmp_path / "cache"))
    cut(film(video, map(noisy, range(12))), 0.6)
    dataset = folder(video, cache=str(tmp_path / "cache"))
    assert 0 < len(dataset) < 10
    assert dataset.check() == []


def test_without_pyav_the_extra_is_named(video, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r'Reading the video .* pip install -e "\.\[video\]"'):
        folder(video, cache=str(tmp_path / "cache"))


def test_videos_beside_folders_are_clips_too(video, tmp_path):
    frames(tmp_path / "run", range(3))
    dataset = folder(tmp_path, cache=str(tmp_path / "cache" / "deep"))
    assert {dataset.describe(i).partition("/")[0] for i in range(len(dataset))} == {"run", "walk"}


def test_real_frames(shared_data, caplog):
    caplog.set_level(logging.WARNING)
    path = shared_data / "kitti_odom" / "sequences" / "06" / "image_0"
    parts = {mode: folder(path, mode=mode, val_every=10) for mode in ("train", "val")}
    assert {mode: len(part) for mode, part in parts.items()} == {"train": 42, "val": 5}
    assert all(part.check() == [] for part in parts.values())
    assert not caplog.records
