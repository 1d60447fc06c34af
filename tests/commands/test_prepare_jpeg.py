"""`prepare jpeg`: every picture is read back and compared before its PNG may go."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.commands.prepare import main
from trainer.data.kitti import KittiRaw

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


def jpeg(raw, *options, jobs=1):
    return main(["jpeg", "--root", str(raw), "--jobs", str(jobs), *options])


def files(raw, suffix):
    return sorted(raw.glob(f"*/*/image_0*/data/*{suffix}"))


def test_pictures_come_back_and_png_files_stay_until_told(raw, capsys):
    assert jpeg(raw) == 0
    assert "12 PNG pictures, 12 of them converted or compared" in capsys.readouterr().out
    pngs, jpgs = files(raw, ".png"), files(raw, ".jpg")
    assert [path.with_suffix("") for path in pngs] == [path.with_suffix("") for path in jpgs]
    for png, jpg in zip(pngs, jpgs, strict=True):
        a, b = (np.asarray(Image.open(path), float) for path in (png, jpg))
        assert np.abs(a - b).mean() < 8
    with Image.open(jpgs[0]) as picture:
        assert picture.layer[0][1:3] == (2, 2)  # 4:2:0
    assert jpeg(raw) == 0
    assert "12 PNG pictures, 0 of them converted or compared" in capsys.readouterr().out
    assert jpeg(raw, "--remove-png", jobs=2) == 0
    assert "12 PNG files deleted" in capsys.readouterr().out
    assert files(raw, ".png") == []
    assert KittiRaw(str(raw), "synthetic", use_depth=False).check() == []


def test_broken_pictures_are_named_and_kept(raw, capsys):
    png = raw / DRIVE / "image_02/data/0000000001.png"
    png.write_bytes(png.read_bytes()[:-200])
    other = raw / DRIVE / "image_03/data/0000000002.png"
    Image.new("RGB", (124, 38)).save(other.with_suffix(".jpg"))  # another picture under the same name
    small = raw / DRIVE / "image_03/data/0000000003.png"
    Image.new("RGB", (24, 7)).save(small.with_suffix(".jpg"))
    assert jpeg(raw, "--remove-png") == 1
    text = capsys.readouterr().out
    assert "3 pictures stay PNG:" in text
    assert f"{png} is not a readable picture" in text
    assert f"{other.with_suffix('.jpg')} does not show what {other.name} shows" in text
    assert f"{small.with_suffix('.jpg')}: 24x7 pixels" in text
    assert text.count("Delete the JPEG and run `monodepth prepare jpeg` again") == 2
    assert files(raw, ".png") == [png, other, small]
    for path in (other, small):
        path.with_suffix(".jpg").unlink()
    assert jpeg(raw, "--remove-png") == 1
    assert f"1 picture stays PNG:\n  {png} is not" in capsys.readouterr().out


def test_a_full_disk_is_seen_before_work_begins(raw, monkeypatch, capsys):
    usage = shutil.disk_usage(raw)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert jpeg(raw) == 2
    assert "JPEG pictures need" in capsys.readouterr().err
    assert files(raw, ".jpg") == []


def test_a_jpeg_that_was_cut_short_is_converted_again(raw, capsys):
    assert jpeg(raw) == 0
    jpg = files(raw, ".jpg")[0]
    whole = jpg.read_bytes()
    for content in (whole[:500], b""):
        jpg.write_bytes(content)
        capsys.readouterr()
        assert jpeg(raw) == 0
        assert "12 PNG pictures, 1 of them converted or compared" in capsys.readouterr().out
        assert jpg.read_bytes() == whole
    for option in ("--check", "--remove-png"):
        jpg.write_bytes(b"\0" * 500 + whole[-2:])  # ends as a JPEG
        assert jpeg(raw, option) == 0
        assert jpg.read_bytes() == whole
    assert files(raw, ".png") == []


def test_real_pictures(shared_data, tmp_path, capsys):
    data = Path(DRIVE) / "image_02" / "data"
    (tmp_path / data).mkdir(parents=True)
    for number in (0, 5):
        shutil.copy(shared_data / "kitti_raw" / data / f"{number:010d}.png", tmp_path / data)
    assert jpeg(tmp_path) == 0
    text = capsys.readouterr().out
    psnr = float(text.partition("PSNR ")[2].split()[0])
    assert psnr > 33, text
