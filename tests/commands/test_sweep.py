"""The command `sweep`: it does what is missing and nothing else, passes signals on, and says how it went."""

from __future__ import annotations

import itertools
import json
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

from tests.world import ROOT, SMALL, command, environment
from trainer.commands.jobs import sweep as _sweep
from trainer.commands.jobs import sweep_runs
from trainer.commands.sweep import main
from trainer.config import load_config
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunDir
from trainer.runtime.signals import StopSignals

DEFAULT = ROOT / "cfg" / "synthetic" / "default.yaml"
CONFIGS = [ROOT / "cfg" / "synthetic" / f"{name}.yaml" for name in ("monodepth2_M", "monodepth2_MS")]

# Stand-ins for the commands, which take seconds: they leave what the sweep looks at. `control` holds wishes. An alarm
# ends what a test that failed leaves waiting.
TRAIN = """
import fcntl, json, os, signal, socket, sys, time
from pathlib import Path
signal.alarm(500)
told = dict(zip(sys.argv[1:], sys.argv[2:]))
control = Path(__file__).parent
run = Path(told["-o"], told["-n"], told["-v"])
label = f"{told['-n']}_{told['-v']}"
assert told["-s"] == told["-v"] and "--progress" in sys.argv
with open(control / "calls", "a") as calls:
    calls.write(f"train {label}\\n")
(run / "ckpts").mkdir(parents=True, exist_ok=True)
def state(name, step):
    about = dict(state=name, epoch=1, step=step, time="now", pid=os.getpid(), host=socket.gethostname())
    draft = run / f"state.{os.getpid()}"
    draft.write_text(json.dumps(about))
    draft.replace(run / "state.json")
def stop(signum, frame):
    state("preempted", 5)
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGHUP, stop)
lock = open(run / ".lock", "a")
raced = control / f"raced_{label}"
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if raced.exists():
        raced.unlink()
        raise BlockingIOError
except BlockingIOError:
    sys.exit("error: another run is writing here: process ? on ?")
if (control / f"die_{label}").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if (control / f"fail_{label}").exists():
    print("error: the data is broken")
    sys.exit(2)
while (control / f"mute_{label}").exists():
    (control / "waiting").touch()
    time.sleep(0.05)
config = json.loads((control / f"{told['-n']}.json").read_text())
hparams = json.dumps({"seed": int(told["-s"]), "config": config})
try:
    if "finished" in (run / "state.json").read_text() and (run / "hparams.yaml").read_text() == hparams:
        sys.exit()
except FileNotFoundError:
    pass
state("running", 1)
while (control / f"slow_{label}").exists():
    (control / "waiting").touch()
    time.sleep(0.05)
(run / "hparams.yaml").write_text(hparams)
(run / "ckpts" / "best.safetensors").write_text(label)
state("finished", 8)
"""
EVALUATE = """
import signal, sys, time, yaml
from pathlib import Path
signal.alarm(500)
told = dict(zip(sys.argv[1:], sys.argv[2:]))
control = Path(__file__).parent
run, save = Path(told["--ckpt"]), Path(told["--save"])
with open(control / "calls", "a") as calls:
    calls.write(f"evaluate {run.parent.name}_{run.name} {save.stem}\\n")
if (control / f"fail_evaluate_{run.name}").exists():
    raise SystemExit("error: nothing was scored")
while (control / f"slow_evaluate_{run.parent.name}_{run.name}").exists():
    (control / "waiting").touch()
    time.sleep(0.05)
save.parent.mkdir(parents=True, exist_ok=True)
protocol = {"alignment": "median", "crop": told.get("--crop", "none"), "items": 4, "dataset": {"type": save.stem}}
protocol["checkpoint"] = {"file": str(run / "ckpts" / "best.safetensors")}
mean = {"abs_rel": len(run.parent.name) / 100 + int(run.name) / 1e5}
save.write_text(yaml.safe_dump({"mean": mean, "protocol": protocol}))
"""


