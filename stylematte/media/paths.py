"""Find the images and clips to process, and name their results."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from stylematte.errors import UsageError
from stylematte.media import pattern
from stylematte.media.formats import REFUSED, REFUSED_SUFFIXES, SUFFIXES, missing_extra
from stylematte.media.sniff import sniff

CLIP_SUFFIXES = frozenset(
    (
        ".mp4 .mov .qt .m4v .f4v .mkv .webm .avi .mxf .mpg .mpeg .m2v .vob .ts .m2ts .mts .wmv .asf .flv "
        ".3gp .3g2 .ogv .y4m .h264 .264 .h265 .hevc .ivf .dv .insv .rm .rmvb .gif .apng .avifs"
    ).split()
)

CLIP_FORMATS = {"prores": ".mov", "webm": ".webm", "mp4": ".mp4", "hevc": ".mp4", "ffv1": ".mkv"}
DEEP_CLIP_FORMATS = ("prores", "hevc", "ffv1")  # support more than 8 bits per channel
OPAQUE_CLIP_FORMATS = ("mp4", "hevc")  # do not support alpha


@dataclass(frozen=True)
class Item:
    """One image or clip to process, and the path of its result.

    Attributes:
        source: The file, or the pattern of an image sequence: `shot.####.png`.
        output: The file, or the folder of frames for a clip that is written as one file per frame.
        is_clip: The item is a clip or an image sequence.
        page: Page of a multi-page file, from 0.
    """

    source: Path
    output: Path
    is_clip: bool = False
    page: int | None = None


@dataclass
class Work:
    """Result of `collect`.

    Attributes:
        items: Images and clips in the order of the inputs; folders sorted by name.
        problems: Paths that look like inputs but cannot be used, each with the reason.
        passed_over: Unsupported files in folders: (kind, what to do) → their number.
    """

    items: list[Item] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: Counter[tuple[str, str]] = field(default_factory=Counter)

    def pass_over_what_needs_more(self, named: Iterable[Path]) -> None:
        """Skip items found in folders that need an extra that is not installed.

        Args:
            named: Inputs given by name: they stay, so that their failure is reported.
        """
        given = set(named)
        kept = []
        for item in self.items:
            lack = None if item.source in given else _lack(item)
            if lack is None:
                kept.append(item)
            else:
                title, extra = lack
                self.passed_over[title, f"pip install 'stylematte[{extra}]' brings what reads them"] += 1
        self.items = kept


def _lack(item: Item) -> tuple[str, str] | None:
    if item.is_clip:
        return ("clip", "video") if find_spec("av") is None else None
    return missing_extra(item.source.suffix.lower())


def collect(inputs: Iterable[Path], out: Path, suffix: str, clip_suffix: str = "") -> Work:
    """Find the images and clips and name their results, before any work starts.

    The result of a file is `out/<stem><suffix>`, that of a page `scan.tif[2]` `out/scan[2]<suffix>`, and that
    of an image sequence `out/<common prefix>`. Folders are searched recursively, symbolic links are followed,
    and the folder structure is mirrored below `out`. Hidden files and folders, and `out` itself, are skipped.

    Args:
        inputs: Files of any name, and folders. A file that does not exist is kept: reading it reports it.
        out: Folder for the results.
        suffix: Suffix of image results, such as `.png`.
        clip_suffix: Suffix of clip results, such as `.mov`; empty if they become folders.

    Raises:
        UsageError: Two images have the same result, a result would replace an image, or `out` is one of
            the folders.
    """
    work = Work()
    for given in inputs:
        if pattern.is_pattern(given):
            work.items.append(Item(given, out / f"{pattern.stem_of(given)}{clip_suffix}", True))
            continue
        if not os.path.isdir(given):
            source, page = split_page(given)
            work.items.append(_item(source, out, suffix, clip_suffix, page))
            continue
        if _is_same(given, out):
            raise UsageError(
                f"{out} is both the input and the output folder", f"For example --out {out / 'mattes'}"
            )
        before = len(work.items)
        for source in walk(given, work.problems, out, SUFFIXES | CLIP_SUFFIXES, work.passed_over):
            work.items.append(_item(source, out / source.relative_to(given).parent, suffix, clip_suffix))
        if len(work.items) == before and not work.passed_over:
            work.problems.append((given, "no images and no clips in this folder"))
    work.items = _without_collisions(work.items)
    return work


def walk(
    folder: Path,
    problems: list[tuple[Path, str]],
    leave_out: Path | None = None,
    suffixes: frozenset[str] = SUFFIXES,
    passed_over: Counter[tuple[str, str]] | None = None,
) -> Iterator[Path]:
    """Yield the images below a folder; those in a folder before those in its subfolders.

    Symbolic links are followed, except loops; hidden files and folders are skipped.

    Args:
        folder: Folder to search.
        problems: Receives images and folders that cannot be used, each with the reason.
        leave_out: A folder to skip.
        suffixes: Suffixes to find, in lower case.
        passed_over: Receives the number of files of each known but unsupported kind.
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
        if identity in above:  # a symbolic link to a parent folder
            continue
        subfolders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = current / entry.name
            is_image = path.suffix.lower() in suffixes
            if not path.suffix and passed_over is not None and os.path.isfile(path):
                is_image = sniff(path) is not None
            # os.path.isdir does not raise: it returns False for what cannot be accessed.
            if os.path.isdir(path):
                if is_image:
                    problems.append((path, "a folder, not an image"))
                if leave_out is None or not _is_same(path, leave_out):
                    subfolders.append((path, above | {identity}))
            elif is_image and (os.path.isfile(path) or not os.path.exists(path)):  # reading reports it
                yield path
            elif is_image:
                problems.append((path, "not a regular file"))
            elif entry.is_symlink() and _is_forbidden(path):  # possibly a folder of images
                problems.append((path, "a link to what cannot be read: Permission denied"))
            elif passed_over is not None and (kind := REFUSED_SUFFIXES.get(path.suffix.lower())):
                passed_over[REFUSED[kind].title, REFUSED[kind].hint] += 1
        stack.extend(reversed(subfolders))


def is_clip_file(path: Path) -> bool:
    """Return whether a file is a clip or an animated image, by its first bytes, else by its suffix."""
    found = sniff(path)
    return path.suffix.lower() in CLIP_SUFFIXES if found is None else found != "photo"


def _is_forbidden(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def is_there(path: Path) -> bool:
    """Return whether a file exists; one that cannot be accessed counts, since reading it reports why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def split_page(path: Path) -> tuple[Path, int | None]:
    """Split `scan.tif[2]` into file and page number, unless a file of that whole name exists."""
    found = re.fullmatch(r"(.+)\[(\d+)\]", path.name)
    if found is None or os.path.exists(path):
        return path, None
    return path.with_name(found[1]), int(found[2])


def _item(source: Path, folder: Path, suffix: str, clip_suffix: str, page: int | None = None) -> Item:
    is_clip = is_clip_file(source)
    stem = source.stem if page is None else f"{source.stem}[{page}]"
    return Item(source, folder / f"{stem}{clip_suffix if is_clip else suffix}", is_clip, page)


def _without_collisions(items: list[Item]) -> list[Item]:
    """Drop duplicate items.

    Raises:
        UsageError: A result would overwrite another result or an input.
    """
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
        # A result may replace an input of the same run, even its own: `matte a.png --out .`
        overwritten = sources.get(os.path.realpath(item.output))
        if overwritten is not None:
            raise UsageError(
                f"the result of {item.source} would replace the image {overwritten}",
                "Choose another folder with --out",
            )
    return kept


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)
    except OSError:  # one of them does not exist yet
        return False
