"""What ran out is said in one sentence, whatever words torch has for it."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from trainer.commands.cli import guarded
from trainer.runtime.errors import UserError, exhausted

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 GiB is free."
WORKER = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.cuda.OutOfMemoryError(CUDA), "the memory of the device is used up (tried to allocate 2.00 GiB)"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "the memory of the device is used up. Lower"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "process 7, was killed (Killed), most",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "7, 8, was killed, most likely for want"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is ..."),
            "memory (/dev/shm, small",
        ),
        (RuntimeError("DataLoader timed out after 5.0 seconds"), "no batch within loader.timeout: 5 seconds"),
        (RuntimeError(f"{WORKER}unable to allocate shared memory(shm) for file </torch_1>"), "shared memory, /dev/shm"),
        (RuntimeError(f"{WORKER}DefaultCPUAllocator: can't allocate memory"), "data loader ran out of memory. Lower"),
        (OSError(errno.ESTALE, "Stale file handle", "/nfs/x"), "/nfs/x: the disk refuses: Stale file handle"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (RuntimeError(f"{WORKER}KeyError: 'x'"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), None),
    ],
)
def test_what_ran_out_is_known_by_its_words(error: Exception, told: str | None) -> None:
    known = exhausted(error)
    assert (known is None) == (told is None)
    if told:
        assert told in str(known)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**16)])
def test_the_words_of_this_version_of_torch_and_numpy(capsys: pytest.CaptureFixture[str], allocate) -> None:
    assert guarded(allocate)() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the memory of this machine is used up (")
    assert "Lower the batch size" in line


@pytest.mark.parametrize(
    ("error", "code", "told"), [(KeyboardInterrupt(), 130, "stopped"), (UserError("x"), 2, "error: x")]
)
def test_every_command_ends_in_one_line(capsys: pytest.CaptureFixture[str], error, code: int, told: str) -> None:
    def main() -> int:
        raise error

    assert guarded(main)() == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told)
