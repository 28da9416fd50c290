"""Files that appear whole or not at all, their hashes, and the folder for what is kept between runs."""

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
# Signal 0 asks; on Windows it is Ctrl-C, and would end what it asks about.
CAN_ASK_FOR_PROCESSES = os.name != "nt"
PATIENCE_S = 3600  # after which nobody writes an image any more

_counter = itertools.count()


@contextmanager
def writing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Write a file that appears whole or not at all, its folder made where needed.

    Args:
        path: The file.
        shared: Several processes may write it at once, so each has a temporary name of its own; see
            `remove_leftovers`. Otherwise the next writer overwrites what a killed one left.

    Yields:
        The path to write to; it gets its name when the block ends without an error.

    Raises:
        OSError: It cannot be written there.
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
    """Write a file that several processes may write, as `writing` does.

    Raises:
        InputError: It cannot be written there.
    """
    try:
        with writing(path, shared=True) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        hint = "Give the photo a shorter name" if too_long else "Choose another folder with --out"
        raise InputError(f"{path}: cannot be written: {error.strerror}", hint) from None


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text that one process writes, as `writing` does."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path, may_link: bool = False) -> None:
    """Let a file stand in another folder, too, whole or not at all.

    Args:
        source: The file.
        target: The other place; its folder is made where needed.
        may_link: The same file where the file system allows it: nobody is going to edit it there.

    Raises:
        InputError: It cannot be written there.
    """
    temporary = temporary_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (may_link and _is_linked(source, temporary)):
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)  # of two links to one file this leaves the first
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Name a file beside `path` to write to before it gets its name."""
    # Short, so that a name of the longest allowed length still works; the number of the process tells
    # `remove_leftovers` whether the writer is alive.
    return path.with_name(f".{os.getpid()}-{next(_counter)}{TEMPORARY}")


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete temporary files of processes that were killed while writing."""
    for folder in folders:
        for path in folder.glob(f".*{TEMPORARY}"):
            process = path.name[1:].partition("-")[0]
            if process.isdecimal() and not _is_written(path, int(process)):
                path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    import hashlib  # loads OpenSSL, and no help needs it

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where weights of one's own lie: $STYLEMATTE_HOME, else stylematte/ in the user's cache folder."""
    home = os.environ.get("STYLEMATTE_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stylematte"


def _is_linked(source: Path, target: Path) -> bool:
    """Make a second name of a file, if it can be had."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def _is_written(path: Path, process: int) -> bool:
    """Whether a process still writes a file."""
    try:
        if not CAN_ASK_FOR_PROCESSES:
            return time.time() - path.stat().st_mtime < PATIENCE_S
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or the file has its name
        return True
    return True
