"""Shared by the tests of files and folders: an operating system that refuses, and a child process."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, int], None]:
    """Let a call raise an OSError: refuse(owner, name, errno)."""

    def patch(owner: Any, name: str, number: int) -> None:
        def call(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(owner, name, call)

    return patch


def forked(work: Callable[[], object]) -> BaseProcess:
    """Start `work` in a copy of this process."""
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of the threads of libraries
        process.start()
    return process
