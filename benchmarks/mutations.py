"""Feed damaged files to the reader: does it crash, hang, or return an image that is cut short?

    python benchmarks/mutations.py --files 20000 --out benchmarks/results/mutations.json

Intact images of nine kinds and three sizes are generated. Each file is then changed by bit flips, a cut, a
block of zeros, an insertion or the head of another file, and read in a child process. File `i` is the same
in every run. Failures are: `crash` (the child died, twice), `hang` (over 10 s of CPU time, or 5 minutes
without a message, twice), `traceback` (an exception that is not an error message for users), `short` (read
without an error, but the last 2 % of the rows have no detail; zeros in an uncompressed file are valid). All
other files were read, or rejected with an error. The exit code is 1 if there are failures.
"""

import argparse
import faulthandler
import json
import multiprocessing
import os
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.errors import StyleMatteError
from stylematte.media import vips
from stylematte.media.decode import decode_image

HANG_SECONDS = 10
STANDSTILL_SECONDS = 300  # a busy machine may starve a child
SIZES = ((300, 400), (900, 1200), (2400, 3300))  # 0.1, 1 and 8 megapixels
SHARES = (0.9, 0.08, 0.02)  # of the files, by size: most damage does not depend on the size
SHORT_SHARE = 0.02  # of the rows, at the end
BAD = ("crash", "hang", "traceback", "short")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg baseline": ("jpegsave_buffer", {"Q": 90}),
    "jpeg progressive": ("jpegsave_buffer", {"Q": 90, "interlace": True}),
    "png 16 bits": ("pngsave_buffer", {"compression": 1}),
    "png interlaced": ("pngsave_buffer", {"interlace": True, "compression": 1}),
    "webp": ("webpsave_buffer", {"Q": 90, "effort": 0}),
    "tiff strips": ("tiffsave_buffer", {"compression": "deflate", "predictor": "horizontal"}),
    "tiff tiles": ("tiffsave_buffer", {"compression": "lzw", "tile": True}),
    "bigtiff": ("tiffsave_buffer", {"bigtiff": True}),
    "avif": ("heifsave_buffer", {"compression": "av1", "Q": 70, "effort": 0}),
}


def drawn(size: tuple[int, int], is_deep: bool) -> NDArray[Any]:
    """Return an image with detail in every row."""
    rng = np.random.default_rng(size[0])
    waves = cv2.resize(
        rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC
    )
    noisy = np.clip(waves + rng.normal(0, 8, waves.shape), 0, 255)
    return (noisy * 257).astype(np.uint16) if is_deep else noisy.astype(np.uint8)


def originals() -> dict[str, list[bytes]]:
    """Encode every kind in every size."""
    result: dict[str, list[bytes]] = {}
    for kind, (saver, options) in KINDS.items():
        images = [vips.image_of(drawn(size, "16" in kind)) for size in SIZES]
        result[kind] = [bytes(getattr(image, saver)(**options)) for image in images]
    return result


def mutated(number: int, sound: dict[str, list[bytes]]) -> tuple[str, str, bytes]:
    """Return the kind of file `number`, the change made to it, and its bytes."""
    rng = np.random.default_rng([7, number])
    kind = list(KINDS)[number % len(KINDS)]
    data = bytearray(sound[kind][rng.choice(len(SIZES), p=SHARES)])
    change = ("flips", "head flips", "cut", "hole", "insertion", "head")[rng.integers(6)]
    at = int(rng.integers(len(data)))
    if change in ("flips", "head flips"):
        last = len(data) if change == "flips" else min(600, len(data))
        for place in rng.integers(0, last, rng.integers(1, 9)):
            data[place] ^= 1 << rng.integers(8)
    elif change == "cut":
        del data[at:]
    elif change == "hole":
        length = min(int(rng.integers(16, 20000)), len(data) - at)
        data[at : at + length] = bytes(length)
    elif change == "insertion":
        data[at:at] = rng.bytes(int(rng.integers(1, 2000)))
    else:
        other = sound[list(KINDS)[rng.integers(len(KINDS))]][0]
        length = int(rng.integers(8, 1000))
        data[:length] = other[:length]
    return kind, change, bytes(data)


