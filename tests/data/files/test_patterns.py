"""Patterns of file names: the words of a path, other paths with the same words, what lies where none fits."""

from __future__ import annotations

import pytest

from trainer.data.files.patterns import Pattern


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_words_of_a_path_fill_other_patterns():
    picture = Pattern("val/scene_{scene}/{stem}.png")
    words = picture.match("val/scene_00019/a b.png")
    assert words == {"scene": "00019", "stem": "a b"}
    assert Pattern("depth/{scene}/{stem}_depth.npy").fill(words) == "depth/00019/a b_depth.npy"
    assert picture.match("val/scene_1/deeper/x.png") is None
    assert picture.match("val/scene_1/x.jpg") is None


def test_a_word_is_the_same_wherever_it_occurs():
    pattern = Pattern("{city}/{city}_{seq}_{frame}_left.png")
    assert pattern.match("ulm/ulm_000000_000019_left.png") == {"city": "ulm", "seq": "000000", "frame": "000019"}
    assert pattern.match("ulm/bonn_000000_000019_left.png") is None


def test_an_index_counts_with_leading_zeros():
    words = {"index": "7"}
    assert [Pattern(text).fill(words) for text in ("{index}.npy", "{index:03}_depth.npy")] == ["7.npy", "007_depth.npy"]


def test_lines_are_cut_at_spaces():
    pattern = Pattern("{seq}/rgb/{time}.png {seq}/depth/{other}.png", of_line=True)
    line = "desk/rgb/131.36.png desk/depth/131.37.png"
    assert pattern.match(line) == {"seq": "desk", "time": "131.36", "other": "131.37"}
    assert pattern.match(f"{line} more") is None


def test_files_are_found_with_odd_characters_and_without_hidden_ones(tmp_path):
    touch(tmp_path, "a[1]/0.png", "a[1]/._0.png", "a[1]/0.jpg", "b/1.png")
    assert Pattern("a[1]/{stem}.png").find(tmp_path) == {"a[1]/0.png": {"stem": "0"}}
    assert sorted(Pattern("{folder}/{stem}.png").find(tmp_path)) == ["a[1]/0.png", "b/1.png"]


def test_what_is_found_in_its_place(tmp_path):
    pattern = Pattern("test/rgb/{stem}.png")
    assert pattern.found(tmp_path / "none") == f"{tmp_path / 'none'} does not exist"
    assert pattern.found(tmp_path) == f"{tmp_path} is empty"
    touch(tmp_path, *(f"test/rgb/{i}.jpg" for i in range(5)))
    assert pattern.found(tmp_path) == "test/rgb holds 0.jpg, 1.jpg, 2.jpg and 2 more"
    assert pattern.found(tmp_path / "test") == f"{tmp_path / 'test'} holds rgb"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{stem.png", "brace"),
        ("/abs/{stem}.png", "below the folder"),
        ("../{stem}.png", "below the folder"),
        ("rgb/*.png", r"\{stem\} instead of \*"),
        ("{a}{b}.png", "two words touch"),
        ("{a b}.png", "is no word"),
        ("{frame:03}.png", "is no word"),
    ],
)
def test_patterns_without_meaning_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Pattern(text)
