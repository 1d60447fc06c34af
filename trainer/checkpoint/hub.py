"""Models on the Hugging Face Hub: what is a name there, and how the checkpoint of that name gets here.

A name has the form `user/name` or `user/name@revision`. Files win: where a folder `user` exists, `user/name` is a path,
and `hf://user/name` says that the Hub is meant. Of a model only its checkpoint is fetched and read; nothing is run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from models_zoo.pretrained import one_line, why_silent
from trainer.runtime.errors import UserError
from trainer.runtime.files import read_file
from trainer.runtime.optional import require
from trainer.runtime.processes import is_first_process

CHECKPOINT, SETTINGS = "model.safetensors", "config.json"  # of a shared folder
LIBRARY = "monodepth"  # `library_name` in SETTINGS, by which a model of this trainer is known

_NAME = re.compile(
    r"(?P<surely>hf:/{1,2})?(?P<user>[A-Za-z0-9][\w.-]*)/(?P<name>[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_FILES = (".safetensors", ".ckpt", ".pth", ".pt", ".tar", ".yaml", ".npz")  # endings of paths, whatever their form
_CACHED = re.compile(r"models--(?P<user>.+?)--(?P<name>.+)")  # a folder of the cache

_CHECK = ". Check the connection, the name and the disk"
_LOGIN = ". Log in with `hf auth login`, or set HF_TOKEN, as a user who may do this"
_FIXES = {401: _LOGIN, 403: _LOGIN, 409: ". Add a version to it with --force, or choose another name"}  # by HTTP status


class HubName(NamedTuple):
    """A model on the Hub; `revision` is a branch, tag or commit, None = the main branch."""

    repo: str  # user/name
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def as_hub_name(path: str | Path) -> HubName | None:
    """Read a text as the name of a model on the Hub; None when it is a path. Raises UserError for a wrong `hf://`."""
    text = os.fspath(path)
    match = _NAME.fullmatch(text)
    if match is None or (not match["surely"] and (text.endswith(_FILES) or os.path.exists(match["user"]))):
        if text.startswith("hf:/"):
            raise UserError(f"{text}: is no name of a model on the Hub. Expected hf://user/name, or with @revision")
        return None
    return HubName(f"{match['user']}/{match['name']}", match["revision"])


def download(name: HubName) -> Path:
    """Fetch the checkpoint of a model of this trainer. Returns the folder that holds CHECKPOINT; see `fetch`.

    Raises UserError as `fetch`, and for a model that this trainer did not write.
    """
    _refuse_others(name, fetch(name, [SETTINGS]) / SETTINGS)
    folder = fetch(name, [SETTINGS, CHECKPOINT])
    if not os.path.isfile(folder / CHECKPOINT):
        raise UserError(
            f"{name}: holds no {CHECKPOINT}, so it is no model of this trainer (`monodepth share` makes one)"
        )
    return folder


def fetch(name: HubName, files: Sequence[str]) -> Path:
    """Fetch files of a model, given by patterns, or find them in the local cache. Returns the folder of its commit.

    Without the network, or with HF_HUB_OFFLINE=1, only the cache is searched. Of several processes on one machine one
    downloads, and the others wait for its file: the client locks it.

    Raises UserError for a model that does not exist or is out of reach.
    """
    hub = require("huggingface_hub", "hub", f"{name}: no such file or folder, and a model on the Hub")
    blocked = "HF_HUB_OFFLINE=1 forbids the network" if hub.constants.HF_HUB_OFFLINE else None
    if not blocked and (silence := why_silent(hub.constants.ENDPOINT)):  # the client alone would retry for a minute
        blocked = f"{hub.constants.ENDPOINT} cannot be reached ({silence})"
    if not is_first_process():  # one bar is enough
        hub.utils.disable_progress_bars()
    with explained(hub, name, blocked):
        options = {"revision": name.revision, "local_files_only": blocked is not None}
        return Path(hub.snapshot_download(name.repo, allow_patterns=list(files), **options))


def place_of(checkpoint: Path) -> tuple[str, str, str] | None:
    """User, name and commit (7 digits) of a checkpoint in the cache of the Hub; None for other files."""
    match = _CACHED.fullmatch(checkpoint.parents[2].name) if len(checkpoint.parents) > 2 else None
    return (match["user"], match["name"], checkpoint.parent.name[:7]) if match else None


@contextmanager
def explained(hub: Any, name: HubName, blocked: str | None = None) -> Iterator[None]:
    """Raise UserError, a sentence with what to do, for what the client `hub` raises in the block."""
    try:
        yield
    except UserError:
        raise
    except hub.errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name}: no such file or folder, and the model of that name on the Hub is not in the cache"
            f" {hub.constants.HF_HUB_CACHE}: {blocked or one_line(error)}. Check the path; or run this once with"
            " internet access, or copy the cache of a machine that has it"
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise UserError(f"{name}: this model on the Hub has no revision {name.revision}. See its branches") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such file or folder, and no such model on the Hub, or a private or gated one. Check the name;"
            " for a private one log in with `hf auth login`, or set HF_TOKEN"
        ) from error
    except hub.errors.HFValidationError as error:
        raise UserError(
            f"{name}: no such file or folder, and no name that the Hub allows: {one_line(error)}"
        ) from error
    except Exception as error:  # of the client, its HTTP library, the disk
        status = getattr(getattr(error, "response", None), "status_code", 0)
        raise UserError(
            f"{name}: the Hub cannot be reached or refuses: {one_line(error)}{_FIXES.get(status, _CHECK)}"
        ) from error


def _refuse_others(name: HubName, settings: Path) -> None:
    """Raise UserError for a model of other code, before its weights are fetched. Without settings nothing is known."""
    if not os.path.isfile(settings):
        return
    try:
        library = json.loads(read_file(settings)).get("library_name")
    except (OSError, ValueError, AttributeError):
        library = None
    if library != LIBRARY:
        raise UserError(
            f"{name}: is a model of other code ({SETTINGS} does not name {LIBRARY}), and only those that `monodepth"
            " share` wrote are read. Download it and try `monodepth convert FOLDER DST.safetensors`"
        )
