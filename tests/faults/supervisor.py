"""Start a run as a user does, end it at a chosen moment, look at what it left, and start it again."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.account import Start, phase
from tests.faults.processes import VARIABLE, environments, kill, kill_all
from tests.launch.forks import Forked
from tests.world import LAUNCHER, ROOT, environment, train_args
from trainer.checkpoint.safefile import read, read_metadata
from trainer.runtime.errors import UserError
from trainer.runtime.files import clean_stale

PLUGIN = "tests/faults/plugin.py"
PATIENCE = 900  # seconds for one start, far more than any takes
ALONE = 0.5  # seconds that trainers go on without their launcher before they are killed, too

# A network of 0.2 million weights, so that starting and stopping is most of the time; 4 steps an epoch, each saved.
TINY = (
    "dataset={size: [64, 64], supp_idxs: [0], train: {num_items: 8}}",
    "loader.batch_size=2",
    "net={depth: {enc_name: test_efficientnet, dec_name: hrdepth, init_disp: null}, pose: null}",
    "optimizer.group_lr=null",
    "trainer={log_images: false, log_every_n_steps: 1, monitor: loss, save_every_n_steps: 1}",
)
STEPS_PER_EPOCH = 4
Process = subprocess.Popen[bytes] | Forked


@dataclass(frozen=True)
class Kill:
    """When one start is ended, and which of its processes: `all`, `launcher`, or a rank."""

    at: str = ""  # a moment of the plugin, hit exactly ...
    skip: int = 0  # ... after it has passed this often
    line: str = ""  # or a text in the output; both empty: the start
    delay: float = 0.0  # seconds after that
    who: str = "all"


@dataclass
class Supervisor:
    """One run in the folder `out`, started as often as needed with the same command.

    Between starts it holds: the step of `last` never goes back, the next start continues at exactly that step, at no
    moment there is a `last` that cannot be read, no process and no lock is left.
    """

    out: Path
    options: Sequence[str] = ()
    world: int = 1
    forks: bool = False  # each start is a fork, which is soon there, but not found by its environment
    seed: int = 42
    notes: Path | None = None  # where output and moments are kept; None = `out`
    warmup: float = 0.0  # seconds from the start to the first step, of an undisturbed run
    starts: list[Start] = field(default_factory=list)
    saved: int = -1  # the newest step that `last` was seen to hold; -1 before the first

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.token = uuid.uuid4().hex
        self.run = self.out / "run" / "1"
        self.last, self.best = (self.run / "ckpts" / f"{kind}.safetensors" for kind in ("last", "best"))
        self.previous = self.run / "ckpts" / "last.prev.safetensors"
        self._inode: tuple[int, int] | None = None
        self._look()

    def copy(self, out: Path) -> Supervisor:
        """The same run in another folder."""
        shutil.copytree(self.run, out / "run" / "1")
        return Supervisor(out, self.options, self.world, self.forks)

    @property
    def command(self) -> list[str]:
        script, *rest = train_args(self.out, *TINY, *self.options, seed=self.seed)
        launcher = LAUNCHER if self.world == 2 else ()
        return [sys.executable, *launcher, script, "--plugins", PLUGIN, *rest]

    @property
    def state(self) -> dict:
        return json.loads((self.run / "state.json").read_text())

    def begin(self, **faults: str) -> Process:
        """Start the command, with a fault of the plugin if one is told, and return at once."""
        self._trace, self._log = ((self.notes or self.out) / f"{kind}-{self.token}" for kind in ("trace", "log"))
        self._trace.write_text("")
        self._look()
        self._saved_before = self.saved
        told = {f"FAULTS_{name.upper()}": value for name, value in faults.items()}
        told |= {VARIABLE: self.token, "FAULTS_TRACE": str(self._trace), "HF_HOME": str(self.notes or self.out)}
        self._log.write_text("")
        if self.forks:
            return Forked(self.command[1:], environment(**told), self._log)
        with open(self._log, "wb") as log:
            streams = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
            return subprocess.Popen(self.command, cwd=ROOT, env=environment(**told), **streams)

    def finish(self, **faults: str) -> Start:
        """Start the command and wait for its end."""
        return self.end(self.begin(**faults))

    def kill(self, aim: Kill) -> Start:
        """Start the command and kill it where `aim` says. The start is in `starts` even if it ended before that."""
        alone = self.world == 1 or aim.who != "all"
        deed = {"do": "kill", "rank": "0" if aim.who == "all" else aim.who} if alone else {"do": "kill all"}
        faults = {"at": aim.at, "skip": str(aim.skip), **deed} if aim.at else {}
        process = self.begin(**faults)
        if not aim.at and self.wait_for(process, aim.line):
            self._watch_until(process, time.monotonic() + aim.delay, "" if aim.line else "step")
            self._strike(process, aim.who)
        start = self.end(process)
        killed = start.code == -9 if self.world == 1 else start.code != 0
        assert killed, f"{aim} came too late:\n{start.output[-2000:]}"
        return start

    def wait_for(self, process: Process, line: str) -> bool:
        """Wait for a text in the output of the start; False when it ended before."""
        deadline = time.monotonic() + PATIENCE
        while line not in self._log.read_text(errors="replace") and process.poll() is None:
            assert time.monotonic() < deadline, f"never said {line!r}: {self._log.read_text()[-2000:]}"
            self._watch_until(process, time.monotonic() + 0.02)
        return process.poll() is None

    def end(self, process: Process) -> Start:
        """Wait until the command has ended, end what it left, and hold what it left against what must hold."""
        self._watch_until(process, time.monotonic() + PATIENCE)
        if process.poll() is None:
            output = self._log.read_text()
            kill_all(self.token)
            raise AssertionError(f"{self.command} did not end in {PATIENCE} s:\n{output[-3000:]}")
        orphans = len(environments(self.token))
        kill_all(self.token)
        moments, output = self._trace.read_text().splitlines(), self._log.read_text()
        start = Start(process.poll() or 0, output, moments, phase(moments, output), orphans)
        self.starts.append(start)
        if "locked" in moments:  # else it has met somebody else's
            self._expect_no_lock()
        due = max(self._saved_before, 0)
        assert start.began in (None, due), f"continued at {start.began}, saved was {due}"
        self._look()
        return start

    def expect(self, step: int) -> None:
        """Say that the next start must continue at `step`, because files have been changed by hand."""
        self.saved, self._inode = step, self._identity()

    def _expect_no_lock(self) -> None:
        """A process that is just dying has let go of its memory, by which it is found, but not yet of its files."""
        deadline = time.monotonic() + PATIENCE
        while self.is_locked():
            assert time.monotonic() < deadline, "the lock outlived its process"
            time.sleep(0.01)

    def readable_previous(self) -> int | None:
        """Step of the checkpoint before `last`; None when there is none."""
        try:
            return int(read(self.previous)[1]["step"])
        except UserError:
            return None

    def _strike(self, process: Process, who: str) -> None:
        if who == "all":
            kill_all(self.token)
        elif who == "launcher":
            kill(process.pid)
            time.sleep(ALONE)
        else:
            ranks = environments(self.token).items()
            for pid in [pid for pid, variables in ranks if variables.get("RANK") == who]:
                kill(pid)

    def _watch_until(self, process: Process, deadline: float, line: str = "") -> None:
        """Look at `last` until the time comes, the process ends, or the output holds `line`."""
        while process.poll() is None and (left := deadline - time.monotonic()) > 0:
            self._look()
            if line and line in self._log.read_text(errors="replace"):
                return
            time.sleep(min(0.01, left))

    def _look(self) -> None:
        """Read the step of `last` when it is another file than before; it must be there, whole, and not older."""
        identity = self._identity()
        if identity == self._inode:
            return
        assert identity is not None, "`last` was there and is gone"
        step = int(read_metadata(self.last)["step"])
        assert step >= self.saved, f"`last` went back from step {self.saved} to {step}"
        self.saved, self._inode = step, identity

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.last)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def is_locked(self) -> bool:
        """Whether a process holds the folder."""
        if not (self.run / ".lock").exists():
            return False
        with open(self.run / ".lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def assert_same_bytes(ours: Supervisor, theirs: Supervisor) -> None:
    """`best` and `last` of two finished runs are the same, byte for byte, and nothing half-written lies beside them."""
    assert ours.state["state"] == "finished"
    for mine, other in ((ours.last, theirs.last), (ours.best, theirs.best)):
        assert mine.read_bytes() == other.read_bytes(), f"{mine.name} differs"
    assert clean_stale(ours.run / "ckpts") == []


Undisturbed = Callable[..., Supervisor]
Check = Callable[[Supervisor], None]


def seeded(what: str) -> tuple[random.Random, int]:
    """Randomness of a test and its seed: FAULTS_SEED, else one of this day, to be repeated by setting it."""
    seed = int(os.environ.get("FAULTS_SEED") or time.strftime("%Y%m%d"))
    return random.Random(f"{what} {seed}"), seed
