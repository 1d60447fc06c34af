"""The command `sweep`: it does what is missing and nothing else, passes signals on, and says how it went."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch import _sweep
from launch.sweep import main
from tests.world import ROOT, SMALL, environment
from trainer.config import load_config
from trainer.rundir import RunDir

DEFAULT = ROOT / "cfg" / "synthetic" / "default.yaml"
CONFIGS = [ROOT / "cfg" / "synthetic" / f"{name}.yaml" for name in ("monodepth2_M", "monodepth2_MS")]

# Stand-ins for the commands, which take seconds: they leave what the sweep looks at. `control` holds wishes.
TRAIN = """
import json, os, signal, socket, sys, time
from pathlib import Path
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
    (run / "state.json").write_text(json.dumps(about))
def stop(signum, frame):
    state("preempted", 5)
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
if (control / f"fail_{label}").exists():
    print("error: the data is broken")
    sys.exit(2)
while (control / f"mute_{label}").exists():
    (control / "waiting").touch()
    time.sleep(0.05)
state("running", 1)
while (control / f"slow_{label}").exists():
    (control / "waiting").touch()
    time.sleep(0.05)
(run / "hparams.yaml").write_text(json.dumps({"config": json.loads((control / f"{told['-n']}.json").read_text())}))
(run / "ckpts" / "best.safetensors").write_text(label)
state("finished", 8)
"""
EVALUATE = """
import sys, yaml
from pathlib import Path
told = dict(zip(sys.argv[1:], sys.argv[2:]))
control = Path(__file__).parent
run, save = Path(told["--ckpt"]), Path(told["--save"])
with open(control / "calls", "a") as calls:
    calls.write(f"evaluate {run.parent.name}_{run.name} {save.stem}\\n")
if (control / f"fail_evaluate_{run.name}").exists():
    raise SystemExit("error: nothing was scored")
