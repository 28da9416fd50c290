"""Atomic file writes, file hashes, and the cache folder."""

import errno
import itertools
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stylematte.errors import InputError

TEMPORARY = ".stylematte-part"
# Signal 0 only tests whether a process exists; on Windows it is Ctrl-C and would end the process.
CAN_ASK_FOR_PROCESSES = os.name != "nt"
PATIENCE_S = 3600  # age at which a temporary file is considered abandoned

_counter = itertools.count()


@contextmanager
def writing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Write a file atomically; create its folder if needed.

    Args:
        path: The file.
        shared: Several processes may write the file in parallel, so each uses its own temporary name; see
            `remove_leftovers`. Otherwise the next writer overwrites what a killed one left.

    Yields:
        A temporary path to write to; it is renamed to `path` if the block ends without an error.

    Raises:
        OSError: The file cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path) if shared else path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; several processes may write it in parallel.

    Raises:
        InputError: The file cannot be written there.
    """
    try:
        with writing(path, shared=True) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        hint = "Give the photo a shorter name" if too_long else "Choose another folder with --out"
        raise InputError(f"{path}: cannot be written: {error.strerror}", hint) from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; only one process may write it."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path, may_link: bool = False) -> None:
    """Copy a file atomically.

    Args:
        source: The file.
        target: The copy; its folder is created if needed.
        may_link: Make a hard link if the file system allows it, for a copy that is never edited.

    Raises:
        InputError: The copy cannot be written there.
    """
    temporary = temporary_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (may_link and _is_linked(source, temporary)):
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)  # has no effect if both link to the same file
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return a temporary name beside `path`, to write to before renaming."""
    # Short, so that a `path` of the maximum name length works too. The process id lets `remove_leftovers`
    # check whether the writer is alive.
    return path.with_name(f".{os.getpid()}-{next(_counter)}{TEMPORARY}")


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete temporary files of processes that were killed while writing."""
    for folder in folders:
        for path in folder.glob(f".*{TEMPORARY}"):
            process = path.name[1:].partition("-")[0]
            if process.isdecimal() and not _is_written(path, int(process)):
                path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex; the file is read in chunks."""
    import hashlib  # loads OpenSSL, which --help does not need

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the user's weights folder: $STYLEMATTE_HOME, or stylematte/ in the user's cache folder."""
    home = os.environ.get("STYLEMATTE_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stylematte"


def _is_linked(source: Path, target: Path) -> bool:
    """Make a hard link; return whether the file system allowed it."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def _is_written(path: Path, process: int) -> bool:
    """Return whether a process is still writing a file."""
    try:
        if not CAN_ASK_FOR_PROCESSES:
            return time.time() - path.stat().st_mtime < PATIENCE_S
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or the file already has its final name
        return True
    return True
