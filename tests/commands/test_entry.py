"""The console script `monodepth`, which is `python -m trainer.commands`, and the files under `launch/`."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import trainer
from tests.world import ROOT, command, environment, fork
from trainer.commands import cli, train
from trainer.commands.__main__ import COMMANDS, MODULES, main
from trainer.commands.cli import Parser
from trainer.commands.jobs.list_commands import module_of, parser_of


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of calls of `export_depth`, which returns 7."""
    calls: list[list[str]] = []
    module = importlib.import_module("trainer.commands.export_depth")
    monkeypatch.setattr(module, "main", lambda argv: calls.append(argv) or 7)
    return calls


@pytest.mark.parametrize("name", ["export-depth", "export_depth"])
def test_the_command_gets_the_other_arguments_and_gives_the_exit_code(played, monkeypatch, name) -> None:
    assert main([name, "--ckpt", "x", "--help"]) == 7
    monkeypatch.setattr(sys, "argv", ["monodepth", name])
    assert main() == 7
    assert played == [["--ckpt", "x", "--help"], []]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "'trian' is not a command. Did you mean 'train'?"),
        ([], "required: COMMAND"),
    ],
)
def test_an_unknown_command(capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "evaluate --ckpt x --num-workers 1000000",
            "--num-workers: expected a whole number from 0 to 1,024, got '1",
        ),
        ("evaluate --ckpt x --batch-size 99999999999", "--batch-size: expected a whole number from 1 to 100,000, got"),
        ("export-depth --ckpt x --batch-size 0", "--batch-size: expected a whole number from 1 to 100,000, got '0'"),
        ("evaluate --ckpt x --limit 0", "--limit: expected a whole number from 1 to"),
        ("evaluate --ckpt x --num-sheet 0", "--num-sheet: expected a whole number from 1 to 1,000, got '0'"),
        ("train-dev -c x --workers -1", "--workers: expected"),
        ("prepare jpeg --jobs 1e3", "--jobs: expected a whole number from 1 to 1,024, got '1e3'"),
        ("sweep -c x --only -1", "--only: expected a whole number from 0 to"),
    ],
)
def test_counts_are_bounded_by_their_options(capsys, words: str, told: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("bench sav", "argument what: invalid choice: 'sav'. Did you mean 'save'? Known: all, data"),
        ("prepare kity", "argument JOB: invalid choice: 'kity'. Did you mean 'kitti'? Known: cache, hints"),
        ("export m --format onx", "--format: invalid choice: 'onx'. Did you mean 'onnx'? Known: onnx, torch"),
        ("predict m s --precision 8", "--precision: invalid choice: '8'. Known: 16, 32, bf16"),
    ],
)
def test_a_wrong_choice_is_answered_by_the_nearest(capsys, words: str, told: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert told in capsys.readouterr().err.splitlines()[0]


def test_a_key_that_is_set_twice_is_told_once_for_all_processes(capsys, monkeypatch) -> None:
    words = ["-c", "synthetic/monodepth2_MS", "--set", "trainer.max_epochs=1", "net.pose.enc_name=resnet34"]
    words += ["--set", "trainer.max_epochs=2", "net.pose.enc_name=resnet34"]
    assert train.parse(words).set == [word for word in words[3:] if "=" in word]
    told = "--set trainer.max_epochs=2 takes back --set trainer.max_epochs=1 before it: the later one holds"
    assert capsys.readouterr().err == f"warning: {told}\n"
    monkeypatch.setenv("RANK", "1")
    train.parse(words)
    assert capsys.readouterr().err == ""


SIZES = {  # options that take a size, and the least words of their commands
    "predict": ("--size", "model street.jpg"),
    "export": ("--size", "model --format onnx --out depth.onnx"),
    "prepare pseudo": ("--size --label-size", "-c synthetic/monodepth2_MS --teacher x"),
    "prepare synthetic": ("--size", "--out x"),
    "bench step": ("--size", ""),
    "bench data": ("--size --pictures", ""),
    "bench eval": ("--size --truth", ""),
    "bench predict": ("--size --pictures", ""),
    "bench export": ("--size", ""),
}


def parsers(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for job, below in action.choices.items():
                yield from parsers(below, f"{name} {job}")


def test_every_option_for_a_size_is_known() -> None:
    found = {}
    for command_name in COMMANDS:
        for name, parser in parsers(parser_of(importlib.import_module(module_of(command_name)).main), command_name):
            if options := [a.option_strings[-1] for a in parser._actions if str(a.metavar) in ("WxH", "W,H", "W H")]:
                found[name] = " ".join(options)
            assert not [a for a in parser._actions if isinstance(a.metavar, tuple)]
    assert found == {name: options for name, (options, _) in SIZES.items()}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_spelled_alike(capsys, name: str) -> None:
    options, words = SIZES[name]
    module = importlib.import_module(f"trainer.commands.{name.split()[0]}")
    for option in options.split():
        for text in ("640x192", "640,192", "640X192"):
            line = [*name.split()[1:], *words.split(), option, text]
            assert getattr(module.parse(line), option.strip("-").replace("-", "_")) == (640, 192)
        for text in ("640", "640x", "640x192x3", "640.5x192", "0x0", "-64x64", "640*192"):
            with pytest.raises(SystemExit, match="2"):
                module.parse([*name.split()[1:], *words.split(), f"{option}={text}"])
            first = capsys.readouterr().err.splitlines()[0]
            assert f"argument {option}: expected width and height" in first
            assert first.endswith(f" as in 640x192, got '{text}'")


@pytest.mark.parametrize("seed", ["-5", "18446744073709551616", "9" * 5000, "1.5", "x"])
def test_a_seed_is_refused_by_its_option(capsys, seed) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "-c", "x.yaml", "-o", "x", "-n", "x", "-v", "1", "-s", seed])
    assert stop.value.code == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert "argument -s/--seed: expected a whole number from 0 to 2^63 - 1, got" in first
    assert len(first) < 150


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "compare a.yaml --colour",
            [
                "monodepth compare: error: unrecognized arguments: --colour",
                "`monodepth compare --help` lists all options",
            ],
        ),
        (
            "bench step --batch-size 4 --colour",
            [
                "monodepth bench step: error: unrecognized arguments: --colour",
                "`monodepth bench step --help` lists all options",
            ],
        ),
        (
            "cfg",
            [
                "monodepth cfg: error: the following arguments are required: job",
                "job is one of list, copy",
                "`monodepth cfg --help` lists all commands",
            ],
        ),
    ],
)
def test_a_wrong_option_is_one_sentence_and_where_to_look(capsys, words: str, told: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert capsys.readouterr().err.splitlines() == told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parser_answers_in_sentences(name: str) -> None:
    parser = parser_of(importlib.import_module(module_of(name)).main)
    assert {type(below) for _, below in parsers(parser, name)} == {Parser}


def test_help_names_every_command(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.partition("commands:\n")[2].splitlines()}
    files = {p.stem for p in (ROOT / "trainer/commands").glob("*.py")} - {"__init__", "__main__", "cli"}
    assert listed == set(COMMANDS)
    assert {MODULES.get(name, name).replace("-", "_") for name in COMMANDS} == files


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_names_all_of_its_jobs_or_none(name: str) -> None:
    """A job that is added later would be missing from a list of some."""
    parser = parser_of(importlib.import_module(module_of(name)).main)
    groups = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    jobs = {job for choices in groups for job in choices}
    named = jobs & {*re.findall(r"[\w-]+", COMMANDS[name])}
    assert named in (set(), jobs)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_calls_a_command_by_its_one_name(capsys, name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: monodepth {name} ")
    assert all(line.startswith("Example: monodepth ") for line in told.splitlines() if line.startswith("Example"))


def test_there_is_one_console_script() -> None:
    """Global names like `convert` and `evaluate` belong to others."""
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^\[project\.scripts\]\n(.*?)\n\n", text, re.M | re.S)[1] == (
        'monodepth = "trainer.commands.__main__:main"'
    )


def test_the_version_is_told(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"monodepth {trainer.__version__}\n")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("monodepth sw", "sweep"),
        ("monodepth train -c synthetic/monodepth2_MS", "synthetic/monodepth2_MS"),
        ("monodepth launch-file cpu_", "cpu_x2"),
        ("monodepth replay --hp", "--hparams"),
    ],
)
def test_a_shell_completes(words: str, offered: str) -> None:
    script = """
    monodepth() { "$PYTHON" -m trainer.commands "$@"; }
    eval "$(monodepth --completion)"
    COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _monodepth; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", words], capture_output=True, text=True, cwd=ROOT,
        env=environment(PYTHON=sys.executable),
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == ([offered], "")


def test_help_of_a_command_loads_no_torch() -> None:
    done = command("-X", "importtime", "-m", "trainer.commands", "train", "--help")
    assert (done.returncode, done.stdout[:22]) == (0, "usage: monodepth train")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "timm", "accelerate", "matplotlib", "tensorboard"}


SPINNING = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
TRAIN = ("-c", "synthetic/monodepth2_MS")


def spin_count(folder: Path, *words: str, **env: str) -> str:
    """Return the GOMP_SPINCOUNT that `python words...` has when it imports torch, which ends there."""
    (folder / "torch.py").write_text("import os; print(os.environ.get('GOMP_SPINCOUNT'), flush=True); os._exit(0)")
    clean = {name: value for name, value in environment().items() if name not in SPINNING}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=60,
        env={**clean, "PYTHONPATH": f"{folder}{os.pathsep}{clean['PYTHONPATH']}", **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "trainer.commands", "list"),
        ("-m", "trainer.commands.train", *TRAIN),
        ("trainer/commands/train.py", *TRAIN),  # as `sweep` starts it
        ("launch/train.py", *TRAIN),
        ("launch/list.py",),
    ],
    ids=" ".join,
)
def test_every_entry_limits_spinning_before_it_loads_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    assert spin_count(tmp_path, *words) == "1000"


@pytest.mark.parametrize(
    ("env", "count"),
    [
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
        ({"OMP_NUM_THREADS": "4"}, "None"),
        ({"OMP_NUM_THREADS": "4", "ACCELERATE_MIXED_PRECISION": "no"}, "1000"),  # accelerate launch, one process
        ({"OMP_NUM_THREADS": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}, "1000"),  # torchrun
    ],
)
def test_a_choice_of_the_user_wins_and_that_of_a_launcher_does_not(
    env: dict[str, str], count: str, tmp_path: Path
) -> None:
    assert spin_count(tmp_path, "launch/train.py", *TRAIN, **env) == count


@pytest.mark.skipif(not [*Path(torch.__file__).parent.glob("lib/libgomp*")], reason="needs a torch with libgomp")
def test_libgomp_spins_as_briefly_as_it_is_told() -> None:
    clean = {name: value for name, value in environment().items() if name not in SPINNING}
    done = subprocess.run(
        [sys.executable, "launch/list.py"], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**clean, "OMP_DISPLAY_ENV": "verbose"},
    )  # fmt: skip
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


@pytest.mark.parametrize("name", ["tables", "generate-tables"])
def test_a_mistake_in_a_command_ends_with_2(name: str) -> None:
    done = fork("trainer/commands/__main__.py", name, "no_such_folder")
    assert (done.returncode, done.stderr) == (2, "error: no_such_folder: no such folder\n")


@pytest.mark.parametrize("error", [None, ImportError("no torch")])
def test_nothing_looks_for_garbage_while_a_command_loads(
    monkeypatch: pytest.MonkeyPatch, error: ImportError | None
) -> None:
    seen = []

    def load(name: str) -> None:
        seen.append((name, gc.isenabled()))
        if error:
            raise error

    monkeypatch.setattr(cli, "import_module", load)
    with pytest.raises(ImportError) if error else nullcontext():
        cli.load_job("imaginary")
    assert seen == [("trainer.commands.jobs.imaginary", False)]
    assert gc.isenabled()
