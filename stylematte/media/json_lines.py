"""Files of JSON objects, one per line, that stay readable if the writing process is killed."""

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from stylematte.errors import InputError


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file, if it exists; anything else, such as half a line, is skipped.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw.decode("utf-8", "surrogateescape"))
                except ValueError:
                    continue
                if isinstance(line, dict):
                    yield line
    except (FileNotFoundError, NotADirectoryError):  # opening it for writing reports a bad path
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


class JsonLines:
    """Appends to a file of JSON lines; creates its folder.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be created or written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a write that failed on a full disk is not retried later, such as on closing.
            file = path.open("a+b", buffering=0)
            # A killed run may have left half a line.
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        except OSError as error:
            raise InputError(
                f"{error.filename or path}: cannot be written: {error.strerror}",
                "Choose another folder with --out",
            ) from None
        self._file = file

    def append(self, line: Mapping[str, Any]) -> None:
        """Append one object without buffering; thread-safe.

        Raises:
            OSError: The disk is full.
        """
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        with self._lock:
            if self._file is None:
                return
            if self._file.write(text) != len(text):  # only a part fitted on the disk
                self._file.write(b"\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        """Close the file; objects appended afterwards are lost."""
        if self._file is not None:
            self._file.close()
            self._file = None
