"""Files that are read only when they are files, and replaced as a whole or not at all: staged, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from trainer.runtime.errors import UserError

_FIXES = {
    errno.ENOSPC: "Free some space or choose another folder",
    errno.EDQUOT: "Your quota is used up: delete something or choose another folder",
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f unlimited`) or choose another folder",
    errno.ENOENT: "Its folder was deleted or moved while it was in use: put it back, or start the command again",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder where you may write"),
}
_STAGED = re.compile(r"\..+\.tmp-(\d+)")


def open_file(path: str | Path) -> BufferedReader:
    """Open a file to read bytes. Raises OSError, at once, for a pipe or device, which would block or never end."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # no such flag on Windows

    try:
        file = open(path, "rb", opener=without_waiting)  # noqa: SIM115
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "A pipe or device, not a file", str(path))
    return file


def read_file(path: str | Path) -> bytes:
    """Read all bytes of a file. Raises OSError as `open_file`."""
    with open_file(path) as file:
        return file.read()


def sha256(path: str | Path) -> str:
    """Return the checksum of a file. Raises OSError as `open_file`."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class CannotWrite(UserError):
    """The disk refused; the message gives the reason and the free space, and says that an old file is untouched."""


@contextmanager
def replacing(path: Path, keep_previous: Path | None = None) -> Iterator[Path]:
    """Yield a file beside `path` to write to; it replaces `path` when the block succeeds, else it is removed.

    The old file gets the name `keep_previous`, if given, in place of any file of that name. Raises CannotWrite for
    every OSError in the block and leaves `path` untouched.
    """
    staged = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield staged
        if keep_previous is not None and os.path.exists(path):
            _keep(path, keep_previous)
        os.replace(staged, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = ". The file that was there before is untouched" if os.path.exists(path) else ""
        raise CannotWrite(why_not(path, error) + kept) from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` to fill; its files replace those in `folder` when the block succeeds.

    Other files in `folder` stay. Raises CannotWrite for every OSError in the block; nothing is changed then, unless the
    disk refuses one of several files that are there already.
    """
    staged = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        make_folder(staged)
        yield staged
        if os.path.isdir(folder):
            for path in staged.iterdir():
                os.replace(path, folder / path.name)
        else:
            os.replace(staged, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise CannotWrite(why_not(folder, error)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file. Raises CannotWrite and leaves the old file untouched."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Replace a file. Raises CannotWrite and leaves the old file untouched."""
    with replacing(path) as staged, open(staged, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def clean_stale(folder: Path) -> list[Path]:
    """Delete and return the staged files in `folder` of processes that have died."""
    stale = []
    for path in folder.glob(".*.tmp-*"):
        match = _STAGED.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            with suppress(OSError):
                path.unlink(missing_ok=True)
                stale.append(path)
    return stale


def make_folder(folder: Path) -> None:
    """Make a folder and its parents. Raises CannotWrite, naming a file that is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next((p for p in (folder, *folder.parents) if os.path.isfile(p)), folder)
        raise CannotWrite(f"{file}: is a file, but a folder is needed there. Move it or choose another path") from error
    except OSError as error:
        raise CannotWrite(why_not(folder, error, "made")) from error


def require_space(folder: Path, num_bytes: int, purpose: str) -> None:
    """Raise CannotWrite when the disk of `folder` has less than `num_bytes` free for `purpose`, a plural."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CannotWrite(why_not(folder, error)) from error
    if free < num_bytes:
        raise CannotWrite(
            f"{folder}: {purpose} need {num_bytes / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free there."
            " Free some space or choose another folder"
        )


def why_not(path: Path, error: OSError, doing: str = "written") -> str:
    """Return a sentence on why `path` cannot be written and what to do about it."""
    fix = _FIXES.get(error.errno or 0, "Check the disk or choose another folder")
    return f"{path}: cannot be {doing}: {error.strerror or error}{_free(path)}. {fix}"


def _free(path: Path) -> str:
    """Return the free space where `path` is or would be, in brackets."""
    for folder in path.parents:
        with suppress(OSError):
            return f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free there)"
    return ""


def _keep(path: Path, previous: Path) -> None:
    """Give the file a second name, so that it survives the replacement and `path` never goes missing."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError as error:  # a file system without hard links: for a moment there is only `previous`
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.replace(path, previous)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; some network file systems refuse."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        with suppress(PermissionError):  # somebody else's process
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True
