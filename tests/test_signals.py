"""The first signal is a request, the second one an order."""

from __future__ import annotations

import os
import signal

from trainer.signals import Preempted, StopSignals


def test_a_signal_is_noted_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the next one ends the process
    assert signal.getsignal(signal.SIGTERM) == before


def test_preempted_names_the_signal() -> None:
    assert str(Preempted(signal.SIGUSR1)) == "stopped by SIGUSR1"
