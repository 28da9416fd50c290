"""Backgrounds of cut-outs: a colour, or a folder of images from which each cut-out gets one."""

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
    """A background colour or background images.

    Attributes:
        text: The user's text.
        colour: Colour, used if there are no images.
        files: Images, sorted.
    """

    text: str
    colour: Color = (128, 128, 128)
    files: tuple[Path, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Backdrop":
        """Parse a folder's path or a colour.

        Raises:
            UsageError: The text is neither.
            InputError: The folder contains no images.
        """
        if Path(text).is_dir():
            return cls(text, files=list_images(Path(text)))
        return cls(text, parse_color(text))

    def behind(self, name: str) -> Color | NDArray[Any]:
        """Return the background for a cut-out; it depends only on the cut-out's name, not on the others.

        Returns:
            A colour, or (H, W, 3) uint8 RGB of any size.

        Raises:
            InputError: The image cannot be read.
        """
        if not self.files:
            return self.colour
        return _read(self.files[zlib.crc32(name.encode("utf-8", "surrogateescape")) % len(self.files)])

    def facts(self) -> list[Any]:
        """Return what identifies the background: the colour, or the files with sizes and times of change."""
        return [identity_of(path, path.parent) for path in self.files] or list(self.colour)

    def sha256(self) -> str:
        """Return a hash of the facts."""
        return hashlib.sha256(json.dumps(self.facts()).encode()).hexdigest()


def list_images(folder: Path, passed_over: Collection[str] = ()) -> tuple[Path, ...]:
    """List the images of a folder and its subfolders, sorted.

    Args:
        folder: Folder to search.
        passed_over: Names of subfolders to skip.

    Raises:
        InputError: The folder does not exist, has no images, or has one that cannot be used.
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
    """Return a file's path relative to a folder, size and time of change, which identify its content."""
    status = path.stat()
    return path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _read(path: Path) -> NDArray[np.uint8]:
    return convert(read_image(path).pixels, np.uint8)
