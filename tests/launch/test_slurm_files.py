"""The scripts for SLURM, run with stand-ins for its commands: who is started, who is told to stop, who comes back."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.test_nodes import PAUSE, PAUSING, STEPS, listens
from tests.runs import last_step, state
from tests.world import ROOT, call, environment, train_args

SCRIPTS = sorted((ROOT / "launch/slurm").glob("*.sbatch"))
PREPARE = ROOT / "launch/slurm/prepare.sh"  # the beginning of every script
SHARED = ROOT / "launch/slurm/train_and_requeue.sh"  # the end of every script
PATIENCE = 240  # seconds after which something hangs

# python, accelerate: note every start; run a stand-in of the trainer where there is one, else what was asked for.
WRAPPER = """#!/bin/bash
args=()
for arg; do
  if [ "$arg" = launch/train.py ]; then
    echo "{name} $*" >>"$NOTES/started"
    [ -z "$TRAINER" ] || arg=$TRAINER
  fi
  args+=("$arg")
done
exec {real} "${{args[@]}}"
"""
# srun: one task on every machine; passes TERM on, and ends all when one fails.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "srun $1" >>"$NOTES/started"; shift; done
tasks=()
pass_on() { for task in "${tasks[@]}"; do kill -TERM "$task" 2>/dev/null; done; }
trap pass_on TERM
for ((node = 0; node < SLURM_NNODES; node++)); do
  SLURM_NODEID=$node "$@" &
  tasks+=("$!")
done
worst=0
for task in "${tasks[@]}"; do
  while wait "$task"; code=$?; kill -0 "$task" 2>/dev/null; do :; done
  [ "$code" -eq 0 ] || { worst=$code; pass_on; }
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && { printf '%s\\n' ${3//,/ }; exit; }
echo "$*" >>"$NOTES/asked"
"""
# A trainer that waits, says of itself what it is told to say and leaves as a trainer (or a launcher) does.
TRAINER = """
import json, os, pathlib, signal, sys, time
sys.path.insert(0, os.environ["ROOT"])
from trainer.commands.train import parse
args, notes = parse(), pathlib.Path(os.environ["NOTES"])
said = args.ckpt_dir / args.name / args.version / "state.json"
said.parent.mkdir(parents=True, exist_ok=True)
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
(notes / "ready").touch()
while os.environ["END"] != "failed" and not got:
    time.sleep(0.01)
said.write_text(json.dumps({"state": os.environ["END"]}, indent=1))
sys.exit({"finished": 0, "failed": 1, "preempted": 143, "running": 137}[os.environ["END"]])
"""


