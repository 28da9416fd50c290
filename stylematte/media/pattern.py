"""File name patterns of image sequences: `shot.####.png`, `shot.%04d.exr`."""

import os
import re
from pathlib import Path
from typing import Any

from stylematte.errors import InputError

_PLACE = re.compile(r"#+|%0?(\d*)d")


def is_pattern(path: Path) -> bool:
    """Return whether a name has a number placeholder, `#`, `####`, `%d` or `%04d`, and no file has it."""
    return _PLACE.search(path.name) is not None and not os.path.exists(path)


def stem_of(pattern: Path) -> str:
    """Return the name of a sequence: the part of the file name before the number."""
    before = _PLACE.split(pattern.name)[0].rstrip("._- ")
    return before or pattern.parent.name or "sequence"


def find_frames(pattern: Path) -> list[tuple[int, Path]]:
    """Find the images of a sequence, sorted by number.

    Raises:
        InputError: There are none, or two have the same number.
    """
    place = _PLACE.search(pattern.name)
    assert place is not None
    digits = int(place[1] or 1) if place[0].startswith("%") else len(place[0])
    name = re.compile(
        re.escape(pattern.name[: place.start()])
        + rf"(\d{{{digits},}})"
        + re.escape(pattern.name[place.end() :])
    )
    found: dict[int, Path] = {}
    try:
        for path in sorted(pattern.parent.iterdir()):
            if match := name.fullmatch(path.name):
                if int(match[1]) in found:
                    raise InputError(f"{found[int(match[1])]} and {path}: two frames with the same number")
                found[int(match[1])] = path
    except OSError as error:
        raise InputError(f"{pattern.parent}: cannot be read: {error.strerror}") from None
    if not found:
        raise InputError(f"{pattern}: no such frames", f"{place[0]} stands for at least {digits} digit(s)")
    return sorted(found.items())


def digits_of(pattern: Path, file: Path) -> int:
    """Count the digits of the number in a sequence's file name."""
    place = _PLACE.search(pattern.name)
    assert place is not None
    return len(file.name) - len(pattern.name) + len(place[0])


def fingerprint(pattern: Path) -> dict[str, Any]:
    """Return the identity of a sequence for later runs, from names, sizes and times of change."""
    import hashlib  # here, because it loads OpenSSL, which --help does not need

    digest, size, changed = hashlib.sha256(), 0, 0
    for _, path in find_frames(pattern):
        status = path.stat()
        digest.update(
            f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
        )
        size += status.st_size
        changed = max(changed, status.st_mtime_ns)
    return {"sha256": digest.hexdigest(), "bytes": size, "mtime_ns": changed}
