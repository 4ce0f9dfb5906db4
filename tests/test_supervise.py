"""launch/supervise.sh with commands that leave as told: which codes it restarts, how long it pauses, what a signal does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "launch" / "supervise.sh")
LEAVE = (
    "import sys, pathlib; count = pathlib.Path(sys.argv[1]); n = int(count.read_text() or 0); "
    "count.write_text(str(n + 1)); sys.exit(int(sys.argv[2 + n]))"
)


def supervise(folder, *codes, **environment):
    """(exit code, how often the command ran, what was said); the command leaves with `codes` in turn."""
    count = folder / "count"
    count.write_text("")
    command = [SCRIPT, sys.executable, "-c", LEAVE, str(count), *map(str, codes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "PAUSE": "0"} | environment)
    return done.returncode, int(count.read_text()), done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 137, 134])
def test_other_codes_end_it(tmp_path, code):
    assert supervise(tmp_path, code)[:2] == (code, 1)


def test_42_and_143_start_again(tmp_path):
    code, ran, said = supervise(tmp_path, 42, 143, 42, 0)
    assert (code, ran) == (0, 4) and said.count("supervise: exit code") == 3


def test_it_gives_up(tmp_path):
    code, ran, said = supervise(tmp_path, 42, 42, 42, 42, MOST="2")
    assert (code, ran) == (42, 3) and "2 restarts, giving up" in said


def test_pauses_double(tmp_path):
    began = time.monotonic()
    _, _, said = supervise(tmp_path, 42, 42, 0, PAUSE="1")
    assert "start 1 in 1 s" in said and "start 2 in 2 s" in said and time.monotonic() - began >= 3


def test_a_signal_reaches_the_command_and_ends_both(tmp_path):
    wait = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([SCRIPT, sys.executable, "-c", wait], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 42 and "start 1" not in said


def test_without_a_command_it_says_how():
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_a_signal_to_the_whole_group_reaches_the_command_once():
    """As systemd, timeout and schedulers send it: a second one would end a run that is saving."""
    count = "import signal, sys, time; n = []; signal.signal(signal.SIGTERM, lambda *_: n.append(1)); print('up', flush=True); "
    count += "end = time.monotonic() + 20\nwhile not n and time.monotonic() < end: time.sleep(0.05)\ntime.sleep(0.5); sys.exit(40 + len(n))"
    command = [SCRIPT, sys.executable, "-c", count]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 41
