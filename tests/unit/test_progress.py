from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios

PROGRAM = """
import time
from torchkiln.progress import labelled, waiting
with labelled("cpu"), waiting("doing it"):
    time.sleep(1.5)
print("the result")
"""


def test_on_a_terminal_a_step_shows_how_long_it_takes_and_leaves_no_trace() -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs, check=True
    )

    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert shown.startswith("[cpu] doing it\r\n")
    assert "[cpu] 00:01" in shown
    assert "" == shown.rpartition("\r")[2]
    assert b"the result\n" == done.stdout


def test_without_a_terminal_only_the_step_is_said() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)

    assert b"[cpu] doing it\n" == done.stderr