SWEEP = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from trainer.commands.jobs import sweep, sweep_runs
from trainer.commands.sweep import main
sweep_runs.COMMANDS, sweep.BUSY_SECONDS = Path(__file__).parent, 0.1
sys.exit(main())
"""


class World:
    """A sweep of two configurations with stand-ins for the commands."""

    def __init__(self, folder: Path):
        self.control, self.out = folder / "control", folder / "models"
        self.control.mkdir()
        (self.control / "sweep.py").write_text(SWEEP)
        (self.control / "train.py").write_text(TRAIN)
        (self.control / "evaluate.py").write_text(EVALUATE)
        for path in CONFIGS:
            resolved = load_config(path, DEFAULT).to_dict()
            (self.control / f"{path.stem}.json").write_text(json.dumps(resolved))

    def sweep(self, *arguments: str | Path) -> int:
        """Run it and forget the calls of earlier ones."""
        (self.control / "calls").write_text("")
        return main(self.arguments(*arguments))

    def arguments(self, *more: str | Path) -> list[str]:
        return list(map(str, ["-c", *CONFIGS, "-d", DEFAULT, "-o", self.out, *more]))

    def own_process(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Run it in a process of its own."""
        command = [sys.executable, str(self.control / "sweep.py"), *self.arguments(*arguments)]
        return subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, text=True)

    def result(self, name: str, seed: int) -> Path:
        return self.out / name / str(seed) / "results" / "sweep_test.yaml"

    @property
    def table(self) -> str:
        (path,) = (self.out / "tables").glob("*.md")
        return path.read_text()

    @property
    def calls(self) -> list[str]:
        return (self.control / "calls").read_text().splitlines()

    def wish(self, name: str) -> Path:
        path = self.control / name
        path.touch()
        return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(sweep_runs, "COMMANDS", tmp_path / "control")
    monkeypatch.setattr(_sweep, "BUSY_SECONDS", 0.1)
    return World(tmp_path)


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """Act in another thread as soon as something holds."""

    def watch() -> None:
        deadline = time.monotonic() + 500  # less than a test may take
        while time.monotonic() < deadline:
            if condition():
                action()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


EVERYTHING = [
    f"{what}_{seed}{' sweep_test' * (what[0] == 'e')}"
    for name in ("monodepth2_M", "monodepth2_MS")
    for seed in (42, 195, 335)
    for what in (f"train {name}", f"evaluate {name}")
]


def test_every_config_with_every_seed_then_a_table(world: World, capsys) -> None:
    assert world.sweep() == 0
    assert world.calls == EVERYTHING
    out = capsys.readouterr().out
    assert "[4/6] monodepth2_MS/42: training" in out
    assert (
        "monodepth2_M before monodepth2_MS is inside the seed noise" not in out
    )  # the stand-ins differ clearly
    table = (world.out / "tables" / "sweep_test_best_median.md").read_text()
    assert "| monodepth2_M | 3 | **0.1219 ± 0.0015** |" in table
    assert "| monodepth2_MS | 3 | <u>0.1319 ± 0.0015</u> |" in table
    pairs = (world.out / "tables" / "sweep_test_best_median_pairs.csv").read_text()
    assert "abs_rel,monodepth2_M,monodepth2_MS," in pairs
    log = (world.out / "monodepth2_M" / "42" / "sweep.log").read_text()
    assert log.count("$ ") == 2


def test_a_second_start_finds_nothing_to_do(world: World, capsys) -> None:
    assert world.sweep() == 0
    assert world.sweep() == 0
    assert world.calls == []
    assert capsys.readouterr().out.count("was finished") >= 12  # a line and a row for each
    assert world.sweep("--dry-run") == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_only_what_is_missing_or_out_of_date_is_done_again(world: World) -> None:
    assert world.sweep() == 0
    (world.out / "monodepth2_M" / "42" / "results" / "sweep_test.yaml").unlink()
    (world.out / "monodepth2_MS" / "335" / "state.json").unlink()
    newer = time.time() + 5
    os.utime(world.out / "monodepth2_MS" / "195" / "ckpts" / "best.safetensors", (newer, newer))
    assert world.sweep() == 0
    assert world.calls == [
        "evaluate monodepth2_M_42 sweep_test",
        "evaluate monodepth2_MS_195 sweep_test",
        "train monodepth2_MS_335",
        "evaluate monodepth2_MS_335 sweep_test",
    ]