save.parent.mkdir(parents=True, exist_ok=True)
protocol = {"alignment": "median", "crop": told.get("--crop", "none"), "items": 4, "dataset": {"type": save.stem}}
protocol["checkpoint"] = {"file": str(run / "ckpts" / "best.safetensors")}
mean = {"abs_rel": len(run.parent.name) / 100 + int(run.name) / 1e5}
save.write_text(yaml.safe_dump({"mean": mean, "protocol": protocol}))
"""


class World:
    """A sweep of two configurations with stand-ins for the commands."""

    def __init__(self, folder: Path):
        self.control, self.out = folder / "control", folder / "models"
        self.control.mkdir()
        (self.control / "train.py").write_text(TRAIN)
        (self.control / "evaluate.py").write_text(EVALUATE)
        for path in CONFIGS:
            resolved = load_config(path, DEFAULT).to_dict()
            (self.control / f"{path.stem}.json").write_text(json.dumps(resolved))

    def sweep(self, *arguments: str | Path) -> int:
        """Run it and forget the calls of earlier ones."""
        (self.control / "calls").write_text("")
        args = ["-c", *CONFIGS, "-d", DEFAULT, "-o", self.out, *arguments]
        return main(list(map(str, args)))

    @property
    def calls(self) -> list[str]:
        return (self.control / "calls").read_text().splitlines()

    def wish(self, name: str) -> Path:
        path = self.control / name
        path.touch()
        return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(_sweep, "LAUNCH", tmp_path / "control")
    monkeypatch.setattr(_sweep, "BUSY_SECONDS", 0.1)
    return World(tmp_path)


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """Act in another thread as soon as something holds."""

    def watch() -> None:
        deadline = time.monotonic() + 60
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


def test_stop_on_failure(world: World, capsys) -> None:
    world.wish("fail_monodepth2_M_195")
    assert world.sweep("--stop-on-failure") == 1
    assert world.calls[-1] == "train monodepth2_M_195"
    assert capsys.readouterr().out.count("not started") == 4


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
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
    assert world.sweep() == 0
    assert world.calls == EVERYTHING[2:]
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
    assert capsys.readouterr().out.count("another process trains here") == 1


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


def test_array_script(world: World, tmp_path: Path, capsys) -> None:
    script = tmp_path / "jobs" / "sweep.sbatch"
    assert (
        world.sweep("--slurm", script, "--evaluate-args", "--crop garg", "--set", "trainer.max_epochs=9") == 0
    )
    assert world.calls == []
    text = script.read_text()
    assert "#SBATCH --array=0-5" in text
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


def test_array_script_passes_the_signal_on_and_queues_again(world: World, tmp_path: Path) -> None:
    """Run by bash with stand-ins for SLURM: the task saves, ends with 143 and asks to be queued again."""
    script = tmp_path / "sweep.sbatch"
    assert world.sweep("--slurm", script) == 0
    fake = tmp_path / "fake_sweep.py"
    fake.write_text(
        "import signal, sys, time, pathlib\n"
        "def stop(*a):\n    time.sleep(0.3); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path('ready').touch()\ntime.sleep(60)\n"
    )
    lines = script.read_text().splitlines()
    lines = [
        f'{sys.executable} {fake} --only "$SLURM_ARRAY_TASK_ID" &' if "--only" in li else li for li in lines
    ]
    lines = [f"cd {tmp_path}" if li.startswith("cd ") else li for li in lines]
    script.write_text("\n".join(lines))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    env = environment(
        SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_JOB_ID="99", PATH=f"{scontrol.parent}:{os.environ['PATH']}"
    )
    with subprocess.Popen(["bash", str(script)], env=env) as process:
        watcher = when((tmp_path / "ready").exists, lambda: process.send_signal(signal.SIGTERM))
        assert process.wait(60) == 143
        watcher.join()
    assert (tmp_path / "requeued").read_text() == "requeue 99_3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "trainer.max_epoch=9"], "Did you mean 'max_epochs'"),
        (["--evaluate", "absent.yaml"], "--evaluate absent.yaml: no such file"),
        (["-c", str(CONFIGS[0]), str(CONFIGS[0])], "two files are called monodepth2_M"),
    ],
)
def test_mistakes_are_told_before_anything_starts(world: World, capsys, arguments, message) -> None:
    assert world.sweep(*arguments) == 2
    assert message in capsys.readouterr().err
    assert world.calls == []
    assert not world.out.exists()


def test_a_seed_given_twice(world: World, capsys) -> None:
    with pytest.raises(SystemExit):
        world.sweep("--seeds", "1", "1")
    assert "a seed is there twice" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_halfway_a_real_sweep_finishes_only_what_was_missing(tmp_path: Path) -> None:
    """Two configurations with three seeds on embedded scenes; SIGKILL hits the sweep, whose run goes on without it."""
    out = tmp_path / "models"
    arguments = [
        "launch/sweep.py",
        "-c",
        *CONFIGS,
        "-d",
        DEFAULT,
        "-o",
        out,
        "--evaluate-args",
        "--alignment median",
    ]
    arguments += ["--set", *SMALL, "dataset.test.num_items=4"]
    command = [sys.executable, *map(str, arguments)]
    options = {"cwd": ROOT, "env": environment(), "stdin": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as first:  # type: ignore[call-overload]
        state = out / "monodepth2_M" / "195" / "state.json"
        when(lambda: state.exists() and "running" in state.read_text(), first.kill)
        assert first.wait(300) == -signal.SIGKILL
    done = out / "monodepth2_M" / "42"
    before = (done / "ckpts" / "last.safetensors").stat().st_mtime_ns
    result = (done / "results" / "sweep_test.yaml").stat().st_mtime_ns
    second = subprocess.run(command, capture_output=True, timeout=500, **options)  # type: ignore[call-overload]
    assert second.returncode == 0, second.stdout + second.stderr
    assert "[1/6] monodepth2_M/42: was finished" in second.stdout
    assert (done / "ckpts" / "last.safetensors").stat().st_mtime_ns == before
    assert (done / "results" / "sweep_test.yaml").stat().st_mtime_ns == result
    for name in ("monodepth2_M", "monodepth2_MS"):
        for seed in (42, 195, 335):
            assert RunDir(out, name, str(seed)).is_finished
    (table,) = (out / "tables").glob("*.md")
    for name in ("monodepth2_M", "monodepth2_MS"):
        assert f"| {name} | 3 |" in table.read_text()
    assert (out / "tables" / f"{table.stem}_pairs.csv").is_file()
    assert (out / "tables" / "curves_val_metrics_AbsRel.png").is_file()
