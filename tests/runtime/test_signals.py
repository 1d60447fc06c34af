"""The first signal is a request, the second one ends the process."""

from __future__ import annotations

import os
import signal

import pytest

from tests.world import command
from trainer.runtime.signals import Preempted, StopSignals

IGNORED = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"


def test_a_signal_is_noted_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # delivered twice within moments: still one request
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_impatient_second_signal_ends_the_process() -> None:
    code = (
        "import os, signal, trainer.runtime.signals as s; s.PATIENCE = 0.0\n"
        "with s.StopSignals():\n"
        "    for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here')"
    )
    done = command("-c", code)
    assert done.returncode == -signal.SIGTERM
    assert "still here" not in done.stdout


HELD = (
    "import os, signal, trainer.runtime.signals as s\n"
    "with s.StopSignals() as signals:\n"
    "    os.kill(os.getpid(), signal.SIGHUP)\n"
    "    print(signals.received and int(signals.received))"
)


@pytest.mark.parametrize(
    ("before", "env", "noted"),
    [
        ("", {}, signal.SIGHUP),
        (IGNORED, {}, None),  # as nohup does
        (IGNORED, {"TORCHELASTIC_RUN_ID": "none"}, signal.SIGHUP),  # from its launcher, which kills next
    ],
)
def test_a_closed_terminal_is_a_request_unless_it_is_ignored(
    before: str, env: dict[str, str], noted: int | None
) -> None:
    assert command("-c", before + HELD, **env).stdout == f"{noted and int(noted)}\n"


def test_preempted_names_the_signal() -> None:
    assert str(Preempted(signal.SIGUSR1)) == "stopped by SIGUSR1"


INTERRUPTED = """
import os, signal, sys, threading, time, trainer.runtime.signals as s
s.BETWEEN_KEYS = 0.0
try:
    with s.StopSignals("saving"):
        os.kill(os.getpid(), signal.SIGINT)
        for thread in threading.enumerate()[1:]: thread.join()
        print("working on", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit("at once")
"""


def test_ctrl_c_is_answered_and_a_second_one_interrupts() -> None:
    done = command("-c", INTERRUPTED)
    assert (done.stdout, done.stderr) == ("working on\n", "saving\nat once\n")


def test_ctrl_c_twice_within_moments_is_one_request() -> None:
    """A shell, a launcher or a scheduler may deliver it twice."""
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signals.received == signal.SIGINT