def test_other_settings_are_not_taken_for_finished(world: World) -> None:
    """The trainer says what it thinks of the change; here it just trains."""
    assert world.sweep("--no-evaluate") == 0
    assert world.sweep("--no-evaluate", "--set", "trainer.max_epochs=9") == 0
    assert len(world.calls) == 6
    assert world.sweep("--no-evaluate") == 0
    assert world.calls == []


def test_other_options_of_evaluate_are_another_evaluation(world: World, tmp_path: Path) -> None:
    first, second = tmp_path / "one.yaml", tmp_path / "two.yaml"
    for path in (first, second):
        path.write_text("dataset: {type: synthetic}\n")
    options: list[str | Path] = ["--seeds", "42", "--evaluate", first, second]
    assert world.sweep(*options) == 0
    assert world.calls[1:3] == ["evaluate monodepth2_M_42 sweep_one", "evaluate monodepth2_M_42 sweep_two"]
    assert world.sweep(*options, "--evaluate-args", "--crop garg") == 0
    assert world.calls == [
        f"evaluate {n}_42 sweep_{e}" for n in ("monodepth2_M", "monodepth2_MS") for e in ("one", "two")
    ]
    assert len(list((world.out / "tables").glob("*.md"))) == 2


def test_a_failure_is_told_and_does_not_stop_the_others(world: World, capsys) -> None:
    wish = world.wish("fail_monodepth2_M_195")
    other = world.wish("fail_evaluate_335")
    assert world.sweep() == 1
    assert [call for call in world.calls if call.startswith("train")] == [
        c for c in EVERYTHING if c.startswith("train")
    ]
    out = capsys.readouterr().out
    assert "monodepth2_M/195: failed: training, exit code 2: error: the data is broken" in out
    assert "monodepth2_MS/335: failed: evaluation, exit code 1: error: nothing was scored" in out
    assert "monodepth2_M: no result of seeds 195 (no run), 335 (run finished, epoch 1)" in out
    wish.unlink()
    other.unlink()
    assert world.sweep() == 0
    assert world.calls == [
        "train monodepth2_M_195",
        "evaluate monodepth2_M_195 sweep_test",
        "evaluate monodepth2_M_335 sweep_test",
        "evaluate monodepth2_MS_335 sweep_test",
    ]


def test_a_run_that_was_killed_says_so(world: World, capsys) -> None:
    world.wish("die_monodepth2_M_42")
    assert world.sweep("--seeds", "42", "--no-evaluate") == 1
    assert "monodepth2_M/42: failed: training, killed by signal 9 (Killed)" in capsys.readouterr().out


def test_an_evaluation_that_failed_leaves_no_numbers_of_an_earlier_one(world: World) -> None:
    """Its log names the new command, and the old file is younger than the checkpoint."""
    assert world.sweep() == 0
    wish = world.wish("fail_evaluate_42")
    options = ("--evaluate-args", "--crop garg")
    assert world.sweep(*options) == 1
    assert "| monodepth2_M | 2 |" in world.table
    assert "monodepth2_M: no result of seed 42 (run finished, epoch 1)" in world.table
    wish.unlink()
    assert world.sweep(*options) == 0
    assert world.calls == [f"evaluate {name}_42 sweep_test" for name in ("monodepth2_M", "monodepth2_MS")]
    assert "| monodepth2_M | 3 |" in world.table


def test_an_evaluation_that_was_cut_short_is_done_again(world: World) -> None:
    """Of several alignments the first is written; what tells the end of the command is missing."""
    assert world.sweep() == 0
    (world.result("monodepth2_M", 42).parent / ".sweep_test.command").unlink()
    other = world.result("monodepth2_M", 42).with_stem("sweep_test_stereo")
    other.write_text("mean: {abs_rel: 9.0}\nprotocol: {}")
    assert world.sweep() == 0
    assert world.calls == ["evaluate monodepth2_M_42 sweep_test"]
    assert not other.exists()


def test_an_evaluation_that_writes_elsewhere_is_a_failure(world: World, tmp_path: Path, capsys) -> None:
    options = ["--seeds", "42", "--evaluate-args", f"--save {tmp_path / 'other.yaml'}"]
    assert world.sweep(*options) == 1
    assert "failed: evaluation, exit code 0" in capsys.readouterr().out


