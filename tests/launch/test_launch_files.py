"""The files for `accelerate launch`: Accelerate itself reads each and starts what the file promises."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands import launch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from tests.runs import ckpt, folder
from tests.world import ACCELERATE, ROOT, call, command, refused, train_args
from trainer.checkpoint import load_objective
from trainer.commands.train import parse
from trainer.training.setup import PRECISIONS

FILES = sorted((ROOT / "launch/accelerate").glob("*.yaml"))
SEVERAL = "multi_gpu_launcher"
ALONE = "simple_launcher"
MANUAL = "".join((ROOT / f"docs/tasks/{page}.md").read_text() for page in ("gpus", "cluster"))
# file -> (the launcher in Accelerate, processes on each machine, machines) of the command in its head
PROMISED = {
    "cpu": (ALONE, 1, 1),
    "cpu_x2": (SEVERAL, 2, 1),
    "single_gpu": (ALONE, 1, 1),
    "single_gpu_bf16": (ALONE, 1, 1),
    "single_gpu_fp16": (ALONE, 1, 1),
    "multi_gpu": (SEVERAL, 4, 1),
    "multi_gpu_bf16": (SEVERAL, 4, 1),
    "multi_gpu_fp16": (SEVERAL, 4, 1),
    "multi_node": (SEVERAL, 4, 2),
    "single_gpu_compile": (ALONE, 1, 1),
}
TRAIN = "-c a.yaml -o models -n run -v 1"  # what the three dots in the heads of the files stand for

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def head(path: Path) -> str:
    """The comment above the first setting."""
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines[: lines.index("compute_environment: LOCAL_MACHINE")])


def commanded(path: Path) -> list[str]:
    """The words of the command in the head of a file, from the name of the program on."""
    told = head(path).replace("\\\n#", " ").replace(" ...", f" {TRAIN}")
    (command,) = re.findall(r"^#   (accelerate launch .*)", told, flags=re.MULTILINE)
    return shlex.split(command.replace("$RANK_OF_THIS_MACHINE", "1").replace("$ADDRESS_OF_MACHINE_0", "ten"))


def started(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, argparse.Namespace]:
    """Return which of Accelerate's launchers would run a command, and with what; nothing is started."""
    calls: list[tuple[str, argparse.Namespace]] = []
    for name in (ALONE, SEVERAL):
        monkeypatch.setattr(launch, name, lambda args, name=name: calls.append((name, args)))
    launch.launch_command(launch.launch_command_parser().parse_args(words))
    (call,) = calls
    return call


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_every_file_is_promised_something() -> None:
    assert {path.stem for path in FILES} == set(PROMISED)


@each_file
def test_accelerate_reads_the_file_and_the_manual_names_it(path: Path) -> None:
    read = load_config_from_file(str(path))
    assert isinstance(read, ClusterConfig)
    assert re.search(r"^# Checked: .*Accelerate 1\.\d+", head(path), flags=re.MULTILINE)
    assert f"`{path.name}`" in MANUAL
    assert read.num_processes % read.num_machines == 0, "Accelerate would drop the rest without a word"
    assert "MULTI_CPU" not in str(read.distributed_type), "starts one process, whatever num_processes says"


