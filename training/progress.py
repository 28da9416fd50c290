"""How far a run of training is, and how long it will take: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS_A_LINE = 20.0
SECONDS_TO_FIRST_LINE = 5.0


class Progress:
    """Takes steps as they are done, and lines that others say meanwhile.

    Args:
        report: Takes lines.
        steps: Of the whole run.
        done: Steps done before.
        work: Of the steps that are left, in any unit that time is proportional to.
        shows_bar: Show a bar where stderr is a terminal; lines are said in any case.
    """

    def __init__(
        self, report: Callable[[str], None], steps: int, done: int, work: float, shows_bar: bool
    ) -> None:
        self.report, self.work, self.done_work = report, work, 0.0
        self.began = time.monotonic()
        self.next_line = self.began + SECONDS_TO_FIRST_LINE
        self.bar: tqdm | None = None
        if shows_bar and sys.stderr.isatty():
            bar_format = "{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps  {postfix}"
            self.bar = tqdm(total=steps, initial=done, bar_format=bar_format, leave=False)

    def step(self, text: Callable[[], str], work: float, is_last: bool = False) -> None:
        """Note that a step is done.

        Args:
            text: Makes what is to be said of it: where, loss, images/s.
            work: Of this step.
            is_last: Of its stage, so that it is said whenever it comes.
        """
        self.done_work += work
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"{text()}  {self.left(now)} left", refresh=False)
            self.bar.update()
        if is_last or (self.bar is None and now >= self.next_line):
            self.next_line = now + SECONDS_A_LINE
            self.say(f"{text()}  {self.left(now)} left")

    def left(self, now: float) -> str:
        """Time to the end of the run at the pace so far, hours:minutes:seconds."""
        seconds = (now - self.began) / self.done_work * max(0.0, self.work - self.done_work)
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

    def say(self, line: str) -> None:
        """Say a line, above the bar where there is one."""
        if self.bar is None:
            self.report(line)
            return
        with tqdm.external_write_mode():
            self.report(line)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
