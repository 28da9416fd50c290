"""A file of JSON objects, one a line, that a killed process leaves readable."""

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
    """Yield the objects of a file, if it is there; what is none, as half a line, is passed over.

    Raises:
        InputError: It cannot be read.
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
    except (FileNotFoundError, NotADirectoryError):  # opening it to write will say so
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


class JsonLines:
    """Appends to such a file; its folder is made.

    Args:
        path: The file.

    Raises:
        InputError: It cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what a full disk did not take is not tried again, at closing say.
            file = path.open("a+b", buffering=0)
            # A run that was killed may have left half a line.
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
        """Append one object and hand it to the operating system; safe from several threads.

        Raises:
            OSError: The disk is full.
        """
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        with self._lock:
            if self._file is None:
                return
            if self._file.write(text) != len(text):  # the disk took a part; the rest will say why not all
                self._file.write(b"\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        """Close the file; what is appended afterwards is lost."""
        if self._file is not None:
            self._file.close()
            self._file = None
