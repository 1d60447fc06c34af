"""The command `sweep`: it runs what is missing and nothing else, passes signals on, and reports the outcome."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.world import ROOT, SMALL, command, environment
from trainer.checkpoint.state import Position
from trainer.commands import evaluate, train
from trainer.commands.jobs import children
from trainer.commands.jobs import sweep as jobs
from trainer.commands.sweep import main
from trainer.config import load_config
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite
from trainer.runtime.rundir import RunDir
from trainer.runtime.signals import StopSignals

DEFAULT = ROOT / "cfg" / "synthetic" / "default.yaml"
NAMES = ("monodepth2_M", "monodepth2_MS")
CONFIGS = [ROOT / "cfg" / "synthetic" / f"{name}.yaml" for name in NAMES]
EVERYTHING = [
    f"{what} {name}_{seed}{' sweep_test' * (what == 'evaluate')}"
    for name in NAMES
    for seed in (42, 195)
    for what in ("train", "evaluate")
]


class World:
    """A sweep of two configurations and two seeds, whose commands are played by `call` in this process."""

    def __init__(self, folder: Path):
        self.out = folder / "models"
        self.calls: list[str] = []
        self.failing: set[str] = set()  # calls
        self.after: dict[str, Callable[[], object]] = {}  # what happens after a call

    def sweep(self, *arguments: str | Path) -> int:
        """Run it and forget the calls of earlier ones."""
        self.calls = []
        given = ["-c", *CONFIGS, "-d", DEFAULT, "-o", self.out, "--seeds", 42, 195, *arguments]
        try:
            return main([str(word) for word in given])
        except SystemExit as stop:  # of the parser
            return int(stop.code or 0)

    def call(self, command: list[str], log: Path, stop: StopSignals) -> int:
        """Leave what `train` or `evaluate` would leave."""
        log.parent.mkdir(parents=True, exist_ok=True)
        done = self._train if command[1].endswith("train.py") else self._evaluate
        with open(log, "a") as file:
            file.write(f"$ {shlex.join(command)}\n")
            try:
                done(command[2:])
            except UserError as error:
                file.write(f"error: {error}\n")
                return 2
        self.after.get(self.calls[-1], lambda: None)()
        return 0

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.failing:
            raise UserError("the data is broken")

    def _train(self, arguments: list[str]) -> None:
        args = train.parse(arguments)
        assert (args.progress, args.version) == ("plain", str(args.seed))
        self._note(f"train {args.name}_{args.seed}")
        with RunDir(args.ckpt_dir, args.name, args.version) as run:
            config = load_config(args.cfg_file, args.cfg_default, args.set).to_dict()
            run.write_hparams({"seed": args.seed, "config": config})
            run.best_path.write_text(args.name)
            run.write_state("finished", Position(1, 0, 8))

    def _evaluate(self, arguments: list[str]) -> None:
        args = evaluate.parse(arguments)
        name, seed = args.ckpt.parts[-2:]
        self._note(f"evaluate {name}_{seed} {args.save.stem}")
        protocol = {"alignment": "median", "crop": args.crop, "items": 4, "dataset": {"type": "synthetic"}}
        protocol["checkpoint"] = {"file": str(args.ckpt / "ckpts" / "best.safetensors")}
        mean = {"abs_rel": len(name) / 100 + int(seed) / 1e5}
        args.save.write_text(yaml.safe_dump({"mean": mean, "protocol": protocol}))

    def run(self, name: str, seed: int) -> Path:
        return self.out / name / str(seed)

    def result(self, name: str, seed: int) -> Path:
        return self.run(name, seed) / "results" / "sweep_test.yaml"

    @property
    def table(self) -> str:
        (path,) = (self.out / "tables").glob("*.md")
        return path.read_text()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(jobs, "call", world.call)
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0)
    return world


@pytest.fixture
def done(world: World) -> World:
    """All is trained and evaluated."""
    assert world.sweep() == 0
    return world


def test_every_config_with_every_seed_then_a_table(done: World, capsys) -> None:
    assert done.calls == EVERYTHING
    table = (done.out / "tables" / "synthetic_best_median.md").read_text()
    assert "| monodepth2_M | 2 | **0.1212 ± 0.0011** |" in table
    assert "| monodepth2_MS | 2 | <u>0.1312 ± 0.0011</u> |" in table
    pairs = (done.out / "tables" / "synthetic_best_median_pairs.csv").read_text()
    assert "abs_rel,monodepth2_M,monodepth2_MS," in pairs
    assert (done.run("monodepth2_M", 42) / "sweep.log").read_text().count("$ ") == 2


def test_a_second_start_finds_nothing_to_do(done: World, capsys) -> None:
    assert done.sweep() == 0
    assert done.calls == []
    out = capsys.readouterr().out
    assert "[3/4] monodepth2_MS/42: was finished" in out
    assert "monodepth2_MS/42   epoch 1, step 8           was finished" in out
    assert done.sweep("--dry-run") == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_only_what_is_missing_or_out_of_date_is_done_again(done: World) -> None:
    done.result("monodepth2_M", 42).unlink()
    (done.run("monodepth2_MS", 195) / "state.json").unlink()
    os.utime(done.run("monodepth2_MS", 42) / "ckpts" / "best.safetensors", (time.time() + 5,) * 2)
    assert done.sweep() == 0
    assert done.calls == [EVERYTHING[1], EVERYTHING[5], *EVERYTHING[6:]]


def test_other_settings_or_another_seed_are_not_taken_for_finished(done: World) -> None:
    """`train` may refuse; here it does not."""
    assert done.sweep("--no-evaluate", "--set", "trainer.max_epochs=9") == 0
    assert done.calls == EVERYTHING[::2]
    hparams = done.run("monodepth2_M", 42) / "hparams.yaml"
    hparams.write_text(hparams.read_text().replace("seed: 42", "seed: 7", 1))
    assert done.sweep("--no-evaluate", "--set", "trainer.max_epochs=9") == 0
    assert done.calls == EVERYTHING[:1]


def test_other_options_of_evaluate_are_another_evaluation(world: World, tmp_path: Path) -> None:
    pages = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for page in pages:
        page.write_text("dataset: {type: synthetic}\n")
    assert world.sweep("--evaluate", *pages) == 0
    assert world.calls[1:3] == ["evaluate monodepth2_M_42 sweep_one", "evaluate monodepth2_M_42 sweep_two"]
    options: list[str | Path] = ["--evaluate", pages[0], "--evaluate-args", "--crop garg"]
    for calls in ([f"evaluate {name}_{seed} sweep_one_--crop_garg" for name in NAMES for seed in (42, 195)], []):
        assert world.sweep(*options) == 0
        assert world.calls == calls


def test_an_evaluation_that_changed_leaves_no_earlier_results(world: World, tmp_path: Path) -> None:
    """Several alignments leave a file each; the new YAML may ask for fewer."""
    page = tmp_path / "page.yaml"
    page.write_text("dataset: {type: synthetic}\n")
    assert world.sweep("--evaluate", page) == 0
    other = world.result("monodepth2_M", 42).with_name("sweep_page_stereo.yaml")
    other.write_text("mean: {abs_rel: 9.0}\nprotocol: {}")
    os.utime(other.with_name("sweep_page.yaml"), (page.stat().st_mtime - 5,) * 2)
    assert world.sweep("--evaluate", page) == 0
    assert world.calls == ["evaluate monodepth2_M_42 sweep_page"]
    assert not other.exists()


def test_a_failure_is_reported_and_does_not_stop_the_others(world: World, capsys) -> None:
    world.failing = {"train monodepth2_M_195", "evaluate monodepth2_MS_195 sweep_test"}
    assert world.sweep() == 1
    assert world.calls == [call for call in EVERYTHING if call != "evaluate monodepth2_M_195 sweep_test"]
    out = capsys.readouterr().out
    for failure in (
        "monodepth2_M/195: failed: training, exit code 2: error: the data is broken",
        "monodepth2_MS/195: failed: evaluation sweep_test, exit code 2: error: the data is broken",
        "monodepth2_M/195   no state                  failed training, exit code 2: error: the data is broken",
        "monodepth2_M: no result of seed 195 (no run)",
        "monodepth2_MS: no result of seed 195 (run finished, epoch 1)",
    ):
        assert failure in out
    world.failing = set()
    assert world.sweep() == 0
    assert world.calls == [*EVERYTHING[2:4], EVERYTHING[7]]


def test_stop_on_failure(world: World, capsys) -> None:
    world.failing = {"train monodepth2_M_195"}
    assert world.sweep("--stop-on-failure") == 1
    assert world.calls == EVERYTHING[:3]
    assert capsys.readouterr().out.count("not started") == 2


@pytest.mark.parametrize(
    ("options", "failing"),
    [
        (["--evaluate-args", "--crop garg"], "evaluate monodepth2_M_42 sweep_test_--crop_garg"),
        (["--set", "trainer.max_epochs=9"], "train monodepth2_M_42"),
    ],
)
def test_a_failure_leaves_no_earlier_numbers_in_the_table(done: World, options, failing) -> None:
    done.failing = {failing}
    assert done.sweep(*options) == 1
    assert done.result("monodepth2_M", 42).exists()
    assert "| monodepth2_M | 1 |" in done.table
    assert "monodepth2_M: no result of seed 42 (run finished, epoch 1)" in done.table


def test_an_evaluation_that_writes_elsewhere_is_a_failure(world: World, tmp_path: Path, capsys) -> None:
    assert world.sweep("--evaluate-args", f"--save {tmp_path / 'other.yaml'}") == 1
    assert ", exit code 0" in capsys.readouterr().out


def test_other_results_beside_those_of_the_sweep_are_in_no_table(done: World) -> None:
    path = done.result("monodepth2_M", 42)
    path.with_name("by_hand.yaml").write_text(path.read_text().replace("abs_rel: 0", "abs_rel: 1"))
    path.with_name("broken.yaml").write_text("a: [")
    assert done.sweep() == 0


def test_only_tables(done: World, capsys) -> None:
    (done.run("monodepth2_MS", 195) / "state.json").unlink()
    done.result("monodepth2_M", 195).unlink()
    assert done.sweep("--tables-only") == 1
    assert done.calls == []
    assert "| monodepth2_MS | 1 |" in done.table
    out = capsys.readouterr().out
    assert re.search(r"^monodepth2_MS/195 .*incomplete: not finished$", out, re.M)
    assert re.search(r"^monodepth2_M/195 .*incomplete: evaluation sweep_test$", out, re.M)
    assert done.sweep("--tables-only", "--set", "trainer.max_epochs=9") == 1
    assert re.search(r"incomplete: trainer\.max_epochs: \d+ -> 9$", capsys.readouterr().out, re.M)


def test_a_run_that_another_process_trains_is_tried_again(world: World, capsys) -> None:
    """Two sweeps at the same time share the work; this one waits for the last run of the other."""
    held = RunDir(world.out, "monodepth2_M", "42").open()
    world.after["train monodepth2_MS_195"] = held.close
    assert world.sweep("--no-evaluate") == 0
    assert world.calls == [*EVERYTHING[::2], EVERYTHING[0]]
    assert capsys.readouterr().out.count("monodepth2_M/42: in use: training, exit code 2: error: ") == 1


def test_names_with_dots_and_paths_with_spaces_and_quotes(world: World, tmp_path: Path) -> None:
    world.out = tmp_path / "it's 5 % of $HOME"
    config, script = tmp_path / "a.v1.yaml", tmp_path / "my jobs.sbatch"
    config.write_text(CONFIGS[0].read_text())
    options: list[str | Path] = ["--seeds", "42", "-c", config]
    for calls in (["train a.v1_42", "evaluate a.v1_42 sweep_test"], []):
        assert world.sweep(*options) == 0
        assert world.calls == calls
    assert "| a.v1 | 1 |" in world.table
    assert world.sweep("--slurm", script, *options) == 0
    (output,) = [d[9:] for d in directives(script) if d.startswith("--output=")]
    assert output == f"{tmp_path}/it's 5 %% of $HOME/slurm/%A_%a.log"


def test_dry_run_prints_the_commands_and_does_nothing(world: World, tmp_path: Path, capsys) -> None:
    (tmp_path / "nothing_registered.py").touch()
    plugin = str(tmp_path / "nothing_registered.py")
    options = ["--set", "trainer.max_epochs=9", "--launch", "accelerate launch --num_processes 2"]
    assert world.sweep("--dry-run", *options, "--plugins", plugin) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8
    assert lines[0][:5] == ["accelerate", "launch", "--num_processes", "2", str(jobs.COMMANDS / "train.py")]
    args = train.parse(lines[0][5:])
    assert (args.name, args.version, args.seed) == ("monodepth2_M", "42", 42)
    assert (args.set, args.plugins) == (["trainer.max_epochs=9"], [plugin])
    assert evaluate.parse(lines[1][2:]).plugins == [plugin]
    assert not world.out.exists()
    assert world.calls == []


def test_one_task_of_an_array(world: World, capsys) -> None:
    assert world.sweep("--only", "2") == 0
    assert world.calls == EVERYTHING[4:6]
    assert not (world.out / "tables").exists()
    assert world.sweep("--only", "4") == 2
    assert "the sweep has 4 runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "trainer.max_epoch=9"], "Did you mean 'max_epochs'"),
        (["--evaluate", "absent.yaml"], "--evaluate absent.yaml: no such file"),
        (["-c", str(CONFIGS[0]), str(CONFIGS[0])], "two files are called monodepth2_M"),
        (["--evaluate", str(DEFAULT), "cfg/kitti/default.yaml"], "two files are called default"),
        (["--evaluate-args=--crp garg"], "unrecognized arguments: --crp"),
        (["--tables-args=--decimals many"], "argument --decimals: invalid int value"),
        (["--launch", "it's"], "argument --launch: it's: No closing quotation"),
        (["--seeds", "-1"], "argument --seeds: expected a whole number from 0 to 2^63 - 1, got '-1'"),
        (["--seeds", "1", "1"], "--seeds: each seed once, got 1 1"),
    ],
)
def test_mistakes_are_reported_before_anything_starts(world: World, capsys, arguments, message) -> None:
    assert world.sweep(*arguments) == 2
    assert message in capsys.readouterr().err
    assert world.calls == []
    assert not world.out.exists()


@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        (
            ["sh", "-c", "echo 'error: the data is broken' >&2; echo ' error_file: x'; exit 2"],
            2,
            "error: the data is broken",
        ),
        (["sh", "-c", "echo 1; echo 2; echo"], 0, "2"),
        (["sh", "-c", "kill -9 $$"], -signal.SIGKILL, ""),
        (["no_such_launcher"], 127, "no_such_launcher: cannot be started: No such file or directory"),
    ],
)
def test_a_command_leaves_its_exit_code_and_its_last_words(tmp_path: Path, words, code, last) -> None:
    log = tmp_path / "run" / "sweep.log"
    for _ in range(2):  # the words of an earlier command do not count
        assert children.call(["echo", "error: earlier"], log, StopSignals()) == 0
    assert children.call(words, log, StopSignals()) == code
    assert children.last_words(log) == last


def test_a_log_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "log").mkdir()
    with pytest.raises(CannotWrite, match="is a file, but a folder is needed there"):
        children.call(["true"], tmp_path / "file" / "run" / "log", StopSignals())
    with pytest.raises(CannotWrite, match="Is a directory"):
        children.call(["true"], tmp_path / "log", StopSignals())


# It takes a moment to save when it is asked to stop.
TRAIN = """
import signal, sys, time
from pathlib import Path
control = Path(__file__).parent
def stop(signum, frame):
    time.sleep(0.3)
    (control / "saved").touch()
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
(control / "waiting").touch()
time.sleep(60)
"""


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """Act in another thread as soon as something holds."""

    def watch() -> None:
        while not condition():
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("signum", StopSignals.handled)
@pytest.mark.parametrize("launcher", ["", "sh launcher.sh"])
def test_a_signal_stops_the_child_and_the_sweep(tmp_path, monkeypatch, capsys, signum, launcher) -> None:
    """A launcher of one process, as Accelerate's, dies of it and leaves the training behind, which is waited for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "COMMANDS", tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "launcher.sh").write_text(f'"{sys.executable}" "$@"\nexit $?\n')
    watcher = when((tmp_path / "waiting").exists, lambda: os.kill(os.getpid(), signum))
    world = World(tmp_path)
    assert world.sweep("--no-evaluate", "--launch", launcher) == 128 + signum
    watcher.join()
    assert (tmp_path / "saved").exists()
    printed = capsys.readouterr()
    assert re.search("^monodepth2_M/42 .* stopped$", printed.out, re.M)
    assert printed.out.count("not started") == 3
    assert "the same command continues" in printed.err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def directives(script: Path) -> list[str]:
    """The options that sbatch would find: those before the first command, split as a shell does."""
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    heads = itertools.takewhile(lambda line: not line or line.startswith("#"), lines)
    return [word for line in heads if line.startswith("#SBATCH") for word in shlex.split(line[7:])]


