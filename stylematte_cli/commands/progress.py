"""How far a run is, on stderr: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

QUIET_SECONDS = 2.0  # a short run needs no progress
SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("stylematte")


def with_progress(results: Iterable[T], total: int, unit: str, quiet: bool) -> Iterator[T]:
    """Pass results on, and say how far we are when it takes more than a moment.

    Args:
        results: One for each piece of work.
        total: How many there will be.
        unit: What one is called, `photo`.
        quiet: Say nothing.
    """
    if quiet:
        yield from results
    elif sys.stderr.isatty():
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        with logging_redirect_tqdm([log]):
            yield from tqdm(results, total=total, unit=unit, delay=QUIET_SECONDS, leave=False)
    else:
        next_line = time.monotonic() + QUIET_SECONDS
        for done, result in enumerate(results, 1):
            yield result
            if time.monotonic() >= next_line:
                log.info("%d of %d %ss", done, total, unit)
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
