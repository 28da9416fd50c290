"""`stylematte matte --layout dataset`: photos and alphas side by side, as training reads them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stylematte.errors import UsageError
from stylematte_cli.commands.matte_options import ResultOptions

if TYPE_CHECKING:
    from stylematte.folder import Found
    from stylematte.media.paths import Item

HASH_LETTERS = 8


def check_dataset(result: ResultOptions) -> None:
    """Reject results that training does not read as alphas.

    Raises:
        UsageError: The results are not alphas as PNG or WebP.
    """
    if result.made != "alpha" or result.kind not in (None, "png", "webp"):
        raise UsageError("--layout dataset writes alphas as png or webp", "Omit --output and --format")


def as_dataset(found: "Found", out: Path) -> "Found":
    """Name all alphas in one folder, whatever the folders of the photos: a data set is flat.

    Args:
        found: Photos; their outputs are below `out`.
        out: Folder that gets alpha/ and image/.

    Raises:
        UsageError: An input is a clip, or a page of a file.
    """
    import hashlib  # loads OpenSSL, which no help needs

    items = [*found.photos, *found.clips]
    names = ["-".join(item.output.relative_to(out).with_suffix("").parts) for item in items]
    counts = Counter(names)
    placed = []
    for item, name in zip(items, names, strict=True):
        if item.is_clip or not item.source.is_file():
            raise UsageError(f"--layout dataset is for photos, but {item.source} is not one", "Leave it out")
        if counts[name] > 1:  # a/b-c.jpg and a-b/c.jpg
            name += f"-{hashlib.sha256(str(item.source).encode()).hexdigest()[:HASH_LETTERS]}"
        placed.append(replace(item, output=out / "alpha" / f"{name}{item.output.suffix}"))
    return replace(found, photos=placed)


def place_photos(items: "Sequence[Item]", out: Path) -> None:
    """Copy each photo that has an alpha to image/, under the alpha's name."""
    from stylematte.files import copy_file

    for item in items:
        photo = out / "image" / f"{item.output.stem}{item.source.suffix.lower()}"
        if item.output.is_file() and not photo.exists():
            copy_file(item.source, photo)
