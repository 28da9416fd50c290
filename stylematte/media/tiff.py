"""Read TIFF directories with Pillow, for properties that libvips does not expose."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stylematte.errors import InputError

_NEW_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _SUB_IFDS = 254, 259, 262, 330
_WIDTH, _HEIGHT, _BITS, _DNG_VERSION = 256, 257, 258, 50706
_REDUCED = 1
_CIELAB, _ICCLAB, _CFA, _LINEAR_RAW = 8, 9, 32803, 34892
_EXTRA, _CHANNELS = 338, 277
_RGB, _SEPARATED, _YCBCR = 2, 5, 6
_DEFLATE = (8, 32946)
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_CHUNK = 1 << 20
# Compression schemes that this libvips does not support, with their common names.
COMPRESSIONS = {
    6: "old JPEG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34887: "LERC",
    34925: "LZMA",
    50000: "zstd",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_MOST_PAGES = 10000  # bounds the work for a malformed file


@dataclass(frozen=True)
class Page:
    """One directory of a TIFF.

    Attributes:
        number: Index among all directories, as libvips counts pages.
        tags: Tags of the directory, as Pillow reads them.
        sub: Index among the sub-directories of this page; -1 for the page itself.
    """

    number: int
    tags: Any
    sub: int = -1

    def value(self, tag: int, default: int = 0) -> int:
        """Return an integer tag, or its first value if it has several."""
        found = self.tags.get(tag, default)
        return int(found[0] if isinstance(found, tuple) and found else found or default)

    @property
    def is_reduced(self) -> bool:
        """Whether it is a reduced copy of another page."""
        return bool(self.value(_NEW_SUBFILE) & _REDUCED)

    @property
    def is_raw(self) -> bool:
        """Whether it holds raw sensor data."""
        return _DNG_VERSION in self.tags or self.value(_PHOTOMETRIC) in (_CFA, _LINEAR_RAW)

    @property
    def is_lab(self) -> bool:
        """Whether it is 8-bit CIE L*a*b*, which Pillow reads."""
        return self.value(_PHOTOMETRIC) in (_CIELAB, _ICCLAB) and self.value(_BITS, 1) == 8

    @property
    def is_tiled(self) -> bool:
        """Whether pixels are stored in tiles, not in strips."""
        return _TILES in self.tags

    @property
    def tells_extra_samples(self) -> bool:
        """Whether a tag describes the channels beyond the colours, or there are none."""
        colours = {_RGB: 3, _YCBCR: 3, _SEPARATED: 4}.get(self.value(_PHOTOMETRIC), 1)
        return _EXTRA in self.tags or self.value(_CHANNELS, 1) <= colours

    @property
    def bits(self) -> int:
        """Bits per channel."""
        return self.value(_BITS, 1)

    @property
    def compression(self) -> int:
        """Number of the compression scheme."""
        return self.value(_COMPRESSION, 1)


def has_whole_deflate_data(data: bytes, page: Page) -> bool:
    """Return whether the checksums at the end of deflated strips and tiles are right.

    libtiff stops when a strip is full, before its checksum, and so accepts corrupted data.
    """
    if page.compression not in _DEFLATE:
        return True
    for places, lengths in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        starts, counts = page.tags.get(places, ()), page.tags.get(lengths, ())
        starts = starts if isinstance(starts, tuple) else (starts,)
        counts = counts if isinstance(counts, tuple) else (counts,)
        if not all(
            _is_whole(data[start : start + count]) for start, count in zip(starts, counts, strict=False)
        ):
            return False
    return True


def _is_whole(packed: bytes) -> bool:
    stream = zlib.decompressobj()
    try:
        while packed and not stream.eof:
            stream.decompress(packed, _CHUNK)
            packed = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof


def choose_page(data: bytes, name: str, wanted: int | None) -> tuple[Page, int]:
    """Choose the page to read: by default, the first full-size one.

    Args:
        data: The file.
        name: Name of the image in messages.
        wanted: Index of the page among those that are not reduced copies; None takes the first.

    Returns:
        The page, and the number of pages.

    Raises:
        InputError: There is no such page or no readable directory, or the file is a camera raw file.
    """
    pages = list(_pages(data))
    if not pages:
        raise InputError(f"{name}: damaged or truncated: no directory", "Get the file again from its source")
    if any(page.is_raw for page in pages):
        raise InputError(f"{name}: camera raw files are not supported", "Develop it into TIFF or JPEG first")
    full = [page for page in pages if not page.is_reduced]
    if not full and _SUB_IFDS in pages[0].tags:
        full = sorted(_sub_pages(data, pages[0]), key=lambda page: -page.value(_WIDTH) * page.value(_HEIGHT))[
            :1
        ]
        if any(page.is_raw for page in full):
            raise InputError(
                f"{name}: camera raw files are not supported", "Develop it into TIFF or JPEG first"
            )
    full = full or pages
    if wanted is not None and not 0 <= wanted < len(full):
        raise InputError(f"{name}: there is no page {wanted}", f"It has pages 0 to {len(full) - 1}")
    return full[wanted or 0], len(full)


def _pages(data: bytes) -> Iterator[Page]:
    from PIL import TiffImagePlugin

    header = _header(data)
    if header is None:
        return
    file = io.BytesIO(data)
    place = header.next
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MOST_PAGES:
        seen.add(place)
        tags = TiffImagePlugin.ImageFileDirectory_v2(_prefix(data))
        try:
            file.seek(place)
            tags.load(file)
        except Exception:  # Pillow raises many kinds of exceptions; libvips reports damaged pixels
            return
        yield Page(len(seen) - 1, tags)
        place = tags.next


def _sub_pages(data: bytes, page: Page) -> Iterator[Page]:
    from PIL import TiffImagePlugin

    places = page.tags.get(_SUB_IFDS)
    for number, place in enumerate(places if isinstance(places, tuple) else (places,)):
        tags = TiffImagePlugin.ImageFileDirectory_v2(_prefix(data))
        file = io.BytesIO(data)
        try:
            file.seek(int(place))
            tags.load(file)
        except Exception:
            continue
        yield Page(page.number, tags, number)


def _header(data: bytes) -> Any:
    from PIL import TiffImagePlugin

    try:
        return TiffImagePlugin.ImageFileDirectory_v2(_prefix(data))
    except Exception:
        return None


def _prefix(data: bytes) -> bytes:
    return data[:16] if data[2:3] == b"+" or data[3:4] == b"+" else data[:8]