def test_array_script(world: World, tmp_path: Path, capsys) -> None:
    script = tmp_path / "jobs" / "sweep.sbatch"
    options = ["--evaluate-args", "--crop garg", "--set", "trainer.max_epochs=9", "--tables-args", "--decimals 2"]
    assert world.sweep("--slurm", script, *options) == 0
    assert world.calls == []
    assert "sbatch" in capsys.readouterr().out
    text = script.read_text()
    chosen = dict(option.removeprefix("--").split("=") for option in directives(script) if "=" in option)
    assert (chosen["array"], chosen["signal"]) == ("0-3", "B:USR1@300")
    assert chosen["output"] == f"{world.out}/slurm/%A_%a.log"
    assert (world.out / "slurm").is_dir(), "SLURM makes no folder for logs"
    assert chosen["mem"].endswith("G")
    assert all(f"\n##SBATCH --{name}=" in script.read_text() for name in ("partition", "account"))
    assert "--requeue" in directives(script)
    assert "#   3: monodepth2_MS/195" in text
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    (task,) = [shlex.split(line.removesuffix("&")) for line in text.splitlines() if "--only" in line]
    (tables,) = [shlex.split(line)[1:] for line in text.splitlines() if line.endswith("--tables-only")]
    assert task[:2] == tables[:2] == [sys.executable, str(jobs.COMMANDS / "sweep.py")]
    assert main([*task[2:-1], "3", "--dry-run"]) == 0
    assert "trainer.max_epochs=9" in capsys.readouterr().out
    assert main(tables[2:]) == 1  # of nothing
    assert script.read_text() == text