def test_numbers_of_other_settings_are_in_no_table(world: World, capsys) -> None:
    """The YAML was changed when all was done, and the trainer refuses one folder: its old numbers do not count."""
    assert world.sweep() == 0
    world.wish("fail_monodepth2_M_195")
    assert world.sweep("--set", "trainer.max_epochs=9") == 1
    assert world.result("monodepth2_M", 195).exists()
    assert "| monodepth2_M | 2 |" in world.table
    assert "monodepth2_M: no result of seed 195" in world.table


def test_other_results_beside_those_of_the_sweep_are_in_no_table(world: World) -> None:
    assert world.sweep("--seeds", "42") == 0
    path = world.result("monodepth2_M", 42)
    path.with_name("by_hand.yaml").write_text(path.read_text().replace("abs_rel: 0", "abs_rel: 1"))
    path.with_name("broken.yaml").write_text("a: [")
    assert world.sweep("--seeds", "42") == 0


def test_a_folder_of_another_seed_is_not_taken_for_finished(world: World) -> None:
    assert world.sweep("--no-evaluate", "--seeds", "42") == 0
    hparams = world.out / "monodepth2_M" / "42" / "hparams.yaml"
    hparams.write_text(hparams.read_text().replace('"seed": 42', '"seed": 7'))
    assert world.sweep("--no-evaluate", "--seeds", "42") == 0
    assert world.calls == ["train monodepth2_M_42"]


def test_only_tables(world: World, capsys) -> None:
    assert world.sweep() == 0
    (world.out / "monodepth2_MS" / "335" / "state.json").unlink()
    assert world.sweep("--tables-only") == 1
    assert world.calls == []
    assert "| monodepth2_MS | 2 |" in world.table
    assert "incomplete" in capsys.readouterr().out


def test_only_tables_says_what_is_missing(world: World, capsys) -> None:
    page = world.control / "page.yaml"
    page.write_text("{}\n")
    assert world.sweep("--seeds", "42", "--evaluate-args", "--crop garg") == 0

    def notes(*options: str | Path) -> str:
        capsys.readouterr()
        assert world.sweep("--seeds", "42", "--tables-only", *options) == 1
        return " ".join(capsys.readouterr().out.split())

    assert "evaluated with other options: --crop: garg -> absent" in notes()
    assert "evaluated with other options: --crop: garg -> eigen" in notes("--evaluate-args", "--crop eigen")
    told = notes("--evaluate", page)
    assert (
        "sweep_page.yaml: not evaluated (there are sweep_test.yaml: name their files with --evaluate)" in told
    )
    told = notes("--evaluate-args", "--crop garg", "--set", "trainer.max_epochs=9")
    assert "trained with other settings: trainer.max_epochs: " in told
    (world.out / "monodepth2_MS" / "42" / "state.json").unlink()
    assert "not trained to its end" in notes("--evaluate-args", "--crop garg")


def test_names_with_dots_and_paths_with_spaces_and_quotes(world: World, tmp_path: Path) -> None:
    world.out = tmp_path / "it's 5 % of $HOME"
    config = tmp_path / "a.v1.yaml"
    config.write_text(CONFIGS[0].read_text())
    (world.control / "a.v1.json").write_text((world.control / "monodepth2_M.json").read_text())
    options: list[str | Path] = ["--seeds", "42", "-c", config]
    assert world.sweep(*options) == 0
    assert world.calls == ["train a.v1_42", "evaluate a.v1_42 sweep_test"]
    assert world.sweep(*options) == 0
    assert world.calls == []
    assert "| a.v1 | 1 |" in world.table
    assert world.sweep("--slurm", tmp_path / "my jobs.sbatch", *options) == 0
    (output,) = [d[9:] for d in directives(tmp_path / "my jobs.sbatch") if d.startswith("--output=")]
    assert output == f"{tmp_path}/it's 5 %% of $HOME/slurm/%A_%a.log"


def test_a_folder_that_cannot_be(world: World, capsys) -> None:
    world.out.write_text("a file")
    assert world.sweep() == 2
    assert "is a file, but a folder is needed there" in capsys.readouterr().err


def test_stop_on_failure(world: World, capsys) -> None:
    world.wish("fail_monodepth2_M_195")
    assert world.sweep("--stop-on-failure") == 1
    assert world.calls[-1] == "train monodepth2_M_195"
    assert capsys.readouterr().out.count("not started") == 4