class Cluster:
    """Stand-ins for SLURM and for the commands that a job finds on its PATH."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder / "bin"
        self.out, self.trainer = folder / "out", folder / "trainer.py"
        self.jobs: list[subprocess.Popen[bytes]] = []
        self.bin.mkdir()
        accelerate = f"{shlex.quote(sys.executable)} -m accelerate.commands.accelerate_cli"
        for name, text in {
            "python": WRAPPER.format(name="python", real=shlex.quote(sys.executable)),
            "accelerate": WRAPPER.format(name="accelerate", real=accelerate),
            "srun": SRUN,
            "scontrol": SCONTROL,
        }.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def start(self, script: str, *options: str, **env: str) -> subprocess.Popen[bytes]:
        """Run a script as the first machine of a job does."""
        changes = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "NOTES": str(self.folder),
            "HF_HOME": str(self.folder),
            "ROOT": str(ROOT),
            "TRAINER": str(self.trainer),
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_PER_TASK": "1",
            **env,
        }
        with open(self.folder / "log", "ab") as log:
            job = subprocess.Popen(
                ["bash", str(ROOT / "launch/slurm" / f"{script}.sbatch"), *options],
                cwd=ROOT,
                env=environment(**changes),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.jobs.append(job)
        return job

    def wait(self, job: subprocess.Popen[bytes], path: Path) -> None:
        """Return when a file is there and says something or nothing; fail when the job ends before."""
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            if job.poll() is not None or time.monotonic() > deadline:
                pytest.fail((self.folder / "log").read_text(errors="replace"))
            time.sleep(0.02)

    def noted(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    for job in cluster.jobs:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def directives(script: Path) -> dict[str, str]:
    """The options that sbatch would find: those before the first command."""
    found: dict[str, str] = {}
    for line in script.read_text().split("\n\n")[0].splitlines():
        assert line.startswith("#"), line
        if line.startswith("#SBATCH"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[name] = value
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_asks_to_be_told_and_to_come_back(script: Path) -> None:
    for part in (script, PREPARE, SHARED):
        assert subprocess.run(["bash", "-n", part], check=False).returncode == 0
    asked = directives(script)
    assert asked["signal"] == "B:USR1@300"
    assert asked["open-mode"] == "append"
    assert "requeue" in asked
    assert asked["job-name"]
    assert asked["mem"].endswith("G")
    assert "/" not in asked["output"], "SLURM makes no folder for logs, and a job without its log ends at once"
    text = script.read_text()
    assert text.count("\n#SBATCH") == len(asked), "sbatch reads none after the first command"
    assert f"sbatch {script.relative_to(ROOT)}" in text or f" {script.relative_to(ROOT)} " in text
    assert all(f"\n##SBATCH --{name}=" in text for name in ("partition", "account"))
    assert f"\n\n. {PREPARE.relative_to(ROOT)}\n" in text, "the environment comes before the first command"
    assert text.endswith(f"\n. {SHARED.relative_to(ROOT)}\n")
    timeout = SHARED.read_text().partition("SHUTDOWN_TIMEOUT=")[2].split()[0]
    assert int(timeout) < int(asked["signal"].partition("@")[2])


def short(out: Path) -> list[str]:
    return [*("-c", "a.yaml", "-o", str(out), "-n", "run", "--set", "x=a b")]


ONE = {"SLURM_GPUS_ON_NODE": "1"}
FOUR = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "first,second"}
ARRAY = {**ONE, "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "1"}


def test_one_gpu_is_trained_without_a_launcher_and_several_with(cluster: Cluster) -> None:
    cluster.trainer.write_text("print()")
    assert cluster.start("single_node", *short(cluster.out), "-v", "1", **ONE).wait(PATIENCE) == 0
    assert cluster.noted("started") == [f"python launch/train.py -c a.yaml -o {cluster.out} -n run --set x=a b -v 1"]
    (cluster.bin / "accelerate").write_text('#!/bin/bash\nprintf "%s\\n" "$@" >"$NOTES/launched"\n')
    assert cluster.start("single_node", *short(cluster.out), "-v", "1", **FOUR).wait(PATIENCE) == 0
    launched = cluster.noted("launched")
    assert launched[:5] == [*("launch", "--config_file", "launch/accelerate/multi_gpu.yaml", "--num_processes", "4")]
    assert launched[5:9] == ["--log_dir", f"{cluster.out}/run/1/logs", "--tee", "3"]
    assert launched[9] == "launch/train.py"
    assert "x=a b" in launched


def test_every_machine_gets_its_own_rank_and_the_address_of_the_first(cluster: Cluster) -> None:
    (cluster.bin / "accelerate").write_text('#!/bin/bash\nprintf "%s\\n" "$@" >"$NOTES/node$SLURM_NODEID"\n')
    assert cluster.start("multi_node", *short(cluster.out), "-v", "1", **FOUR).wait(PATIENCE) == 0
    for node in ("0", "1"):
        launched = cluster.noted(f"node{node}")
        told = dict(zip(launched[1:17:2], launched[2:17:2], strict=True))
        assert told == {
            "--config_file": "launch/accelerate/multi_node.yaml",
            "--num_machines": "2",
            "--num_processes": "8",
            "--machine_rank": node,
            "--main_process_ip": "first",
            "--main_process_port": "10007",
            "--log_dir": f"{cluster.out}/run/1/logs/machine_{node}",
            "--tee": "3",
        }
        assert launched[17:] == ["launch/train.py", *short(cluster.out), "-v", "1"]
    assert cluster.noted("started") == ["srun --kill-on-bad-exit=1", "srun --cpus-per-task=1"]


RSYNC = """#!/bin/bash
echo "rsync on ${SLURM_NODEID-0}: $*" >>"$NOTES/copied"
[ -d "${!#}" ] && [ -z "$NO_SPACE" ]
"""


@pytest.mark.parametrize(("script", "machines"), [("single_node", 1), ("multi_node", 2)])
def test_data_are_copied_to_every_machine_and_trained_from_there(cluster: Cluster, script: str, machines: int) -> None:
    (cluster.bin / "accelerate").write_text('#!/bin/bash\nprintf "%s\\n" "$@" >"$NOTES/launched"\n')
    (cluster.bin / "rsync").write_text(RSYNC)
    (cluster.bin / "rsync").chmod(0o755)
    cluster.trainer.write_text("print()")
    env = {**FOUR, "SLURM_NNODES": str(machines), "STAGE": "/shared/my data", "TMPDIR": str(cluster.folder)}
    assert cluster.start(script, *short(cluster.out), "-v", "1", **env, NO_SPACE="1").wait(PATIENCE) == 1
    assert cluster.noted("launched") == []
    assert cluster.start(script, *short(cluster.out), "-v", "1", **env).wait(PATIENCE) == 0
    local = cluster.folder / "my data"
    expected = [f"rsync on {node}: -a /shared/my data/ {local}/" for node in range(machines)]
    assert sorted(cluster.noted("copied")[-machines:]) == expected
    assert cluster.noted("launched")[-2:] == ["--set", f"dataset.root={local}"]


def test_every_task_of_an_array_has_its_seed(cluster: Cluster) -> None:
    cluster.trainer.write_text("print()")
    assert cluster.start("array_seeds", *short(cluster.out), **ARRAY).wait(PATIENCE) == 0
    assert cluster.start("array_seeds", *short(cluster.out), **ARRAY, SEEDS="5 6").wait(PATIENCE) == 0
    assert cluster.start("array_seeds", *short(cluster.out), **ARRAY, SEEDS="5").wait(PATIENCE) != 0
    first, second = cluster.noted("started")
    assert first.endswith("-v 195 -s 195")
    assert second.endswith("-v 6 -s 6")
    assert "has no seed: 5" in (cluster.folder / "log").read_text()


@pytest.mark.parametrize(
    ("script", "signum", "end", "asked"),
    [
        ("single_node", signal.SIGUSR1, "preempted", ["requeue 7"]),
        ("single_node", signal.SIGUSR1, "running", ["requeue 7"]),  # killed before it could say more
        ("single_node", signal.SIGUSR1, "finished", []),
        ("single_node", signal.SIGTERM, "preempted", []),  # cancelled, or SLURM itself will queue it again
        ("single_node", None, "failed", []),
        ("array_seeds", signal.SIGUSR1, "preempted", ["requeue 9_1"]),
    ],
)
def test_only_a_run_that_ran_out_of_time_is_queued_again(
    cluster: Cluster, script: str, signum: int | None, end: str, asked: list[str]
) -> None:
    cluster.trainer.write_text(TRAINER)
    version = [] if script == "array_seeds" else ["-v", "1"]
    job = cluster.start(script, *short(cluster.out), *version, **ARRAY, END=end)
    if signum is not None:
        cluster.wait(job, cluster.folder / "ready")
        job.send_signal(signum)
    assert job.wait(PATIENCE) == {"finished": 0, "failed": 1, "preempted": 143, "running": 137}[end]
    assert cluster.noted("asked") == asked


def test_a_failure_of_an_earlier_job_does_not_come_back_for_ever(cluster: Cluster) -> None:
    """It ends at once with `preempted` still in the folder from the job before."""
    said = cluster.out / "run" / "1" / "state.json"
    said.parent.mkdir(parents=True)
    said.write_text(json.dumps({"state": "preempted"}))
    cluster.trainer.write_text("import sys; sys.exit(2)")
    assert cluster.start("single_node", *short(cluster.out), "-v", "1", **ONE).wait(PATIENCE) == 2
    assert cluster.noted("asked") == []


def test_options_that_train_would_refuse_end_the_job(cluster: Cluster) -> None:
    assert cluster.start("single_node", "-n", "run", **ONE).wait(PATIENCE) == 2
    assert cluster.noted("started") == cluster.noted("asked") == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "machines", "gpus"), [("single_node", 1, 1), ("single_node", 1, 2), ("multi_node", 2, 1)]
)
def test_a_training_runs_out_of_time_is_queued_again_and_finishes(
    cluster: Cluster, script: str, machines: int, gpus: int
) -> None:
    cluster.trainer.write_text(PAUSING)
    ranks = range(machines * gpus)
    env = {
        "SLURM_GPUS_ON_NODE": str(gpus),
        "SLURM_NNODES": str(machines),
        "SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.1",
        "SLURM_JOB_ID": str(next(i for i in range(os.getpid() % 10000, 20000) if not listens(10000 + i))),
        "GLOO_SOCKET_IFNAME": "lo",
        "PAUSED": " ".join(map(str, ranks)),
        "MARKS": str(cluster.folder),
    }
    options = train_args(cluster.out, "trainer.save_every_n_steps=1")[1:]
    job = cluster.start(script, *options, **env)
    for rank in ranks:
        cluster.wait(job, cluster.folder / str(rank))
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE) != 0
    assert (state(cluster.out)["state"], last_step(cluster.out)) == ("preempted", PAUSE + 1)
    assert cluster.noted("asked") == [f"requeue {env['SLURM_JOB_ID']}"]
    if len(ranks) > 1:
        assert cluster.start(script, *options, **env, TRAINER="").wait(PATIENCE) == 0
    else:  # the command that the script would start
        assert call("launch/train.py", *options).returncode == 0
    assert (state(cluster.out)["state"], last_step(cluster.out)) == ("finished", STEPS)
    logs = [*(cluster.out / "run/1/logs").rglob("stdout.log")]
    assert len(logs) == (2 * len(ranks) if len(ranks) > 1 else 0)  # of each start, for each process
    assert not logs or sum("finished" in log.read_text() for log in logs) == 1
    assert cluster.noted("asked") == [f"requeue {env['SLURM_JOB_ID']}"]
