"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

QUIET_SECONDS = 2.0  # short runs show no progress
SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("stylematte")


def with_progress(results: Iterable[T], total: int | None, unit: str, quiet: bool) -> Iterator[T]:
    """Yield results, and show progress if it takes more than a moment.

    Args:
        results: The results.
        total: Number of results, or None if unknown.
        unit: Name of a result, such as `photo`.
        quiet: Show nothing.
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
                log.info("%d%s %ss", done, "" if total is None else f" of {total}", unit)
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES


def with_frame_progress(
    frames: Generator[tuple[int, int | None], None, T], name: str, quiet: bool, unit: str = "frame"
) -> T:
    """Process a clip to its end, and show progress, speed and remaining time.

    Args:
        frames: Yields after each frame the number of frames done and the total, if known.
        name: Name of the clip.
        quiet: Show nothing.
        unit: Name of a unit.

    Returns:
        The generator's return value.
    """
    bar = None
    if not quiet and sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(desc=name, unit=unit, delay=QUIET_SECONDS, leave=False)
    started = time.monotonic()
    next_line = started + QUIET_SECONDS
    try:
        while True:
            done, total = next(frames)
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)
            elif not quiet and time.monotonic() >= next_line:
                log.info("%s: %s", name, _pace(done, total, time.monotonic() - started, unit))
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        frames.close()
        if bar is not None:
            bar.close()


def _pace(done: int, total: int | None, seconds: float, unit: str) -> str:
    rate = done / max(seconds, 1e-6)
    if total is None:
        return f"{done} {unit}s, {rate:.1f} {unit}s/s"
    if not done:  # everything so far may have been rejected
        return f"0 of {total} {unit}s so far"
    left = max(0, total - done) / rate
    return f"{done} of {total} {unit}s, {rate:.1f} {unit}s/s, {int(left // 60)}:{int(left % 60):02} left"