@pytest.mark.parametrize("signum", StopSignals.handled)
def test_a_signal_stops_the_child_and_the_same_command_continues(world: World, capsys, signum) -> None:
    wish = world.wish("slow_monodepth2_M_195")
    state = RunDir(world.out, "monodepth2_M", "195")
    watcher = when((world.control / "waiting").exists, lambda: os.kill(os.getpid(), signum))
    assert world.sweep() == 128 + signum
    watcher.join()
    now = state.read_state()
    assert now is not None
    assert now.state == "preempted"
    assert world.calls == [*EVERYTHING[:2], "train monodepth2_M_195"]
    told = capsys.readouterr()
    assert "monodepth2_M/195: stopped after step 5" in told.out
    assert "the same command continues" in told.err
    wish.unlink()
    refusal = world.wish("fail_monodepth2_M_195")
    assert world.sweep("--seeds", "195", "--no-evaluate") == 1
    assert (
        "monodepth2_M/195: failed: training, exit code 2: error: the data is broken"
        in capsys.readouterr().out
    )
    refusal.unlink()
    assert world.sweep("--seeds", "42", "195", "335") == 0
    assert "train monodepth2_M_195" in world.calls
    assert "continuing after step 5" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("wish", ["slow", "mute"])
def test_a_launcher_that_passes_nothing_on(world: World, tmp_path: Path, wish: str) -> None:
    """As Accelerate's for one process: what says that it trains is told to stop; before that, all of its group is."""
    launcher = tmp_path / "launcher.sh"
    launcher.write_text(f'"{sys.executable}" "$@"\nexit $?\n')
    hurdle = world.wish(f"{wish}_monodepth2_M_42")
    watcher = when((world.control / "waiting").exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert world.sweep("--launch", f"bash {launcher}") == 143
    watcher.join()
    state = RunDir(world.out, "monodepth2_M", "42").read_state()
    assert state is not None
    assert state.state == "preempted"  # it has been waited for
    hurdle.unlink()
    assert world.sweep("--launch", f"bash {launcher}") == 0


def test_a_run_that_another_process_holds_is_looked_at_again(world: World, capsys) -> None:
    """Two sweeps at the same time share the work; the one whose partner was killed waits for its last run."""
    held = RunDir(world.out, "monodepth2_M", "42").open()
    last = world.out / "monodepth2_MS" / "335" / "state.json"
    watcher = when(lambda: last.exists() and "finished" in last.read_text(), held.close)
    assert world.sweep("--no-evaluate") == 0
    watcher.join()
    assert world.calls[-1] == "train monodepth2_M_42"
    assert len(world.calls) == 6
    assert capsys.readouterr().out.count("another process is at work here") == 1


def test_a_run_that_another_sweep_evaluates_is_looked_at_again(world: World, capsys) -> None:
    assert world.sweep("--no-evaluate") == 0
    held = RunDir(world.out, "monodepth2_M", "42").open()
    watcher = when(world.result("monodepth2_MS", 335).exists, held.close)
    assert world.sweep() == 0
    watcher.join()
    assert world.calls[-1] == "evaluate monodepth2_M_42 sweep_test"
    assert len(world.calls) == 6
    assert capsys.readouterr().out.count("another process is at work here") == 1


def test_nobody_trains_on_while_a_run_is_evaluated(world: World) -> None:
    wish = world.wish("slow_evaluate_monodepth2_M_42")
    refused: list[str] = []

    def intrude() -> None:
        try:
            RunDir(world.out, "monodepth2_M", "42").open()
        except UserError as error:
            refused.append(str(error))
        wish.unlink()

    watcher = when((world.control / "waiting").exists, intrude)
    assert world.sweep("--seeds", "42") == 0
    watcher.join()
    assert _sweep.BUSY in refused[0]  # the words by which a sweep tells that another was quicker
    RunDir(world.out, "monodepth2_M", "42").open().close()


def test_a_start_that_met_another_process_is_tried_again(world: World, capsys) -> None:
    """The other may only have looked whether the folder is free."""
    world.wish("raced_monodepth2_M_42")
    assert world.sweep("--seeds", "42", "--no-evaluate") == 0
    assert world.calls == ["train monodepth2_M_42", "train monodepth2_MS_42", "train monodepth2_M_42"]
    assert "failed" not in capsys.readouterr().out


@pytest.mark.slow
def test_two_sweeps_at_once_do_everything_once(world: World) -> None:
    (world.control / "calls").write_text("")
    both = [world.own_process(), world.own_process()]
    assert [process.wait(300) for process in both] == [0, 0]
    tried = [call for call in world.calls if call.startswith("evaluate")]
    assert sorted(tried) == sorted(call for call in EVERYTHING if call.startswith("evaluate"))
    assert "| monodepth2_MS | 3 |" in world.table
    assert world.sweep() == 0
    assert world.calls == []


@pytest.mark.slow
def test_the_run_of_a_sweep_that_was_killed_goes_on_and_is_waited_for(world: World, capsys) -> None:
    wish = world.wish("slow_monodepth2_M_195")
    with world.own_process() as first:
        watcher = when((world.control / "waiting").exists, first.kill)
        assert first.wait(300) == -signal.SIGKILL
        watcher.join()
    watcher = when(world.result("monodepth2_MS", 335).exists, wish.unlink)
    assert world.sweep() == 0
    watcher.join()
    assert world.calls == [*EVERYTHING[4:], "evaluate monodepth2_M_195 sweep_test"]
    assert capsys.readouterr().out.count("monodepth2_M/195: another process is at work here") == 1


def test_dry_run_prints_the_commands_and_does_nothing(world: World, capsys) -> None:
    arguments = [
        "--dry-run",
        "--set",
        "trainer.max_epochs=9",
        "--launch",
        "accelerate launch --num_processes 2",
    ]
    assert world.sweep(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    train = shlex.split(lines[0])
    assert train[:4] == ["accelerate", "launch", "--num_processes", "2"]
    assert train[train.index("-n") + 1 :][:5] == ["monodepth2_M", "-v", "42", "-s", "42"]
    assert train[-2:] == ["--set", "trainer.max_epochs=9"]
    assert not world.out.exists()
    assert world.calls == []


def test_a_launcher_that_does_not_exist_is_a_failure(world: World, capsys) -> None:
    assert world.sweep("--launch", "no_such_launcher", "--seeds", "1") == 1
    assert "exit code 127: no_such_launcher: cannot be started: No such file" in capsys.readouterr().out


def test_one_task_of_an_array(world: World, capsys) -> None:
    assert world.sweep("--only", "4") == 0
    assert world.calls == EVERYTHING[8:10]
    assert not (world.out / "tables").exists()
    assert world.sweep("--only", "6") == 2
    assert "the sweep has 6 runs" in capsys.readouterr().err


def directives(script: Path) -> list[str]:
    """The options that sbatch would find: those before the first command, split as a shell does."""
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    found: list[str] = []
    for line in itertools.takewhile(lambda line: not line or line.startswith("#"), lines):
        if line.startswith("#SBATCH"):
            found += shlex.split(line.removeprefix("#SBATCH"))
    return found


def test_array_script(world: World, tmp_path: Path, capsys) -> None:
    script = tmp_path / "jobs" / "sweep.sbatch"
    options = ["--evaluate-args", "--crop garg", "--set", "trainer.max_epochs=9"]
    assert world.sweep("--slurm", script, *options, "--tables-args", "--decimals 2") == 0
    assert world.calls == []
    text = script.read_text()
    told = dict(option.removeprefix("--").split("=") for option in directives(script) if "=" in option)
    assert told["array"] == "0-5"
    assert told["signal"] == "B:USR1@300"
    assert told["output"] == f"{world.out}/slurm/%A_%a.log"
    assert "--requeue" in directives(script)
    assert "#   5: monodepth2_MS/335" in text
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    command = next(line for line in text.splitlines() if "--only" in line)
    words = shlex.split(command.removesuffix("&"))
    assert "--evaluate-args=--crop garg" in words
    assert words[words.index("--seeds") + 1 :][:3] == ["42", "195", "335"]
    assert "sbatch" in capsys.readouterr().out
    (again,) = [words[2:-2]]  # without the interpreter, the file and --only: the same sweep
    assert main([*again, "--dry-run"]) == 0
    assert "trainer.max_epochs=9" in capsys.readouterr().out
    (tables,) = [shlex.split(line)[1:] for line in text.splitlines() if line.endswith("--tables-only")]
    assert tables[2:] == [*again, "--tables-args=--decimals 2", "--tables-only"]


class Cluster:
    """Stand-ins for SLURM: `start` runs one task as a node does, with `scontrol` noting what it is asked."""

    def __init__(self, world: World, folder: Path):
        self.script, self.asked = folder / "sweep.sbatch", folder / "asked"
        assert world.sweep("--slurm", self.script) == 0
        text = self.script.read_text().replace(
            str(ROOT / "trainer" / "commands" / "sweep.py"), str(world.control / "sweep.py")
        )
        self.script.write_text(text)
        scontrol = folder / "bin" / "scontrol"
        scontrol.parent.mkdir()
        scontrol.write_text(f'#!/bin/bash\necho "$@" >> "{self.asked}"\n')
        scontrol.chmod(0o755)
        self.path = f"{scontrol.parent}:{os.environ['PATH']}"

    def start(self, task: int) -> subprocess.Popen[bytes]:
        env = environment(SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_JOB_ID="99", PATH=self.path)
        return subprocess.Popen(["bash", str(self.script)], env=env)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "requeued"), [(signal.SIGUSR1, "requeue 99_3\n"), (signal.SIGTERM, "")], ids=["time", "cancel"]
)
def test_a_task_of_the_array_saves_and_is_queued_again(world, tmp_path, signum, requeued) -> None:
    """Told before its time is up; one that is cancelled saves too, but is not queued again."""
    cluster = Cluster(world, tmp_path)
    wish = world.wish("slow_monodepth2_MS_42")
    run = RunDir(world.out, "monodepth2_MS", "42")
    with cluster.start(3) as task:
        watcher = when((world.control / "waiting").exists, lambda: task.send_signal(signum))
        assert task.wait(300) == 128 + signum
        watcher.join()
    now = run.read_state()
    assert now is not None
    assert now.state == "preempted"
    assert (cluster.asked.read_text() if cluster.asked.exists() else "") == requeued
    if not requeued:
        return
    wish.unlink()
    with cluster.start(3) as task:
        assert task.wait(300) == 0
    assert run.is_finished
    assert world.result("monodepth2_MS", 42).is_file()
    assert world.calls == ["train monodepth2_MS_42"] * 2 + ["evaluate monodepth2_MS_42 sweep_test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "trainer.max_epoch=9"], "Did you mean 'max_epochs'"),
        (["--evaluate", "absent.yaml"], "--evaluate absent.yaml: no such file"),
        (["-c", str(CONFIGS[0]), str(CONFIGS[0])], "two files are called monodepth2_M"),
        (["--evaluate", str(DEFAULT), "cfg/kitti/default.yaml"], "two files are called default"),
    ],
)
def test_mistakes_are_told_before_anything_starts(world: World, capsys, arguments, message) -> None:
    assert world.sweep(*arguments) == 2
    assert message in capsys.readouterr().err
    assert world.calls == []
    assert not world.out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluate-args=--crp garg"], "unrecognized arguments: --crp"),
        (["--tables-args=--decimals many"], "argument --decimals: invalid int value"),
        (["--launch", "it's"], "argument --launch: it's: No closing quotation"),
    ],
)
def test_options_of_the_last_commands_are_read_first(world: World, capsys, arguments, message) -> None:
    with pytest.raises(SystemExit):
        world.sweep(*arguments)
    assert message in capsys.readouterr().err
    assert not world.out.exists()


def test_a_seed_given_twice(world: World, capsys) -> None:
    with pytest.raises(SystemExit):
        world.sweep("--seeds", "1", "1")
    assert "a seed is there twice" in capsys.readouterr().err


TINY = (
    *SMALL,
    "dataset.size=[64,64]",
    "dataset.train.num_items=4",
    "dataset.val.num_items=2",
    "dataset.test.num_items=2",
    "loader.batch_size=2",
    "trainer.max_epochs=1",
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
    assert second.stdout.count(": evaluating,") == 1
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert halfway.is_finished
    (table,) = (out / "tables").glob("*.md")
    assert re.search(r"^\| monodepth2_M \| 2 \| \S*\d ± \d", table.read_text(), re.M)
    assert (out / "tables" / "curves_val_metrics_AbsRel.png").is_file()
