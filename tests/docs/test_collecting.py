"""The tests of the documentation find blocks, read commands as a shell does, and see mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import blocks, shrunk
from tests.docs.blocks import blocks_of, commands_in, counts, shell_lines
from tests.docs.test_blocks import problem_with

PAGE = """\
# A page

<!-- run -->
```sh
monodepth train -c a \\
  --seed 1   # why
# a comment

monodepth doctor
```

<!-- run: long -->
```python
print(1)
```

```python
# my_loss.py: a plugin
x = 1
```

- in a list:

  <!-- no-run: needs a GPU -->
  ```sh
  monodepth evaluate
  ```

```text
$ monodepth
```
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(blocks, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_blocks_are_found_with_what_is_said_above_them(page: Path) -> None:
    found = [(b.line, b.language, b.verb, b.why, b.is_executed, b.is_quick, b.file) for b in blocks_of(page)]
    assert found == [
        (5, "sh", "run", "", True, True, ""),
        (14, "python", "run", "long", True, False, ""),
        (18, "python", "", "", False, False, "my_loss.py"),
        (26, "sh", "no-run", "needs a GPU", False, False, ""),
        (30, "text", "", "", False, False, ""),
    ]
    assert blocks_of(page)[3].text == "monodepth evaluate\n"
    assert blocks_of(page)[0].place == "page.md:5"
    assert counts(blocks_of(page)) == (
        "5 code blocks: 1 executed in `make test`, 1 in `make test-docs`, 2 read or shown as text, 1 not executed"
        " (1 needs a GPU); 3 `monodepth` commands parsed"
    )


@pytest.mark.parametrize(
    ("language", "first", "file"),
    [
        ("yaml", "# mean.yaml", "mean.yaml"),
        ("python", "# parts/my_loss.py, a plugin", "parts/my_loss.py"),
        ("python", "# my_loss.py and others", "my_loss.py"),
        ("python", "# the file my_loss.py", ""),
        ("yaml", "# mean.yamls", ""),
        ("sh", "# run.py", ""),
    ],
)
def test_a_first_line_may_name_the_file(tmp_path: Path, language: str, first: str, file: str) -> None:
    assert blocks.Block(tmp_path, 1, language, f"{first}\nx: 1\n").file == file


def test_lines_of_a_block(page: Path) -> None:
    lines = list(shell_lines(blocks_of(page)[0].text))
    assert [list(commands_in(line)) for line in lines] == [[["train", "-c", "a", "--seed", "1"]], [["doctor"]]]


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("ls -l", []),
        ("OMP_NUM_THREADS=1 monodepth doctor --json > out.json 2>&1", [["doctor", "--json"]]),
        ("monodepth list | head -3 && monodepth cfg list", [["list"], ["cfg", "list"]]),
        ("for seed in 1 2; do monodepth train -s $seed; done", [["train", "-s", "1"]]),
        (
            "accelerate launch --config_file $(monodepth launch-file multi_gpu) -m trainer.commands.train_dev -c x",
            [["launch-file", "multi_gpu"], ["train-dev", "-c", "x"]],
        ),
        ("python launch/export_depth.py --ckpt x", [["export-depth", "--ckpt", "x"]]),
        ("accelerate launch --config_file launch/accelerate/cpu_x2.yaml", []),
        ('monodepth train --set "dataset={size: [64, 64]}"', [["train", "--set", "dataset={size: [64, 64]}"]]),
    ],
)
def test_commands_in_a_line(line: str, calls: list[list[str]]) -> None:
    assert list(commands_in(line)) == calls


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trian -c x", "no command"),
        ("train -c synthetic/monodepth2_MS --sed 1", "unrecognized arguments: --sed"),
        ("train -c synthetic/monodepth2_MSS", "Did you mean"),
        ("train -c synthetic/monodepth2_MS --set trainer.max_epoch=1", "max_epochs"),
        ("evaluate --ckpt x --set dataset.siz=[64,64]", "dataset.siz"),
        ("evaluate --ckpt x -c eval/kitti_egien", "no such file"),
        ("sweep -c benchmark/garg --evaluate eval/nowhere", "no such file"),
        ("prepare video drive.mp4", "--out"),
        ("launch-file", ""),
        ("tables models/synthetic", ""),
        ("train -c benchmark/hrdepth_MS --set dataset.root=datasets/kitti", ""),
    ],
)
def test_mistakes_in_commands_are_seen(words: str, told: str) -> None:
    problem = problem_with(words.split())
    assert bool(problem) == bool(told)
    assert told in problem


@pytest.mark.parametrize(
    "words",
    [
        "train -c synthetic/monodepth2_MS --set trainer.max_epochs=50",
        "train-dev -c benchmark/feat_depth",
        "sweep -c benchmark/garg benchmark/monodepth",
        "train -c modern/litemono",
    ],
)
def test_a_training_is_made_small_and_stays_valid(words: str) -> None:
    small = shrunk.shrunk(words.split())
    assert small[: len(words.split())] == words.split()
    assert "trainer.limit_train_batches=2" in small
    assert problem_with(small) == ""


def test_other_commands_stay_as_they_are() -> None:
    assert shrunk.shrunk(["predict", "x", "y"]) == ["predict", "x", "y"]
    assert shrunk.shrunk(["train", "--help"]) == ["train", "--help"]
