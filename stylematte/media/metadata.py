"""Select the EXIF data for results. The thumbnail, which shows the old background, is never included."""

from typing import Any, Literal

Policy = Literal["keep", "public", "none"]
ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
# Author, time, camera model and exposure, but nothing that identifies one camera or place. Tags of Exif 3.0
# (CIPA DC-008), tables 6 to 12.
_PUBLIC = frozenset(
    {
        0x010F,  # Make
        0x0110,  # Model
        0x011A,  # XResolution
        0x011B,  # YResolution
        0x0128,  # ResolutionUnit
        0x0132,  # DateTime
        0x013B,  # Artist
        0x8298,  # Copyright
    }
)
_PUBLIC_EXIF = frozenset(
    {
        0x829A,  # ExposureTime
        0x829D,  # FNumber
        0x8827,  # PhotographicSensitivity
        0x9000,  # ExifVersion
        0x9003,  # DateTimeOriginal
        0x9004,  # DateTimeDigitized
        0x9010,  # OffsetTime
        0x9011,  # OffsetTimeOriginal
        0x9012,  # OffsetTimeDigitized
        0x9204,  # ExposureBiasValue
        0x9209,  # Flash
        0x920A,  # FocalLength
        0x9290,  # SubSecTime
        0x9291,  # SubSecTimeOriginal
        0x9292,  # SubSecTimeDigitized
        0xA405,  # FocalLengthIn35mmFilm
        0xA432,  # LensSpecification
        0xA433,  # LensMake
        0xA434,  # LensModel
    }
)


def orientation_of(exif: bytes | None) -> int:
    """Read the orientation, 1 to 8, from EXIF bytes; 1 if it is missing or invalid."""
    found = _parsed(exif).get(ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def resolution_of(exif: bytes | None) -> float | None:
    """Read the pixels per millimetre from EXIF bytes; None if missing or invalid."""
    if not exif:
        return None  # without importing Pillow
    parsed = _parsed(exif)
    unit = {2: 25.4, 3: 10.0}.get(parsed.get(0x0128, 2))
    try:
        value = float(parsed.get(0x011A, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value / unit if unit and 0 < value < 1e6 else None


def chosen(exif: bytes | None, policy: Policy) -> bytes | None:
    """Return the EXIF data of a photo's result, whose pixels are upright.

    Args:
        exif: EXIF bytes of the photo.
        policy: `keep`: all but the thumbnail; `public`: copyright, artist, date and camera; `none`: nothing.

    Returns:
        EXIF bytes with orientation 1; None if nothing remains.
    """
    if exif is None or policy == "none":
        return None
    parsed = _parsed(exif)
    if not parsed:
        return None
    if policy == "public":
        parsed = _public(parsed)
    parsed[ORIENTATION] = 1
    try:
        return bytes(parsed.tobytes())
    except Exception:  # some values that Pillow reads it cannot write
        return None


def _public(parsed: Any) -> Any:
    from PIL import Image

    result = Image.Exif()
    result.endian = parsed.endian
    for tag in _PUBLIC & set(parsed):
        result[tag] = parsed[tag]
    found = parsed.get_ifd(_EXIF_IFD)
    inner = {tag: found[tag] for tag in _PUBLIC_EXIF & set(found)}
    if inner:
        result.get_ifd(_EXIF_IFD).update(inner)
    return result


def _parsed(exif: bytes | None) -> Any:
    from PIL import Image

    found = Image.Exif()
    if exif:
        try:
            found.load(exif)
            len(found)
        except Exception:  # Pillow raises many kinds of exceptions for damaged bytes
            return Image.Exif()
    return found
