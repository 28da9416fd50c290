"""Which pictures to do, and where each result goes."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stylematte_cli.errors import UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})


@dataclass(frozen=True)
class Item:
    """One picture to do: where it is, and where its result goes."""

    source: Path
    output: Path


@dataclass
class Work:
    """What `collect` found.

    Attributes:
        items: In the order of the inputs; folders sorted by name.
        problems: What looked like work and is none, each with the reason.
    """

    items: list[Item] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)


def collect(inputs: Iterable[Path], out: Path, suffix: str) -> Work:
    """Find the pictures and name their results, before any work starts.

    A file goes to `out/<stem><suffix>`. A folder is searched with its subfolders, links followed, and
    mirrored below `out`. Hidden files and folders, and `out` itself, are passed over in folders.

    Args:
        inputs: Files of any name, and folders. A file that does not exist is kept: reading it will say so.
        out: Folder for the results.
        suffix: Of the results, `.png`.

    Raises:
        UsageError: Two pictures have the same result, a result would replace a picture, or `out` is one of
            the folders.
    """
    work = Work()
    for given in inputs:
        if not given.is_dir():
            work.items.append(Item(given, out / f"{given.stem}{suffix}"))
            continue
        if _is_same(given, out):
            raise UsageError(
                f"{out} is both the input and the output folder", f"For example --out {out / 'mattes'}"
            )
        before = len(work.items)
        for source in walk(given, work.problems, leave_out=out):
            relative = source.relative_to(given)
            work.items.append(Item(source, out / relative.parent / f"{relative.stem}{suffix}"))
        if len(work.items) == before:
            work.problems.append((given, "no pictures in this folder"))
    work.items = _without_collisions(work.items)
    return work


def walk(folder: Path, problems: list[tuple[Path, str]], leave_out: Path | None = None) -> Iterator[Path]:
    """Yield the pictures below a folder; those in a folder before those in its subfolders.

    Links are followed, loops of them left; hidden files and folders are passed over.

    Args:
        folder: Where to look.
        problems: Gets what looked like a picture or folder and cannot be used, each with the reason.
        leave_out: A folder that is not entered.
    """
    stack: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while stack:
        current, above = stack.pop()
        try:
            status = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            problems.append((current, f"cannot be read: {error.strerror}"))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link to a folder that it is in
            continue
        subfolders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = current / entry.name
            is_picture = path.suffix.lower() in SUFFIXES
            if path.is_dir():
                if is_picture:
                    problems.append((path, "a folder, not a picture"))
                if leave_out is None or not _is_same(path, leave_out):
                    subfolders.append((path, above | {identity}))
            elif is_picture and (path.is_file() or not path.exists()):  # a broken link is named when read
                yield path
            elif is_picture:
                problems.append((path, "not a regular file"))
        stack.extend(reversed(subfolders))


def _without_collisions(items: list[Item]) -> list[Item]:
    """Drop what was given twice; refuse what would overwrite."""
    by_output: dict[str, Item] = {}
    for item in items:
        other = by_output.setdefault(os.path.abspath(item.output), item)
        if other is not item and os.path.abspath(other.source) != os.path.abspath(item.source):
            raise UsageError(
                f"{other.source} and {item.source} would both become {item.output}",
                "Rename one of them, or do them in two runs with different --out",
            )
    kept = list(by_output.values())
    sources = {os.path.realpath(item.source): item.source for item in kept}
    for item in kept:
        # A result may be a picture of the same run, even its own: `matte a.png --out .`
        overwritten = sources.get(os.path.realpath(item.output))
        if overwritten is not None:
            raise UsageError(
                f"the result of {item.source} would replace the picture {overwritten}",
                "Choose another folder with --out",
            )
    return kept


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)
    except OSError:  # one of them does not exist yet
        return False
