"""Progress of a run: lines off a terminal, a bar on one, and the time that is left."""

import io
import sys

import pytest

from training import progress
from training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_early_then_every_twenty_seconds_and_at_the_end(clock):
    lines = []
    shown = Progress(lines.append, steps=100, done=40, work=60, shows_bar=False)
    for number in range(60):
        clock[0] += 3
        shown.step(lambda n=number: f"step {n}", 1.0, is_last=number == 59)
    assert [line.split("  ")[0] for line in lines][:4] == ["step 1", "step 8", "step 15", "step 22"]
    assert lines[0] == "step 1  0:02:54 left"  # 58 steps of 3 seconds
    assert lines[-1] == "step 59  0:00:00 left"


def test_time_left_knows_of_steps_that_cost_more(clock):
    shown = Progress(lambda line: None, steps=4, done=0, work=2 * 1 + 2 * 10, shows_bar=False)
    clock[0] += 30
    shown.step(lambda: "", 1.0)
    assert shown.left(clock[0]) == "0:10:30"


def test_a_bar_on_a_terminal_and_lines_above_it(monkeypatch, clock):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen, lines = Terminal(), []
    monkeypatch.setattr(sys, "stderr", screen)
    shown = Progress(lines.append, steps=10, done=4, work=6, shows_bar=True)
    clock[0] += 50
    shown.step(lambda: "matting 5/10  loss 0.5000  2.0 images/s", 1.0)
    shown.bar.refresh()
    shown.say("scores")
    shown.close()
    assert "5/10 steps" in screen.getvalue()
    assert "loss 0.5000  2.0 images/s  0:04:10 left" in screen.getvalue()
    assert lines == ["scores"]
    assert Progress(lines.append, 10, 0, 10, shows_bar=False).bar is None
