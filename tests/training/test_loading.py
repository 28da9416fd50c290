"""Ctrl-C while worker processes start."""

import os
import signal
import subprocess
import sys
import time

import pytest

from training.data.loading import deferred_interrupts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # lets the handler run


def test_an_interrupt_waits_until_the_block_ends():
    reached = []

    def run() -> None:
        with deferred_interrupts():
            interrupt()
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert reached
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_without_an_interrupt_nothing_happens_and_errors_pass():
    with deferred_interrupts():
        pass
    with pytest.raises(ValueError, match="own"), deferred_interrupts():
        raise ValueError("own")


def test_processes_started_inside_never_see_it():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    with deferred_interrupts():
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    outside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert inside.stdout == "alive\n"
    assert outside.stdout == ""
