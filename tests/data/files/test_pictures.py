"""Every decoder gives the bits of Pillow, and Pillow's word on damaged files; resizing is Pillow's to one level."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data.files import pictures
from trainer.data.files.pictures import at_size, read_rgb
from trainer.runtime.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (29, 61, 3), np.uint8)
SMOOTH = Image.fromarray(NOISE[:5, :7]).resize((61, 29), Image.Resampling.BICUBIC)
CLEAR = {"transparency": (NOISE[0, 0, 0].item(), 0, 0)}
KINDS = {
    "4:2:0": ("RGB", "JPEG", {"quality": 92, "subsampling": "4:2:0"}),
    "4:4:4": ("RGB", "JPEG", {"quality": 30, "subsampling": "4:4:4"}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "grey JPEG": ("L", "JPEG", {}),
    "print colours": ("CMYK", "JPEG", {}),
    "PNG": ("RGB", "PNG", {}),
    "grey PNG": ("L", "PNG", {}),
    "palette": ("P", "PNG", {}),
    "two levels": ("1", "PNG", {}),
    "alpha": ("RGBA", "PNG", {}),
    "one colour clear": ("RGB", "PNG", CLEAR),
    "BMP": ("RGB", "BMP", {}),
}

ORDINARY = {"4:2:0", "4:4:4", "progressive", "grey JPEG", "PNG", "grey PNG"}  # what others than Pillow decode


def encoded(kind: str) -> bytes:
    mode, form, options = KINDS[kind]
    buffer = io.BytesIO()
    SMOOTH.convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(params=["kornia", "torchvision", "pillow"])
def decoder(request, monkeypatch):
    """One decoder, where it is installed: whether it decodes ordinary pictures, and what it decoded."""
    if request.param == "kornia":
        pytest.importorskip("kornia_rs", reason="kornia-rs (extra `fast`) is not installed")
    made = None if request.param == "pillow" else getattr(pictures, f"_by_{request.param}")()
    decoded = []

    def decode(content, picture):
        assert made is not None
        decoded.append(made(content, picture))
        return decoded[-1]

    monkeypatch.setattr(pictures, "_decoder", lambda: decode if made else None)
    return made is not None, decoded


@pytest.mark.parametrize("kind", KINDS)
def test_all_decoders_give_the_bits_of_pillow(decoder, kind):
    content = encoded(kind)
    found = read_rgb(io.BytesIO(content))
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(content), formats=pictures.FORMATS).convert("RGB")))
    quick, decoded = decoder
    assert bool(decoded) == (quick and kind in ORDINARY)


@pytest.mark.parametrize("kind", ["4:2:0", "PNG"])
def test_pillow_has_the_last_word_on_damage(decoder, kind, tmp_path):
    """What it reads in spite of damage is read, with its pixels; what it refuses is refused, with its words."""
    content = encoded(kind)
    middle = len(content) * 2 // 3
    path = tmp_path / "picture"
    for damaged in (content[:middle], content[:-3], content[:middle] + b"\0\1\2" + content[middle + 3 :], b"", b"no"):
        path.write_bytes(damaged)
        assert outcome(read_rgb, path) == outcome(by_pillow, path)
    quick, decoded = decoder
    path.write_bytes(content)
    before = len(decoded)
    assert outcome(read_rgb, path) == outcome(by_pillow, path)
    assert len(decoded) == before + quick  # damage is forgotten


def by_pillow(path):
    with pictures.open_picture(path) as picture:
        return np.asarray(picture.convert("RGB"))


def outcome(read, path):
    try:
        return read(path).tolist()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("size", [(20, 9), (61, 28), (122, 58), (7, 29), (1, 1)])
def test_resizing_is_pillows_to_one_level(size):
    for picture in (NOISE, np.asarray(SMOOTH).copy()):
        expected = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        found = at_size(picture, size)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= 1
    assert at_size(NOISE, (61, 29)) is NOISE


def test_resizing_does_not_depend_on_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = at_size(NOISE, (31, 17))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(several, at_size(NOISE, (31, 17)))
