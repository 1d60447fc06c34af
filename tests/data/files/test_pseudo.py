"""A label means the same whoever made it: > 0 where something is known, 0 elsewhere, and 0 does not bleed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainer.data.files.pseudo import PseudoLabels, encode_label, label_facts, read_label, resize_known
from trainer.runtime.errors import DataError

FACTS = {"model": "teacher", "sha256": "ab12"}


def stored(path, disp, facts=FACTS):
    path.write_bytes(encode_label(np.asarray(disp, np.float32), facts))
    return str(path)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 3e4])
def test_a_label_is_read_back_to_1_65534_of_its_maximum(tmp_path, unit):
    disp = unit * np.random.default_rng(0).uniform(0.01, 1, (40, 50))
    path = stored(tmp_path / "a.png", disp)
    np.testing.assert_allclose(read_label(path), disp, rtol=0, atol=disp.max() / 65534)
    facts = label_facts(path)
    assert facts.items() >= {"kind": "disparity", **FACTS}.items()
    assert float(facts["scale"]) == pytest.approx(disp.max() / 65534)
    with Image.open(path, formats=["PNG"]) as picture:
        assert (picture.mode, np.asarray(picture).max()) == ("I;16", 65535)


def test_infinitely_far_is_a_value_and_no_number_is_none(tmp_path):
    label = read_label(stored(tmp_path / "a.png", [[0.0, 2.0, np.nan, np.inf]]))
    assert 0 < label[0, 0] < 1e-5
    assert label[0, 1:].tolist() == [2.0, 0.0, 0.0]


def test_negative_values_are_shifted(tmp_path):
    label = read_label(stored(tmp_path / "a.png", [[-1.0, 1.0, 3.0]]))
    np.testing.assert_allclose(label, [[0, 2, 4]], atol=1e-4)
    assert label.min() > 0


def test_a_map_of_zeros_and_one_of_nothing_are_labels(tmp_path):
    assert (read_label(stored(tmp_path / "a.png", np.zeros((2, 3)))) > 0).all()
    assert not read_label(stored(tmp_path / "b.png", np.full((2, 3), np.nan))).any()


def test_files_of_others(tmp_path):
    values = np.array([[0, 1, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "plain.png")
    assert read_label(f"{tmp_path}/plain.png").tolist() == [[0, 1, 65535]]
    Image.fromarray(values).save(tmp_path / "nimbled.png")
    (tmp_path / "nimbled.txt").write_text("131.07\n")  # its maximum
    np.testing.assert_allclose(read_label(f"{tmp_path}/nimbled.png"), [[0, 0.002, 131.07]], rtol=1e-6)
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_label(f"{tmp_path}/grey.png").tolist() == [[0, 255]]
    half = np.array([[0, np.nan, 0.5, 2]], np.float16)
    np.save(tmp_path / "array.npy", half[..., None])
    np.savez(tmp_path / "archive.npz", disp=half)
    for name in ("array.npy", "archive.npz"):
        assert read_label(f"{tmp_path}/{name}").tolist() == [[0, 0, 0.5, 2]]


def test_unknown_pixels_do_not_bleed():
    label = np.zeros((4, 8), np.float32)
    label[:, :5] = 10  # known up to the middle of the third column of half the width
    for size in ((4, 2), (16, 8), (3, 4)):
        resized = resize_known(label, size)
        assert resized.shape == size[::-1]
        assert set(np.unique(resized.round(4))) == {0, 10}
    np.testing.assert_allclose(resize_known(np.where(label, label, 1), (4, 2))[:, 0], 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"no picture"), "is not a readable pseudo-label .*prepare pseudo"),
        (lambda p: Image.new("RGB", (4, 4)).save(p), "is no disparity but a picture .RGB"),
        (lambda p: stored(p, [[1.0]], {"kind": "depth"}), "holds depth, not disparity"),
        (lambda p: stored(p, [[1.0]], {"scale": "nan"}), "scale nan and offset .* are no numbers"),
        (lambda p: stored(p, [[1.0]], {"scale": "much"}), "scale or offset cannot be read"),
        (lambda p: p.write_bytes(p.with_name("whole").read_bytes()[:-30]), "is not a readable pseudo-label"),
    ],
)
def test_a_broken_label_is_named(tmp_path, make, message):
    stored(tmp_path / "whole", np.random.default_rng(0).uniform(size=(30, 30)))
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png:? {message}"):
        PseudoLabels(str(tmp_path)).read("a", (4, 4))


@pytest.mark.parametrize("name", ["text.npy", "other.npz", "text.npz"])
def test_a_broken_array_is_named(tmp_path, name):
    np.savez(tmp_path / "other.npz", depth=np.ones((2, 2)))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=name):
        read_label(f"{tmp_path}/{name}")


def test_missing_and_damaged_labels_are_listed_before_training(tmp_path):
    (tmp_path / "drive/data").mkdir(parents=True)
    stored(tmp_path / "drive/0.png", np.ones((4, 4)))
    stored(tmp_path / "drive/data/1.png", np.ones((4, 4)))  # as KITTI's folders have it
    labels = PseudoLabels(str(tmp_path))
    assert labels.problems(["drive/0", "drive/1"], "train") == []
    (tmp_path / "drive/0.png").write_bytes(b"")
    damaged, missing = labels.problems([f"drive/{i}" for i in range(6)], "val")
    assert damaged.startswith(f"{tmp_path}/drive/0.png is empty")
    assert missing.startswith("4 of 6 items have no pseudo-label")
    assert "drive/2, drive/3, drive/4 and 1 more. Make them" in missing
    assert f"monodepth prepare pseudo -c PAGE --teacher NETWORK --mode val --out {tmp_path}" in missing
