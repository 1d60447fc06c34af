"""Several processes: meeting, joint decisions, lost peers. Importing this file loads no torch."""

from __future__ import annotations

import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
MESSAGE = 1 << 26  # bytes that are sent at a time, or one tensor

COUNTED = {"WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}  # set by launchers: the least value
TASKS = {  # number of tasks that were started together, and by what; SLURM_NTASKS is also set where only one runs
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun or srun",
}


def check_launcher() -> None:
    """Raise UserError for a launcher's variables that make no sense, and for several tasks without a launcher.

    Of SLURM only a step says how many tasks it has: a script of `sbatch` and a shell of `salloc` are one process,
    whatever SLURM_NTASKS is, and the step of an interactive shell has one task.
    """
    environ = os.environ
    for name, least in COUNTED.items():
        value = environ.get(name, str(least))
        if not (value.isascii() and value.isdecimal() and least <= int(value[:9])):
            raise UserError(
                f"the environment variable {name} is {value!r}, not a whole number from {least} on. A launcher"
                f" (accelerate launch, torchrun) sets it; without one, unset {name}"
            )
    for rank, world in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if rank in environ and world in environ and int(environ[rank]) >= int(environ[world]):
            raise UserError(
                f"the environment variable {rank} is {environ[rank]}, but {world} is {environ[world]}: ranks count from"
                " 0. A launcher (accelerate launch, torchrun) sets both; without one, unset them"
            )
    for name, starter in TASKS.items() if "WORLD_SIZE" not in environ else ():
        if environ.get(name, "1") != "1":
            raise UserError(
                f"{starter} has started this {environ[name]} times ({name}), and no launcher tells the processes of"
                " each other: each would train alone and write to the same folder. Start one task per machine and a"
                " launcher in it, as launch/slurm/multi_node.sbatch does, or a single task (srun --ntasks=1). If this"
                f" is the only one, unset {name}"
            )


def check_world(accelerator: Any) -> None:
    """Raise UserError when the launcher started more processes than Accelerate sees.

    Each would otherwise train alone and write the same checkpoint.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"the launcher started {world} processes but Accelerate sees {accelerator.num_processes}: "
            "each would train alone and overwrite the others. Use a file that `monodepth launch-file` "
            "lists (two processes on CPU: cpu_x2), or set ACCELERATE_USE_CPU=true without a GPU."
        )


def check_same_items(accelerator: Any, number: int, name: Callable[[int], str], what: str) -> tuple[int, int]:
    """Return the number of items and a checksum of their names, by which they are known again.

    Raises UserError on every process when they see other items: orders are drawn over the number of items, so that
    processes would otherwise take different steps and wait for ever.
    """
    sums = [zlib.crc32(name(i).encode(errors="surrogatepass")) for i in range(number)]
    brief = number, zlib.crc32(repr(sums).encode())
    briefs = gathered(accelerator, brief)
    other = next((rank for rank, brief in enumerate(briefs) if brief != briefs[0]), None)
    if other is None:
        return brief
    if briefs[other][0] != briefs[0][0]:
        differ = f"process 0 has {briefs[0][0]} items, process {other} has {briefs[other][0]}"
    else:
        theirs = gathered(accelerator, sums)
        first = next(i for i, (one, two) in enumerate(zip(theirs[0], theirs[other], strict=True)) if one != two)
        names = gathered(accelerator, name(first))
        differ = f"item {first} is {names[0]} on process 0 and {names[other]} on process {other}"
    raise UserError(f"{what}: the processes do not see the same data: {differ}. All machines need the same files")


def check_equal(accelerator: Any, value: Any, what: str) -> None:
    """Raise UserError on every process when `value` (plain data) is not the same on all."""
    values = gathered(accelerator, value)
    if any(other != values[0] for other in values):
        shown = "; ".join(f"process {rank}: {v}" for rank, v in enumerate(values))
        raise UserError(f"the processes do not agree on {what} ({shown}). All need the same files and --ckpt-dir")


def gathered(accelerator: Any, value: T) -> list[T]:
    """Return the values (plain data) of all processes, by rank."""
    import torch

    values = [value] * accelerator.num_processes
    if accelerator.num_processes > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def total(accelerator: Any, x: Tensor) -> Tensor:
    """Sum `x` over all processes; every process gets the result."""
    import torch

    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(x)
    return x


def broadcast(tensors: Iterable[Tensor], device: Any) -> None:
    """Copy the values of process 0 into `tensors`, of the same shapes on all processes, in few large messages.

    device: that of the process group; the tensors may be elsewhere.
    """
    import torch

    ordered = sorted(tensors, key=lambda tensor: -tensor.element_size())  # keeps all of them aligned
    starts = accumulate((tensor.nbytes for tensor in ordered), initial=0)
    for _, together in groupby(zip(starts, ordered, strict=False), key=lambda pair: pair[0] // MESSAGE):
        group = [tensor for _, tensor in together]
        sent = torch.cat([t.contiguous().view(-1).view(torch.uint8).to(device) for t in group])
        torch.distributed.broadcast(sent, 0)
        for tensor, part in zip(group, sent.split([tensor.nbytes for tensor in group]), strict=True):
            tensor.copy_(part.view(tensor.dtype).view(tensor.shape))


WATCH_SECONDS = 1.0  # between looks for the launcher
LOST = re.compile(
    r"closed by (?:remote )?peer|connection (?:was likely |was )?(?:reset|refused|closed)|broken pipe|time(?:d |-)?out"
    r"|remote process exit|remoteerror|communicator was aborted|socket (?:is )?closed",
    re.IGNORECASE,
)


def lost_peer(error: BaseException) -> str | None:
    """Return the backend's message in one line when `error` means that a process died or fell silent, else None.

    gloo raises a RuntimeError that names its own source file, NCCL and the store a DistError.
    """
    import torch

    text = str(error)
    is_backend = isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in text.lower()
    )
    if not is_backend or not LOST.search(text):
        return None
    line = next(line for line in text.splitlines() if LOST.search(line))
    said = re.sub(r"^\[[^\]]*/[^\]]*\] *", "", line.strip())  # without the source file
    return said.partition(". This is typically")[0][:200].rstrip(".")


def any_process(accelerator: Any, flag: bool) -> bool:
    """Return whether `flag` is true on any process; also a barrier."""
    import torch

    return bool(total(accelerator, torch.tensor(float(flag), device=accelerator.device)))


@cache
def parent() -> int:
    """Return the id of the process that has started this one, as it was at the first call."""
    return os.getppid()


@contextmanager
def leaving_with_launcher() -> Iterator[None]:
    """End this process when its launcher dies while it waits, in this block, for processes that will never come.

    Once they have met they go on without it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    launcher, met = parent(), threading.Event()

    def watch() -> None:
        while not met.wait(WATCH_SECONDS):
            if os.getppid() != launcher:
                os.write(2, b"error: the launcher has died before the processes met: nothing was done\n")
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()


def is_first_process() -> bool:
    """Return whether this is the main process, before Accelerate exists."""
    return os.environ.get("RANK", "0") == "0"


class FoundByAll(UserError):
    """An error that every process raises at the same time, so one of them prints it."""


@dataclass(frozen=True)
class Processes:
    """This process among those of one evaluation; torch.distributed is initialised when there are several."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """True on the process that prints and writes."""
        return self.rank == 0

    def share(self, batches: Sequence[T]) -> list[T]:
        """Return every world-th of `batches`, starting at the rank."""
        return list(batches[self.rank :: self.world])

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Return the lists of all processes joined, on each of them. Raises UserError when one is gone."""
        if self.world == 1:
            return list(mine)
        from torch import distributed

        parts: list[list[T]] = [[] for _ in range(self.world)]
        with _together():
            distributed.all_gather_object(parts, list(mine))
        return [row for part in parts for row in part]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            from torch import distributed

            with _together():
                distributed.barrier()


@contextmanager
def _together() -> Iterator[None]:
    """Raise UserError when another process is gone: its own message must not be hidden by our traceback."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"another process has ended early; its own message says why ({reason})") from error


ALONE = Processes()
