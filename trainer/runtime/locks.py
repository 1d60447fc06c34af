"""Locks of folders: one process writes there, and the lock dies with it, however it ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite, make_folder, why_not

_LOG = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, instead: str) -> Iterator[None]:
    """Make a folder, and hold its lock in this block; the file of the lock is empty afterwards. Raises as `take_lock`.

    For work that starts no process by fork, whose copy of the lock would outlive this one.
    """
    make_folder(folder)
    descriptor = take_lock(folder, instead)
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def take_lock(folder: Path, instead: str) -> int:
    """Lock a folder; return the descriptor, which holds the lock until it is closed or the process ends.

    instead: what else its user can do, for the message. Raises UserError when another process holds the lock,
    CannotWrite when the disk refuses; a disk without locks gives a warning.
    """
    path = folder / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CannotWrite(why_not(path, error)) from error
    try:
        import fcntl  # POSIX only

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.write(descriptor, json.dumps(owner).encode())
    except BlockingIOError as error:
        owner = _read_owner(descriptor)
        os.close(descriptor)
        raise UserError(
            f"{folder}: another run is writing here: process {owner['pid']} on {owner['host']},"
            f" since {owner['since']}. Wait for it, stop it, or {instead}"
            f"{_if_dead(str(owner['host']), path)}"
        ) from error
    except ImportError:
        _LOG.warning("%s: this system has no file locks; make sure that only one run writes here", folder)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # some network file systems
            _LOG.warning("%s: the disk has no file locks; make sure that only one run writes here", folder)
        else:
            os.close(descriptor)
            raise CannotWrite(why_not(path, error)) from error
    return descriptor


def _if_dead(host: str, path: Path) -> str:
    """Return what to do when the owner is on another machine and cannot release its lock any more."""
    if host in ("?", socket.gethostname()):
        return ""
    return (
        f". If {host} is dead, the file server releases the lock when it notices, often within minutes; once you are"
        f" sure that nothing runs there, deleting {path} does the same"
    )


def _read_owner(descriptor: int) -> dict[str, Any]:
    unknown = {"pid": "?", "host": "?", "since": "?"}
    try:
        return {**unknown, **json.loads(os.pread(descriptor, 4096, 0))}
    except (OSError, ValueError, TypeError):  # taken a moment ago and not signed yet
        return unknown
