"""Table of the image formats and the libraries that read them, shared by decoder, folder search and docs.

A format is identified by a file's first bytes, never by its name, and has exactly one reader. Formats that
are not listed are not supported.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

Reader = Literal["simplejpeg, libvips", "libvips", "Pillow", "pi-heif", "OpenEXR"]


@dataclass(frozen=True)
class Format:
    """A supported image format.

    Attributes:
        kind: Short name, as returned by `kind_of`.
        title: Common name.
        suffixes: File suffixes in lower case.
        reader: The library that decodes it.
        loaders: libvips loader classes that it needs; all other loaders of libvips are blocked.
        extra: Extra of this package that installs the reader; empty if none is needed.
        pixels: Supported kinds of pixels, for the docs.
        kept: Metadata kept in results, for the docs.
    """

    kind: str
    title: str
    suffixes: tuple[str, ...]
    reader: Reader
    loaders: tuple[str, ...] = ()
    extra: str = ""
    pixels: str = ""
    kept: str = "RGB profile, EXIF"


FORMATS = (
    Format(
        "jpeg",
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        "simplejpeg, libvips",
        ("VipsForeignLoadJpeg",),
        pixels="8 bits: RGB, grey, CMYK; baseline and progressive. The SDR image of Ultra HDR photos",
    ),
    Format(
        "png",
        "PNG",
        (".png",),
        "libvips",
        ("VipsForeignLoadPng",),
        pixels="1 to 16 bits: RGB, grey, palette, alpha, tRNS, interlaced. Colour from cICP, iCCP, sRGB or "
        "cHRM and gAMA, in this order; PQ and HLG become linear. Not APNG",
    ),
    Format(
        "webp",
        "WebP",
        (".webp",),
        "libvips",
        ("VipsForeignLoadWebp",),
        pixels="8 bits: RGB, alpha; lossy and lossless. Not animations",
    ),
    Format(
        "tiff",
        "TIFF",
        (".tif", ".tiff"),
        "libvips",
        ("VipsForeignLoadTiff",),
        pixels="1 to 16 bits, and linear float: RGB, grey, min-is-white, palette, CMYK, Lab "
        "(Pillow), alpha straight or premultiplied; strips, tiles, planes, BigTIFF; none, LZW, deflate, "
        "packbits, JPEG, CCITT, zstd, WebP. Pages by `name[2]`",
        kept="RGB profile",
    ),
    Format(
        "bmp",
        "BMP",
        (".bmp",),
        "Pillow",
        pixels="1 to 32 bits, with the alpha of 32-bit files",
        kept="",
    ),
    Format(
        "avif",
        "AVIF",
        (".avif",),
        "libvips",
        ("VipsForeignLoadHeif",),
        pixels="8, 10 and 12 bits: RGB, grey, alpha. Colour from the profile or nclx; PQ and HLG become "
        "linear. Not sequences",
    ),
    Format(
        "heic",
        "HEIC",
        (".heic", ".heif"),
        "pi-heif",
        extra="heic",
        pixels="8, 10 and 12 bits: RGB, alpha. Colour from the profile or nclx; PQ and HLG become linear",
    ),
    Format(
        "exr",
        "OpenEXR",
        (".exr",),
        "OpenEXR",
        extra="exr",
        pixels="half and float: RGB, grey, premultiplied alpha; scene-linear, any compression, one part",
        kept="values beyond 0 and 1, chromaticities",
    ),
)
BY_KIND = {entry.kind: entry for entry in FORMATS}


@dataclass(frozen=True)
class Refused:
    """A known but unsupported image format, with a hint for the user."""

    title: str
    suffixes: tuple[str, ...]
    hint: str


_MODULES = {"pi-heif": "pi_heif", "OpenEXR": "OpenEXR"}


_RAW_HINT = "Develop it into TIFF or JPEG first"
_CONVERT = "Convert it to PNG or TIFF first"

REFUSED = {
    "jxl": Refused("JPEG XL", (".jxl",), _CONVERT),
    "jp2": Refused("JPEG 2000", (".jp2", ".j2k", ".jpx", ".jpf"), _CONVERT),
    "psd": Refused("Photoshop document", (".psd", ".psb"), "Export it as TIFF or PNG first"),
    "xcf": Refused("GIMP document", (".xcf",), "Export it as TIFF or PNG first"),
    "raw": Refused(
        "camera raw file",
        tuple(".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .iiq .erf".split()),
        _RAW_HINT,
    ),
    "svg": Refused("SVG drawing", (".svg", ".svgz"), "Render it to PNG first"),
    "pdf": Refused("PDF document", (".pdf",), "Render its page to PNG first"),
    "hdr": Refused("Radiance HDR image", (".hdr", ".rgbe"), "Convert it to EXR first"),
    "gif": Refused("GIF", (), "GIF files are clips: name the file, and install the extra `video`"),
    "other": Refused(
        "image of an unsupported format",
        tuple(".tga .ppm .pgm .pbm .pnm .pcx .dds .ico .icns .qoi .dpx .sgi".split()),
        _CONVERT,
    ),
}

SUFFIXES = frozenset(suffix for entry in FORMATS for suffix in entry.suffixes)
REFUSED_SUFFIXES = {suffix: kind for kind, entry in REFUSED.items() for suffix in entry.suffixes}
LOADERS = tuple(loader for entry in FORMATS for loader in entry.loaders)

_BEGINNINGS = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"BM", "bmp"),
    (b"\x76\x2f\x31\x01", "exr"),
    (b"GIF8", "gif"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL ", "jxl"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"8BPS", "psd"),
    (b"gimp xcf", "xcf"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"IIRO", "raw"),
    (b"IIRS", "raw"),
    (b"IIU\0", "raw"),
    (b"FOVb", "raw"),
    (b"%PDF", "pdf"),
    (b"#?RADIANCE", "hdr"),
    (b"#?RGBE", "hdr"),
    (b"<svg", "svg"),
    (b"qoif", "other"),
    (b"SDPX", "other"),
    (b"XPDS", "other"),
    (b"DDS ", "other"),
)


def kind_of(data: bytes) -> str | None:
    """Identify a format by its first bytes: a key of `BY_KIND` or `REFUSED`; None for anything else."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "raw" if data[8:10] == b"CR" else "tiff"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _of_brands(data[8 : min(256, int.from_bytes(data[:4], "big"))])
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    return "svg" if data[:5] == b"<?xml" and b"<svg" in data[:1024] else None


def _of_brands(brands: bytes) -> str | None:
    if b"avi" in brands:
        return "avif"
    if b"crx " in brands:
        return "raw"
    return "heic" if b"hei" in brands or b"hev" in brands or b"mif1" in brands else None


def missing_extra(suffix: str) -> tuple[str, str] | None:
    """Return the title and extra of a suffix's format if its reader is not installed; else None."""
    for entry in FORMATS:
        if entry.extra and suffix in entry.suffixes and find_spec(_MODULES[entry.reader]) is None:
            return entry.title, entry.extra
    return None


def table() -> str:
    """Return the Markdown table of supported formats for docs/formats.md."""
    rows = [("Format", "Files", "Read by", "Pixels", "Results keep"), ("---",) * 5]
    for entry in FORMATS:
        reader = entry.reader + (f" (extra `{entry.extra}`)" if entry.extra else "")
        rows.append((entry.title, " ".join(entry.suffixes), reader, entry.pixels, entry.kept or "nothing"))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def refused_table() -> str:
    """Return the Markdown table of known but unsupported formats."""
    rows = [("Kind", "Files", "What to do"), ("---",) * 3]
    rows += [(entry.title, " ".join(entry.suffixes), entry.hint) for entry in REFUSED.values()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
