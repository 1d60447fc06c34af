"""The folder of one run: its paths, its lock, its state and hparams."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from trainer.runtime import files, yaml_text
from trainer.runtime.errors import UserError
from trainer.runtime.locks import take_lock

LAST, PREVIOUS, BEST = "last.safetensors", "last.prev.safetensors", "best.safetensors"
STATES = ("running", "preempted", "finished", "failed")
ABSENT = "(absent)"

_NAME = re.compile(r"\w[\w.+=,@-]*")  # \w knows all alphabets; no separators, no leading dot or dash
_HEADING = "# What this run was made of. Edit a copy and pass it as `hparams` to read its checkpoints differently.\n"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """The content of `state.json`, for people and for launchers that cannot see exit codes."""

    state: str  # one of STATES
    epoch: int
    step: int
    time: str  # ISO 8601 with the offset from UTC
    pid: int
    host: str
    learned: str | None = None  # why nothing was learned; None = something was, or nothing is known
    constant_ratio: float | None = None  # AbsRel of `best` over that of a constant depth; None without ground truth


class RunDir:
    """The folder `<ckpt_dir>/<name>/<version>`, used as given.

        with RunDir("models/kitti", "monodepth2", "42") as run:
            run.write_state("running", position)

    Creating the object touches no file. `open` makes the folders and takes the lock, held until `close` or until the
    process dies: nothing has to be removed by hand before a restart. Only the main process (`is_main`) locks and
    writes. Raises UserError for a name or version that cannot name a folder.
    """

    def __init__(self, ckpt_dir: Path | str, name: str, version: str, *, is_main: bool = True):
        for option, value in (("--name", name), ("--version", version)):
            if not _NAME.fullmatch(str(value)) or len(str(value).encode()) > 200:
                raise UserError(
                    f"{option} {value!r} cannot name a folder: use letters, digits and . _ - + = ,"
                    " @ (a letter or digit first, no slash, at most 200 bytes)"
                )
        self.path = Path(ckpt_dir).expanduser() / str(name) / str(version)
        self.ckpts, self.results = self.path / "ckpts", self.path / "results"
        self.capsules = self.path / "capsules"
        self.last_path, self.best_path = self.ckpts / LAST, self.ckpts / BEST
        self.hparams_path, self.state_path = self.path / "hparams.yaml", self.path / "state.json"
        self.is_main = is_main
        self._lock: int | None = None

    def open(self) -> RunDir:
        """Make the folders, take the lock, delete half-written files of a killed process.

        Raises CannotWrite when the folder cannot be made or written to, UserError when another run holds it.
        """
        if self.is_main and self._lock is None:
            for folder in (self.path, self.ckpts, self.results):
                files.make_folder(folder)
            self._lock = take_lock(self.path, "use another --version")
            _held.add(self)
            _forget_in_children()
            for folder in (self.path, self.ckpts, self.results):
                files.clean_stale(folder)
        return self

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDir:
        return self.open()

    def __exit__(self, *error: object) -> None:
        self.close()

    def write_state(
        self, state: str, position: Any, learned: str | None = None, constant_ratio: float | None = None
    ) -> None:
        """Write `state.json` for a `position` with `epoch` and `step`. Raises ValueError for a state not in STATES."""
        if state not in STATES:
            raise ValueError(f"{state!r} is not a state of a run. Known: {', '.join(STATES)}")
        if self.is_main:
            where = _now(), os.getpid(), socket.gethostname()
            now = RunState(state, position.epoch, position.step, *where, learned, constant_ratio)
            files.write_text(self.state_path, json.dumps(vars(now), indent=1) + "\n")

    def read_state(self) -> RunState | None:
        """Read `state.json`; None when it is missing, or unreadable, which must not prevent a restart."""
        try:
            return read_state(self.state_path)
        except UserError as error:
            _LOG.warning("%s", error)
            return None

    @property
    def is_finished(self) -> bool:
        """True when `state.json` says that the run reached its last epoch."""
        state = self.read_state()
        return state is not None and state.state == "finished"

    def write_hparams(self, hparams: Mapping[str, Any], command: Sequence[str] = ()) -> None:
        """Write hparams.yaml: the resolved config and the command line, to be read and edited by hand."""
        if self.is_main:
            data = plain({**hparams, "command": list(command)} if command else hparams)
            files.write_text(self.hparams_path, _HEADING + yaml_text.dump(data))

    def capsule_path(self, step: int, rank: int = 0, micro_batch: int = 0) -> Path:
        """Return the file for batch and weights of a failed step."""
        which = f"_batch_{micro_batch}" if micro_batch else ""
        return self.capsules / f"step_{step:08d}_rank_{rank}{which}.safetensors"


def read_state(path: Path) -> RunState | None:
    """Read a `state.json`; None when it is missing. Raises UserError when it cannot be read."""
    try:
        state = RunState(**json.loads(files.read_file(path)))
        if state.state not in STATES:
            raise ValueError(f"{state.state!r} is no state")
        return state
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is ignored: it cannot be read ({error})") from error


def read_hparams(path: Path | str) -> dict[str, Any]:
    """Read an hparams.yaml. Raises UserError when it is missing, is not YAML or holds no `config`."""
    problems: list[str] = []
    layer = yaml_text.read_file(Path(path), problems)
    if layer is None or problems:
        raise UserError("\n".join(problems))
    hparams: dict[str, Any] = layer.data
    if not isinstance(hparams.get("config"), dict):
        raise UserError(
            f"{path}: has no section `config`. Expected an hparams.yaml as a run writes it; found the keys:"
            f" {', '.join(map(str, hparams))}"
        )
    return hparams


def diff_config(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Compare nested settings: one line "config.loss.disp_smooth.weight: 1 -> 2" per differing key, in order.

    Tuples equal lists, 1 equals 1.0 but not True, NaN equals NaN; lists are compared as a whole.
    """
    before, after = flatten(plain(old)), flatten(plain(new))
    return [
        f"{key}: {shown(before.get(key, ABSENT))} -> {shown(after.get(key, ABSENT))}"
        for key in {**before, **after}
        if key not in before or key not in after or not _same(before[key], after[key])
    ]


def plain(value: Any) -> Any:
    """Copy settings as plain data: dicts with text keys, lists, text, numbers, bools, null; paths become text.

    Raises TypeError for other values.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(f"expected plain data (numbers, text, lists, mappings), got a {type(value).__name__}")


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to {"loss.disp_smooth.weight": 0.001}; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return isinstance(a, bool) == isinstance(b, bool) and (a == b or (a != a and b != b))


def shown(value: Any) -> str:
    """Format a value for `diff_config`."""
    return value if isinstance(value, str) else json.dumps(value)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


_held: weakref.WeakSet[RunDir] = weakref.WeakSet()  # open run folders of this process


@cache
def _forget_in_children() -> None:
    """Close the locks in forked children: a loader worker may outlive a killed trainer."""

    def forget() -> None:
        for run in list(_held):
            run.close()

    os.register_at_fork(after_in_child=forget)  # cannot be undone: once per process