@each_file
def test_the_command_in_the_head_starts_what_the_file_promises(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = commanded(path)
    assert words[2:4] == ["--config_file", str(path.relative_to(ROOT))]
    launcher, args = started(words[2:], monkeypatch)
    expected, per_machine, machines = PROMISED[path.stem]
    assert (launcher, args.num_machines) == (expected, machines)
    assert args.num_processes == per_machine * machines
    assert args.training_script == "launch/train.py"
    assert parse(args.training_script_args).name == "run"
    environment = variables(launcher, args)
    assert environment["ACCELERATE_MIXED_PRECISION"] == args.mixed_precision
    if launcher == SEVERAL:
        assert int(args.nproc_per_node) == per_machine


def variables(launcher: str, args: argparse.Namespace) -> dict[str, str]:
    """The environment of the trainers."""
    if launcher == SEVERAL:
        return prepare_multi_gpu_env(args)
    return prepare_simple_launcher_cmd_env(args)[1]


@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_machines_meet_where_and_how_they_are_told(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = commanded(ROOT / "launch/accelerate/multi_node.yaml")[2:]
    launcher, args = started(["--rdzv_backend", backend, *words], monkeypatch)
    variables(launcher, args)
    assert (args.rdzv_backend, args.rdzv_endpoint) == (backend, "ten:29500")
    assert (args.nnodes, args.node_rank) == ("2", 1)


@each_file
def test_no_key_is_read_and_ignored(path: Path) -> None:
    """A key whose option has a default of its own (rdzv_backend, same_network) never gets through to the launcher."""
    defaults = vars(launch.launch_command_parser().parse_args(["train.py"]))
    ignored = [key for key in yaml.safe_load(path.read_text()) if defaults.get(key) is not None]
    assert ignored == []


@each_file
def test_the_file_and_its_command_agree_on_the_precision(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own setting decides; a file that says something else would be a trap."""
    args = started(commanded(path)[2:], monkeypatch)[1]
    settings = dict(item.split("=") for item in parse(args.training_script_args).set)
    precision = settings.get("trainer.precision", "32")
    assert PRECISIONS[precision] == yaml.safe_load(path.read_text())["mixed_precision"] == args.mixed_precision
    name = re.search(r"_(fp16|bf16)$", path.stem)
    assert args.mixed_precision == (name.group(1) if name else "no")


def test_the_manual_names_every_script_and_nothing_that_is_not_there() -> None:
    for script in (ROOT / "launch/slurm").glob("*.sbatch"):
        assert f"`{script.name}`" in MANUAL
    for name in re.findall(r"launch/(?:accelerate|slurm)/[\w.]+", MANUAL):
        assert (ROOT / name).exists(), name


def test_what_the_launcher_is_told_of_compiling_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, args = started(commanded(ROOT / "launch/accelerate/single_gpu_compile.yaml")[2:], monkeypatch)
    assert variables(launcher, args)["ACCELERATE_DYNAMO_BACKEND"] == "INDUCTOR"


SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")


def is_trained(out: Path) -> bool:
    return all(name.startswith("networks.") for name in load_objective(ckpt(out, "last")).state_dict())


@pytest.mark.slow
def test_a_file_for_a_gpu_trains_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = variables(*started(commanded(ROOT / "launch/accelerate/single_gpu_bf16.yaml")[2:], monkeypatch))
    done = call(*train_args(tmp_path, *SHORT, "trainer.precision=bf16"), **env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert is_trained(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "override"),
    [
        (["single_gpu_bf16"], "trainer.precision=bf16"),
        (["multi_gpu_bf16", "--num_processes", "2"], "trainer.precision=bf16"),
        # only what comes before the kernels: inductor takes minutes on a CPU
        (["single_gpu_compile", "--dynamo_backend", "eager"], "trainer.compile.backend=eager"),
    ],
    ids=["bf16", "bf16, two", "compiled"],
)
def test_files_for_gpus_are_launched_without_one(words: list[str], override: str, tmp_path: Path) -> None:
    file, *options = words
    launcher = (*ACCELERATE, f"launch/accelerate/{file}.yaml", *options)
    done = command(*launcher, *train_args(tmp_path, *SHORT, override), HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert is_trained(tmp_path)


@pytest.mark.parametrize(
    ("file", "override", "told"),
    [
        ("bf16", "precision=32", "trainer.precision is 32, but the launcher sets mixed_precision: bf16"),
        ("fp16", "precision=bf16", "trainer.precision is bf16, but the launcher sets mixed_precision: fp16"),
        ("compile", "compile=false", "trainer.compile is off, but the launcher sets dynamo_backend: inductor"),
        ("fp16", "precision=16", "trainer.precision: 16 needs a GPU"),
    ],
)
def test_a_file_that_contradicts_the_run_or_the_machine_is_refused(
    file: str, override: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / f"launch/accelerate/single_gpu_{file}.yaml"
    env = variables(*started(commanded(path)[2:], monkeypatch))
    refused(call(*train_args(tmp_path, *SHORT, f"trainer.{override}"), **env), told)
    assert not (folder(tmp_path) / "state.json").exists()
