"""No YAML text is expanded without bound, and every mistake is one line with its place."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.runtime import yaml_text
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import read_hparams


def layers(first: str, of_one_before: str) -> str:
    """Ten lines, each made of nine aliases to the one before: 9 ** 9 values in all."""
    lines = (f"a{i}: &a{i} " + of_one_before % ", ".join([f"*a{i - 1}"] * 9) for i in range(1, 10))
    return "\n".join([f"a0: &a0 {first}", *lines])


BOMBS = {
    "aliases": (layers("[x]", "[%s]"), 5, "more than 10,000 keys and values"),
    "merge keys": (layers("{x: 1}", "{<<: [%s]}"), 5, "more than 10,000 keys and values"),
    "a chain of aliases": (
        "a0: &a0 []\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 90)),
        50,
        "50 levels",
    ),
    "brackets": ("x: " + "[" * 200 + "]" * 200, 1, "more than 50 levels"),
    "brackets that stay open": ("[" * 200, 1, "more than 50 levels"),
    "indentation": ("\n".join(" " * i + "a:" for i in range(900)), 51, "more than 50 levels"),
    "digits": (f"a: 1\nb: {'9' * 4_400}", 2, "a whole number of 4,400 digits"),
    "hexadecimal digits": (f"a: !!int 0x{'f' * 4_400}", 1, "a whole number of 4,402 digits"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_one_line_before_it_is_expanded(name, tmp_path):
    text, line, why = BOMBS[name]
    problems: list[str] = []
    assert yaml_text.read_text(text, "x.yaml", problems) is None
    assert len(problems) == 1
    assert problems[0].startswith(f"x.yaml:{line}: refused: ")
    assert why in problems[0]
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(text)
    with pytest.raises(UserError, match=rf"hparams.yaml:{line}: refused"):
        read_hparams(hparams)


@pytest.mark.parametrize("name", BOMBS)
def test_data_files_have_bounds_too(name):
    with pytest.raises(yaml.MarkedYAMLError):
        yaml_text.load(BOMBS[name][0])


@pytest.mark.parametrize("text", ["when: 2011-13-45", "a: !!int abc", "a: !!bool maybe", "a: !!timestamp x"])
def test_a_data_file_with_a_value_that_its_type_forbids_is_a_yaml_error(text):
    with pytest.raises(yaml.YAMLError):
        yaml_text.load(text)


@pytest.mark.parametrize("text", ["!!int abc", "!!bool maybe", "!!float x"])
def test_a_value_that_its_tag_forbids_is_one_line(text):
    problems: list[str] = []
    yaml_text.read_text(f"a:\n  b: {text}", "x", problems)
    value, tag = text.split()[1], text.split()[0][2:]
    assert problems == [f"x:2: a.b: {value!r} is not what its tag tag:yaml.org,2002:{tag} says"]


def test_a_file_of_gigabytes_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(10**12)  # sparse
    problems: list[str] = []
    assert yaml_text.read_file(tmp_path / "x.yaml", problems) is None
    assert problems == [f"{tmp_path / 'x.yaml'}: more than 4 MB, which is no file of settings"]


FEW = settings(max_examples=40, database=None, derandomize=True, deadline=None)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=6), inside, max_size=4),
    max_leaves=12,
)
pieces = [
    "a",
    ": ",
    "- ",
    "\n",
    "  ",
    "&x ",
    "*x",
    "<<: ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "!!int ",
    "!!map ",
    "~",
    "1e3",
    '"',
    "'",
]


@FEW
@given(
    st.lists(st.sampled_from([*pieces, "|", "%", "@", "\t", "\x00", "0x", "?", "---\n", "!!set "]), max_size=24).map(
        "".join
    )
)
def test_any_text_is_read_or_reported_with_its_place(text):
    problems: list[str] = []
    layer = yaml_text.read_text(text, "x", problems)
    assert layer is not None or problems
    assert all(problem.startswith("x:") and "\n" not in problem for problem in problems)


@FEW
@given(st.dictionaries(st.text(max_size=6), plain, max_size=4))
@example({"a": -(10**17)})  # the sign is no digit
def test_what_is_written_is_read_again(data):
    problems: list[str] = []
    layer = yaml_text.read_text(yaml_text.dump(data), "x", problems)
    assert not problems
    assert layer.data == data
