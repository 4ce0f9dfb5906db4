"""The request to stop: heard once, polled, and the old handlers back afterwards. The watchdog: what it waits for, and how it ends."""

import os
import signal
import time

import pytest

from anystep.guard import Stop, Watchdog


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


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_watchdog_knows_three_medians_and_patience_while_busy():
    clock = Clock()
    dog = Watchdog(least=5.0, factor=3.0, most=100.0, clock=clock)
    for _ in range(3):  # the first step compiles, and the host runs two ahead
        assert dog.limit() == 100.0
        dog.beat()
    assert dog.limit() == 100.0  # how long a step takes is not known yet
    for seconds in (2.0, 4.0, 9.0):
        clock.now += seconds
        dog.beat()
    assert dog.limit() == 12.0
    dog.busy()
    assert dog.limit() == 100.0
    for seconds in (0.0, 0.0, 50.0):  # what took long because it was busy is no step
        clock.now += seconds
        assert dog.limit() == 100.0
        dog.beat()
    assert dog.limit() == 12.0
    for _ in range(3):
        clock.now += 0.1
        dog.beat()
    assert dog.limit() == max(5.0, 3 * 1.05)


def test_a_stuck_process_leaves_with_42_and_says_where_it_stood(capfd):
    left = []
    with Watchdog(least=0.2, leave=left.append) as dog:
        for _ in range(4):
            dog.beat()
        last = time.monotonic() + 20
        while not left and time.monotonic() < last:
            time.sleep(0.05)
    said = capfd.readouterr().err
    assert left == [42] and "WATCHDOG: no step ended within" in said and "test_a_stuck_process_leaves" in said


def test_a_living_process_is_left_alone():
    left = []
    with Watchdog(least=0.4, leave=left.append) as dog:
        for _ in range(20):
            time.sleep(0.05)
            dog.beat()
    assert not left
