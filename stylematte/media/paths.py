"""Which images to do, and where each result goes."""

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
DEEP_CLIP_FORMATS = ("prores", "hevc", "ffv1")  # hold more than 8 bits
OPAQUE_CLIP_FORMATS = ("mp4", "hevc")  # hold no alpha


@dataclass(frozen=True)
class Item:
    """One image or clip to do: where it is, and where its result goes.

    Attributes:
        source: The file, or for a sequence of images its pattern: `shot.####.png`.
        output: The file, or for a clip that becomes one file a frame the folder of these.
        is_clip: A clip or a sequence of images.
        page: Of a file with several pages, from 0.
    """

    source: Path
    output: Path
    is_clip: bool = False
    page: int | None = None


@dataclass
class Work:
    """What `collect` found.

    Attributes:
        items: In the order of the inputs; folders sorted by name.
        problems: What looked like work and is none, each with the reason.
        passed_over: In folders, files of kinds that are not read here: (kind, what to do) to their number.
    """

    items: list[Item] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: Counter[tuple[str, str]] = field(default_factory=Counter)

    def pass_over_what_needs_more(self, named: Iterable[Path]) -> None:
        """Take out of the items of folders what needs an extra that is not installed.

        Args:
            named: What was given by name: it stays, to be named when it fails.
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

    A file goes to `out/<stem><suffix>`, its page `scan.tif[2]` to `out/scan[2]<suffix>`, a sequence of
    images to `out/<what its names begin with>`. A folder is searched with its subfolders, links followed,
    and mirrored below `out`. Hidden files and folders, and `out` itself, are passed over in folders.

    Args:
        inputs: Files of any name, and folders. A file that does not exist is kept: reading it will say so.
        out: Folder for the results.
        suffix: Of the images' results, `.png`.
        clip_suffix: Of the clips' results, `.mov`; empty where they become folders.

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

    Links are followed, loops of them left; hidden files and folders are passed over.

    Args:
        folder: Where to look.
        problems: Gets what looked like an image or folder and cannot be used, each with the reason.
        leave_out: A folder that is not entered.
        suffixes: Of what is looked for, in small letters.
        passed_over: Gets the number of files of each kind that is known and not read.
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
            is_image = path.suffix.lower() in suffixes
            if not path.suffix and passed_over is not None and os.path.isfile(path):
                is_image = sniff(path) is not None
            # Of os.path, which takes what cannot be looked at for no folder, and raises nothing.
            if os.path.isdir(path):
                if is_image:
                    problems.append((path, "a folder, not an image"))
                if leave_out is None or not _is_same(path, leave_out):
                    subfolders.append((path, above | {identity}))
            elif is_image and (os.path.isfile(path) or not os.path.exists(path)):  # named when it is read
                yield path
            elif is_image:
                problems.append((path, "not a regular file"))
            elif entry.is_symlink() and _is_forbidden(path):  # perhaps a folder full of images
                problems.append((path, "a link to what cannot be read: Permission denied"))
            elif passed_over is not None and (kind := REFUSED_SUFFIXES.get(path.suffix.lower())):
                passed_over[REFUSED[kind].title, REFUSED[kind].hint] += 1
        stack.extend(reversed(subfolders))


def is_clip_file(path: Path) -> bool:
    """Say whether a file is a clip or an animated image: by its first bytes, else by its name."""
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
    """Whether there is a file: one that cannot be looked at counts, for reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def split_page(path: Path) -> tuple[Path, int | None]:
    """Split `scan.tif[2]` into the file and the number of its page; a file that has such a name is itself."""
    found = re.fullmatch(r"(.+)\[(\d+)\]", path.name)
    if found is None or os.path.exists(path):
        return path, None
    return path.with_name(found[1]), int(found[2])


def _item(source: Path, folder: Path, suffix: str, clip_suffix: str, page: int | None = None) -> Item:
    is_clip = is_clip_file(source)
    stem = source.stem if page is None else f"{source.stem}[{page}]"
    return Item(source, folder / f"{stem}{clip_suffix if is_clip else suffix}", is_clip, page)


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
        # A result may be an image of the same run, even its own: `matte a.png --out .`
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
