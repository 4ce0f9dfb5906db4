"""The request to stop: heard once, polled, and the old handlers back afterwards."""

import os
import signal

import pytest

from anystep.guard import Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_flag_and_a_second_one_is_not_caught(number, capfd):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop(1)
        os.kill(os.getpid(), number)
        assert stop(2) and stop(3)
        assert signal.getsignal(number) == before
    assert signal.Signals(number).name in capfd.readouterr().err


def test_handlers_are_given_back_without_a_signal():
    before = signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
