"""Progress and remaining time of training: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS_PER_LINE = 20.0
SECONDS_TO_FIRST_LINE = 5.0


class Progress:
    """Shows finished steps, and prints lines without disturbing the bar.

    Args:
        report: Called with each line.
        steps: Steps of the whole run.
        done: Steps that are already done.
        work: Work of the remaining steps, in any unit proportional to time.
        shows_bar: Show a bar if stderr is a terminal; lines are always printed.
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
        """Record a finished step.

        Args:
            text: Returns the text for the step: position, loss, images/s.
            work: Work of this step.
            is_last: Whether it is the last of its stage, which is always printed.
        """
        self.done_work += work
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"{text()}  {self.left(now)} left", refresh=False)
            self.bar.update()
        if is_last or (self.bar is None and now >= self.next_line):
            self.next_line = now + SECONDS_PER_LINE
            self.say(f"{text()}  {self.left(now)} left")

    def left(self, now: float) -> str:
        """Return the estimated remaining time, hours:minutes:seconds."""
        seconds = (now - self.began) / self.done_work * max(0.0, self.work - self.done_work)
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.bar is None:
            self.report(line)
            return
        with tqdm.external_write_mode():
            self.report(line)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
