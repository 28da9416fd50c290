"""What stands behind cut-outs: a colour, or a folder of images of which each cut-out has its own."""

import hashlib
import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.imaging.compose import Color, parse_color
from stylematte.imaging.geometry import convert
from stylematte.media.images import read_image
from stylematte.media.paths import walk


@dataclass(frozen=True)
class Backdrop:
    """A colour or images.

    Attributes:
        text: As given.
        colour: Where there are no images.
        files: Images, sorted.
    """

    text: str
    colour: Color = (128, 128, 128)
    files: tuple[Path, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Backdrop":
        """Read a folder's name, or a colour.

        Raises:
            UsageError: Neither.
            InputError: A folder without images.
        """
        if Path(text).is_dir():
            return cls(text, files=list_images(Path(text)))
        return cls(text, parse_color(text))

    def behind(self, name: str) -> Color | NDArray[Any]:
        """What is behind a cut-out of that name: its name alone says so, not which others there are.

        Returns:
            A colour, or (H, W, 3) uint8 RGB of any size.

        Raises:
            InputError: The image cannot be read.
        """
        if not self.files:
            return self.colour
        return _read(self.files[zlib.crc32(name.encode("utf-8", "surrogateescape")) % len(self.files)])

    def facts(self) -> list[Any]:
        """What tells it from others, for a key: the colour, or the files with their sizes and times."""
        return [identity_of(path, path.parent) for path in self.files] or list(self.colour)

    def sha256(self) -> str:
        """Return a hash of the facts."""
        return hashlib.sha256(json.dumps(self.facts()).encode()).hexdigest()


def list_images(folder: Path, passed_over: Collection[str] = ()) -> tuple[Path, ...]:
    """List the images of a folder and its subfolders, sorted.

    Args:
        folder: Where to look.
        passed_over: Names of subfolders that are not looked into.

    Raises:
        InputError: No folder, no images in it, or what looks like one cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", "Give a folder of images")
    problems: list[tuple[Path, str]] = []
    found = sorted(walk(folder, problems))
    files = tuple(p for p in found if not set(p.relative_to(folder).parts[:-1]) & set(passed_over))
    if problems:
        raise InputError(f"{problems[0][0]}: {problems[0][1]}")
    if not files:
        raise InputError(f"{folder}: no images in it")
    return files


def identity_of(path: Path, folder: Path) -> tuple[str, int, int]:
    """Name below a folder, size and time of change: they stand for what a file holds."""
    status = path.stat()
    return path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _read(path: Path) -> NDArray[np.uint8]:
    return convert(read_image(path).pixels, np.uint8)