SWEEP = """
import signal, sys, time
from pathlib import Path
for signum in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(signum, lambda signum, frame: time.sleep(0.3) or sys.exit(128 + signum))
assert sys.argv[-2:] == ["--only", "3"]
(Path(__file__).parent / "waiting").touch()
time.sleep(60 if "slow" in sys.argv[0] else 0)
"""


@pytest.mark.parametrize(
    ("signum", "requeued"),
    [(signal.SIGUSR1, "requeue 99_3\n"), (signal.SIGTERM, ""), (None, "")],
    ids=["time", "cancel", "end"],
)
def test_a_task_of_the_array_saves_and_is_queued_again(world, tmp_path, monkeypatch, signum, requeued) -> None:
    """Told before its time is up; one that is cancelled saves too, but is not queued again."""
    commands = tmp_path / ("slow" if signum else "quick")
    commands.mkdir()
    (commands / "sweep.py").write_text(SWEEP)
    monkeypatch.setattr(jobs, "COMMANDS", commands)
    script, asked, scontrol = tmp_path / "sweep.sbatch", tmp_path / "asked", tmp_path / "bin" / "scontrol"
    assert world.sweep("--slurm", script) == 0
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/bash\necho "$@" >> "{asked}"\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    env = environment(SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_JOB_ID="99", PATH=path)
    with subprocess.Popen(["bash", str(script)], env=env) as task:
        if signum:
            when((commands / "waiting").exists, lambda: task.send_signal(signum)).join()
        assert task.wait(60) == (128 + signum if signum else 0)
    assert (asked.read_text() if asked.exists() else "") == requeued