def outcome_of(data: bytes, kind: str, change: str) -> str:
    """Read a file, and classify the result."""
    try:
        photo = decode_image(data, "x")
    except StyleMatteError:
        return "refused"
    except Exception as error:
        return f"traceback {type(error).__name__}: {error}"
    if (kind, change) == ("bigtiff", "hole"):
        return "read"
    grey = photo.pixels.astype(np.float32).mean(axis=2)
    plain = grey.std(axis=1) < 0.5
    return "short" if plain[-max(1, round(SHORT_SHARE * len(plain))) :].all() else "read"


def child(first: int, last: int, sound: dict[str, list[bytes]], pipe: Connection) -> None:
    """Read files `first` to `last` - 1; send a message before and after each."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in range(first, last):
        kind, change, data = mutated(number, sound)
        pipe.send((number, kind, change, None))
        pipe.send((number, kind, change, outcome_of(data, kind, change)))
    pipe.send(None)


def run(
    first: int, last: int, sound: dict[str, list[bytes]]
) -> tuple[Counter[tuple[str, str, str]], list[dict[str, Any]], float]:
    """Read all files; a child that dies or hangs is replaced by one that continues after the file."""
    counts: Counter[tuple[str, str, str]] = Counter()
    bad: list[dict[str, Any]] = []
    slowest, number = 0.0, first - 1
    again: set[int] = set()
    context = multiprocessing.get_context("spawn")  # libvips has threads, which do not survive a fork
    while number + 1 < last:
        pipe, end = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(number + 1, last, sound, end))
        process.start()
        end.close()
        begun, kind, change, is_reading = time.monotonic(), "", "", False
        while True:
            outcome = None
            try:
                if not _answers(pipe, process):
                    outcome = "hang"
                elif (message := pipe.recv()) is None:
                    number = last
                    break
                else:
                    number, kind, change, outcome = message
            except EOFError:
                outcome = "crash"
            if outcome is None:
                begun, is_reading = time.monotonic(), True
                continue
            if outcome in ("hang", "crash") and not (is_reading and number in again):
                again.add(number)  # retry once: a busy machine may have starved the child
                number -= is_reading
                break
            is_reading = False
            slowest = max(slowest, time.monotonic() - begun)
            word = outcome.partition(" ")[0]
            counts[kind, change, word] += 1
            if word in BAD:
                bad.append({"number": number, "kind": kind, "change": change, "outcome": outcome})
            if word in ("hang", "crash"):
                break
        process.kill()
        process.join()
    return counts, bad, slowest


def _answers(pipe: Connection, process: Any) -> bool:
    """Wait for a child's message; False if it worked too long on one file, or stalled."""
    begun, worked = time.monotonic(), _processor_seconds(process.pid)
    while not pipe.poll(1):
        if _processor_seconds(process.pid) - worked > HANG_SECONDS:
            return False
        if time.monotonic() - begun > STANDSTILL_SECONDS:
            return False
    return True


def _processor_seconds(process: int) -> float:
    """Return the CPU time that a process has used so far, as Linux reports it."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:  # the process has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    started = time.monotonic()
    counts, bad, slowest = run(options.first, options.first + options.files, originals())
    totals: Counter[str] = Counter()
    for (_, _, word), count in counts.items():
        totals[word] += count
    result = {
        "files": sum(totals.values()),
        "first": options.first,
        "outcomes": dict(totals),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.monotonic() - started, 1),
        "by_kind": {
            kind: {
                word: sum(n for (k, _, w), n in counts.items() if (k, w) == (kind, word)) for word in totals
            }
            for kind in KINDS
        },
        "bad": bad,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if any(totals[word] for word in BAD) else 0


if __name__ == "__main__":
    raise SystemExit(main())
