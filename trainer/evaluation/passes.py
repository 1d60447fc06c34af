"""Passes over a data set that are kept one by one, so that a command of many passes continues where it was stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, read_file, write_text

Scores = dict[str, float]  # of one pass
_FIX = "Delete it to start anew"


class Passes:
    """The scores of finished passes by name, in a JSON file that is replaced as a whole after each.

    Args:
        path: of the file, which need not exist.
        identity: plain data that the scores depend on. A file of another identity is not used: a line on stderr names
            what has changed.

    Raises UserError for another kind of file.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path = path
        self._identity = json.loads(json.dumps(identity, default=str))
        theirs, held = self._read()
        changed = [key for key in {**theirs, **self._identity} if theirs.get(key) != self._identity.get(key)]
        if held and changed:
            print(f"{path}: {', '.join(changed)} changed since; all passes start anew", file=sys.stderr)
        self.done: dict[str, Scores] = {} if changed else held

    def add(self, name: str, scores: Scores) -> None:
        """Keep the scores of a pass, beside those that another command has added meanwhile.

        Raises CannotWrite, a UserError, when the disk refuses.
        """
        theirs, held = self._read()
        self.done = {**(held if theirs == self._identity else {}), **self.done, name: scores}
        make_folder(self.path.parent)
        write_text(self.path, json.dumps({"identity": self._identity, "passes": self.done}, indent=1) + "\n")

    def _read(self) -> tuple[dict[str, Any], dict[str, Scores]]:
        """Return identity and passes in the file, empty without one."""
        try:
            held = json.loads(read_file(self.path))
            return dict(held["identity"]), {str(name): dict(scores) for name, scores in held["passes"].items()}
        except FileNotFoundError:
            return {}, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.path}: is no file of finished passes ({reason}). {_FIX}") from error