TINY = (
    *(*SMALL, "dataset.size=[64,64]", "dataset.train.num_items=4", "dataset.val.num_items=2"),
    *("dataset.test.num_items=2", "loader.batch_size=2", "trainer.max_epochs=1"),
)


@pytest.mark.long
def test_killed_halfway_a_real_sweep_finishes_only_what_was_missing(tmp_path: Path) -> None:
    """The real commands with two seeds on embedded scenes; SIGKILL hits the sweep and the run that trains."""
    out = tmp_path / "models"
    options = ["--seeds", 42, 195, "--evaluate-args", "--alignment median", "--set", *TINY]
    sweep = ["launch/sweep.py", "-c", CONFIGS[0], "-d", DEFAULT, "-o", out, *options]
    halfway = RunDir(out, "monodepth2_M", "195")
    with subprocess.Popen([sys.executable, *map(str, sweep)], cwd=ROOT, env=environment()) as first:

        def kill() -> None:
            first.kill()
            state = halfway.read_state()
            assert state is not None
            os.kill(state.pid, signal.SIGKILL)

        watcher = when(halfway.state_path.exists, kill)
        assert first.wait() == -signal.SIGKILL
        watcher.join()
    done = out / "monodepth2_M" / "42"
    kept = [done / "ckpts" / "last.safetensors", done / "state.json", *(done / "results").iterdir()]
    before = [path.stat().st_mtime_ns for path in kept]
    assert not halfway.is_finished
    second = command(*map(str, sweep))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "[1/2] monodepth2_M/42: was finished" in second.stdout
    assert second.stdout.count(": evaluation sweep_test_--alignment_median, log") == 1
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert halfway.is_finished
    (table,) = (out / "tables").glob("*.md")
    assert re.search(r"^\| monodepth2_M \| 2 \| \S*\d ± \d", table.read_text(), re.M)
    assert (out / "tables" / "curves_val_AbsRel.png").is_file()
