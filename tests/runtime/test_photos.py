"""Kinds of files that came out wrong without a word, drawn here; values by Pillow, Little CMS or by hand."""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from stylematte.errors import InputError, MissingError
from stylematte.media import colour, formats, metadata, vips
from stylematte.media.decode import decode_image, measure
from stylematte.media.images import encode_image, read_image
from stylematte.media.photo import Photo
from tests.images import ASSETS, STORED, exif_bytes, exif_of

P3_GAMMA = colour.make_profile(colour.PRIMARIES[12], (2.2,))
ADOBE = colour.make_profile((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290), (563 / 256,))
PROPHOTO = colour.make_profile((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, 0.3457, 0.3585), (1.8,))


def drawn(height: int = 48, width: int = 64) -> NDArray:
    """Soft colours with every hue in them, none at the edge of a small gamut: (H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + phase) * np.cos(y / 7 - phase) for phase in (0, 2.1, 4.2)]
    return np.stack([128 + 70 * wave for wave in waves], axis=-1).round().astype(np.uint8)


def grey() -> NDArray:
    return drawn()[:, :, 0]


def deep(pixels: NDArray) -> NDArray:
    return pixels.astype(np.uint16) * 257


def through(icc: bytes, pixels: NDArray, mode: str = "RGB") -> NDArray:
    """Colours from sRGB into a profile with Little CMS through Pillow alone."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    image = Image.fromarray(pixels)
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, srgb, target, renderingIntent=1, outputMode=mode))


def pillow(pixels: NDArray, kind: str, mode: str | None = None, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels, mode).save(data, kind, **options)
    return data.getvalue()


def tiff(pixels: NDArray, **options: object) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, pixels, **options)
    return data.getvalue()


def png_with(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks behind a PNG's header."""
    added = b"".join(
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
        for name, value in chunks
    )
    return data[:33] + added + data[33:]


def off(photo: Photo, expected: NDArray) -> float:
    """The greatest difference from what a viewer shows, in levels of 255."""
    found = photo.srgb
    levels = found.astype(float) / (257 if found.dtype == np.uint16 else 1)
    assert levels.shape == expected.shape
    return float(np.abs(levels - expected).max())


@pytest.mark.parametrize("icc", [P3_GAMMA, ADOBE, PROPHOTO])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_the_network_sees_srgb_and_the_profile_stays(kind: str, icc: bytes) -> None:
    stored = through(icc, drawn())
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    lossy = {"JPEG": {"quality": 100, "subsampling": 0}}
    data = pillow(stored, kind, icc_profile=icc, **options.get(kind, lossy.get(kind, {})))
    photo = decode_image(data, "x")
    # A level of ProPhoto is several of sRGB.
    assert off(photo, drawn()) <= ((12 if icc == PROPHOTO else 6) if kind in ("JPEG", "AVIF") else 2)
    assert photo.icc == icc
    assert decode_image(encode_image(photo.pixels, "jpg", icc=icc), "x").icc == icc


def test_a_profile_of_several_segments_is_read_and_written() -> None:
    big = PROPHOTO + np.random.default_rng(0).bytes(150_000)
    big = struct.pack(">I", len(big)) + big[4:]
    photo = decode_image(pillow(through(PROPHOTO, drawn()), "JPEG", icc_profile=big, quality=100), "x")
    assert photo.icc == big
    assert off(photo, drawn()) <= 20  # chroma at half size
    assert decode_image(encode_image(photo.pixels, "jpg", icc=photo.icc), "x").icc == big


@pytest.mark.parametrize("icc", [P3_GAMMA, PROPHOTO])
def test_deep_colours_are_converted_to_a_level(icc: bytes) -> None:
    """Little CMS's own shortcut for 16 bits is up to 19 levels off."""
    levels = np.linspace(0, 1, 12)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(12, -1, 3)
    found = colour.to_srgb((cube * 65535).round().astype(np.uint16), icc) / 257
    expected = ImageCms.profileToProfile(
        Image.fromarray((cube * 255).round().astype(np.uint8)),
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=1,
    )
    rounding = 4  # of the 8-bit reference, where ProPhoto is steep
    assert np.percentile(np.abs(found - np.asarray(expected)), 99) <= rounding
    again = colour.to_srgb(colour.from_srgb(deep(drawn()), icc), icc)
    assert np.abs(again - drawn() * 257.0).max() <= 257


def test_to_srgb_of_deep_files_keeps_their_depth() -> None:
    sixteen = tiff(deep(through(P3_GAMMA, drawn())), photometric="rgb", iccprofile=P3_GAMMA)
    photo = decode_image(sixteen, "x")
    assert (photo.pixels.dtype, photo.icc) == (np.uint16, P3_GAMMA)
    converted = photo.in_srgb()
    assert (converted.pixels.dtype, converted.icc) == (np.uint16, colour.srgb_profile())
    assert off(converted, drawn()) <= 2


def test_grey_with_a_gamma_becomes_srgb() -> None:
    profile = grey_profile(1.8)
    linear = np.where(grey() / 255 <= 0.04045, grey() / 255 / 12.92, ((grey() / 255 + 0.055) / 1.055) ** 2.4)
    stored = (linear ** (1 / 1.8) * 255).round().astype(np.uint8)
    photo = decode_image(pillow(stored, "PNG", icc_profile=profile), "x")
    assert off(photo, np.repeat(grey()[:, :, None], 3, axis=2)) <= 2
    assert photo.icc == colour.srgb_profile()
    as_data = decode_image(pillow(stored, "PNG", icc_profile=profile), "x", is_data=True)
    np.testing.assert_array_equal(as_data.pixels[:, :, 0], stored, "an alpha is data, whatever its profile")


def grey_profile(gamma: float) -> bytes:
    """A profile of grey, as small as can be."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    tags = struct.pack(">I4sII4sII", 2, b"kTRC", 156, 16, b"wtpt", 172, 20) + curve + white
    head = struct.pack(">I4xI12s12x4s", 128 + len(tags), 0x02400000, b"mntrGRAYXYZ ", b"acsp")
    return head.ljust(68, b"\0") + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D).ljust(60, b"\0") + tags


def test_cmyk_with_and_without_a_profile() -> None:
    cmyk = np.dstack([255 - drawn(), np.full((48, 64), 40, np.uint8)])
    plain = decode_image(tiff(cmyk, photometric="separated"), "x")
    expected = np.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB"))
    assert off(plain, expected) <= 1
    assert plain.icc == colour.srgb_profile()
    sixteen = decode_image(tiff(deep(cmyk), photometric="separated"), "x")
    assert sixteen.pixels.dtype == np.uint16
    assert off(sixteen, expected) <= 1

    icc = bytes(vips.library().Operation.call("profile_load", "cmyk"))
    photo = decode_image(tiff(cmyk, photometric="separated", iccprofile=icc), "x")
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    expected = ImageCms.profileToProfile(
        Image.fromarray(cmyk, "CMYK"), source, ImageCms.createProfile("sRGB"), 1, "RGB", flags=flags
    )
    assert off(photo, np.asarray(expected)) <= 2
    assert photo.icc == colour.srgb_profile()


def test_png_tells_its_colour_in_chunks() -> None:
    sources = {
        "cICP": (colour.make_profile(colour.PRIMARIES[12], colour._SRGB_CURVE), [(b"cICP", b"\x0c\x0d\0\1")]),
        "cHRM": (
            ADOBE,
            [
                (b"gAMA", struct.pack(">I", 45455)),
                (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
            ],
        ),
        "gAMA": (colour.make_profile(colour.PRIMARIES[1], (1.0,)), [(b"gAMA", struct.pack(">I", 100000))]),
    }
    for name, (icc, chunks) in sources.items():
        data = png_with(pillow(through(icc, drawn()), "PNG"), *chunks)
        photo = decode_image(data, "x")
        assert off(photo, drawn()) <= 3, name
        assert photo.icc is not None, name
    usual = (b"gAMA", struct.pack(">I", 45455))
    assert decode_image(png_with(pillow(drawn(), "PNG"), usual), "x").icc is None
    both = png_with(pillow(drawn(), "PNG"), (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000)))
    assert off(decode_image(both, "x"), drawn()) == 0, "sRGB goes before gAMA"


def test_avif_with_nclx() -> None:
    data = pillow(drawn(), "AVIF", quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    p3 = data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]
    icc = colour.profile_of_codes(12, 13)
    assert icc is not None
    photo = decode_image(p3, "x")
    assert photo.icc == icc
    assert off(photo, colour.to_srgb(drawn(), icc)) <= 6
    assert decode_image(data, "x").icc is None


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_of_more_than_8_bits(bits: int) -> None:
    rgba = np.dstack([drawn(), np.full((48, 64), 255, np.uint8)])
    rgba[:20, :20, 3] = 0
    image = vips.image_of(deep(rgba))
    photo = decode_image(bytes(image.heifsave_buffer(compression="av1", bitdepth=bits, lossless=True)), "x")
    assert photo.pixels.dtype == np.uint16
    assert np.abs(photo.pixels[25:] / 257 - drawn()[25:]).max() <= 3
    assert photo.alpha is not None
    assert (photo.alpha.min(), photo.alpha.max()) == (0, 65535)


def test_lab_and_deep_grey_and_planes_and_tiles() -> None:
    white = np.zeros((16, 16, 3), np.uint8)
    white[:, :, 0] = 255
    assert off(decode_image(tiff(white, photometric="cielab"), "x"), np.full((16, 16, 3), 255)) <= 1

    negative = decode_image(tiff(65535 - deep(grey()), photometric="miniswhite"), "x")
    np.testing.assert_array_equal(negative.pixels[:, :, 0], deep(grey()))

    planes = np.ascontiguousarray(deep(drawn()).transpose(2, 0, 1))
    planar = decode_image(tiff(planes, photometric="rgb", planarconfig="separate"), "x")
    np.testing.assert_array_equal(planar.pixels, deep(drawn()))

    big = decode_image(tiff(drawn(), photometric="rgb", bigtiff=True), "x")
    np.testing.assert_array_equal(big.pixels, drawn())


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation_is_applied_once(orientation: int, tile: tuple[int, int] | None) -> None:
    stored = np.ascontiguousarray(STORED[orientation](drawn()))
    tags = [(274, 3, 1, orientation, True)]
    photo = decode_image(tiff(stored, photometric="rgb", tile=tile, extratags=tags), "x")
    np.testing.assert_array_equal(photo.pixels, drawn())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_webp_with_exif_that_begins_as_in_jpeg(orientation: int) -> None:
    """Some writers put `Exif\\0\\0` before the EXIF of a WebP, against its rules."""
    stored = np.ascontiguousarray(STORED[orientation](drawn()))
    data = pillow(stored, "WEBP", lossless=True, exif=b"EXIF__" + exif_bytes(orientation))
    photo = decode_image(data.replace(b"EXIF__MM", b"Exif\0\0MM"), "x")
    np.testing.assert_array_equal(photo.pixels, drawn())


def test_transparency_of_every_kind() -> None:
    value = int(grey()[3, 5])
    keyed = decode_image(pillow(grey(), "PNG", transparency=value), "x")
    assert keyed.alpha is not None
    np.testing.assert_array_equal(keyed.alpha == 0, grey() == value)
    bits = decode_image(pillow(grey() > 128, "PNG", transparency=0), "x")
    assert bits.alpha is not None
    np.testing.assert_array_equal(bits.alpha > 0, grey() > 128)

    alpha = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    both = tiff(np.dstack([grey(), alpha]), photometric="minisblack", extrasamples=["unassalpha"])
    both = decode_image(both, "x")
    np.testing.assert_array_equal(both.alpha, alpha)
    np.testing.assert_array_equal(both.pixels[:, :, 1], grey())

    bmp = bytearray(cv2.imencode(".bmp", np.dstack([drawn()[:, :, ::-1], alpha]))[1].tobytes())
    for header, compression in ((124, 3), (40, 0)):
        pixels = np.dstack([drawn()[:, :, ::-1], alpha])[::-1].tobytes()
        info = struct.pack("<IiiHHI", header, 64, 48, 1, 32, compression) + bytes(20)
        if header == 124:
            info += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
        made = b"BM" + struct.pack("<IxxxxI", 14 + len(info) + len(pixels), 14 + len(info)) + info + pixels
        photo = decode_image(made, "x")
        np.testing.assert_array_equal(photo.alpha, alpha)
        np.testing.assert_array_equal(photo.pixels, drawn())
    assert decode_image(bytes(bmp), "x").alpha is not None


def test_premultiplied_tiff_is_divided() -> None:
    alpha = np.tile(np.linspace(40, 255, 64).astype(np.uint8), (48, 1))
    multiplied = (drawn() * (alpha[:, :, None] / 255)).round().astype(np.uint8)
    photo = decode_image(
        tiff(np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"]), "x"
    )
    np.testing.assert_array_equal(photo.alpha, alpha)
    assert off(photo, drawn()) <= 255 / 40 / 2 + 1


def test_white_of_a_bmp_of_15_bits_is_white() -> None:
    pixels = np.full((4, 4), 0x7FFF, "<u2").tobytes()
    info = struct.pack("<IiiHHI", 40, 4, 4, 1, 16, 0) + bytes(20)
    data = b"BM" + struct.pack("<IxxxxI", 54 + len(pixels), 54) + info + pixels
    assert decode_image(data, "x").pixels.min() == 255


def test_a_small_copy_in_front_is_not_taken_for_the_image() -> None:
    small = cv2.resize(drawn(), (8, 6))
    data = io.BytesIO()
    with tifffile.TiffWriter(data) as writer:
        writer.write(small, photometric="rgb", subifds=1, subfiletype=1)
        writer.write(drawn(), photometric="rgb")
    np.testing.assert_array_equal(decode_image(data.getvalue(), "x").pixels, drawn())
    raw = tiff(drawn(), photometric="rgb", extratags=[(50706, 1, 4, b"\1\4\0\0", True)])
    with pytest.raises(InputError, match="camera raw files are not supported"):
        decode_image(raw, "x")


def test_pages_and_frames() -> None:
    pages = tiff(np.stack([drawn(), 255 - drawn()]), photometric="rgb")
    first = decode_image(pages, "x.tif")
    assert first.notes == ("the first of 2 pages: x.tif[1] is the second",)
    second = decode_image(pages, "x.tif", page=1)
    assert second.notes == ()
    np.testing.assert_array_equal(second.pixels, 255 - drawn())
    with pytest.raises(InputError, match="there is no page 2"):
        decode_image(pages, "x.tif", page=2)

    frames = [Image.fromarray(drawn()), Image.fromarray(255 - drawn())]
    for kind, words in {
        "WEBP": "an animation of 2 frames",
        "PNG": "an APNG",
        "GIF": "GIF is not supported",
    }.items():
        data = io.BytesIO()
        frames[0].save(data, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match=words):
            decode_image(data.getvalue(), "x")


def test_compressions_of_tiff_that_are_not_read_are_named() -> None:
    data = bytearray(tiff(drawn(), photometric="rgb"))
    entry = struct.pack("<HHIHH", 259, 3, 1, 1, 0)
    at = bytes(data).index(entry)
    for number, title in {34712: "JPEG 2000", 50002: "JPEG XL"}.items():
        data[at + 8 : at + 10] = struct.pack("<H", number)
        with pytest.raises(InputError, match=f"{title} inside TIFF is not supported"):
            decode_image(bytes(data), "x")
    planes = np.ascontiguousarray(drawn().transpose(2, 0, 1))
    tiled = tiff(planes, photometric="rgb", planarconfig="separate", tile=(16, 16))
    with pytest.raises(InputError, match="not read: tiled separate planes not supported"):
        decode_image(tiled, "x")


def test_unknown_tags_of_tiffs_are_no_damage() -> None:
    tags = [(65000, 2, 5, "mine", True), (50000, 4, 1, 7, True), (339, 3, 3, (1, 1, 1), True)]
    np.testing.assert_array_equal(
        decode_image(tiff(drawn(), photometric="rgb", extratags=tags), "x").pixels, drawn()
    )


SOUND: dict[str, Callable[[bytes], bytes]] = {
    "stray bytes at the end": lambda data: data[:-2] + b"\x12\x34" + data[-2:],
    "stray bytes before the scan": lambda data: data.replace(b"\xff\xda", b"\x12\x34\xff\xda", 1),
    "fill bytes": lambda data: data[:-2] + b"\xff\xff\xff" + data[-2:],
    "no end marker": lambda data: data[:-2],
    "padded with zeros": lambda data: data + bytes(5000),
    "unknown version of JFIF": lambda data: data.replace(b"JFIF\0\1\1", b"JFIF\0\7\1", 1),
}
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "half, then zeros": lambda data: data[: len(data) // 2] + bytes(len(data) // 2),
    "half, then zeros and an end": lambda data: data[: len(data) // 2] + bytes(len(data) // 2) + data[-2:],
    "half, then another file": lambda data: (
        data[: len(data) // 2] + np.random.default_rng(1).bytes(len(data) // 2)
    ),
    "the last bytes": lambda data: data[:-200] + data[-2:],
    "a sector of zeros": lambda data: data[: len(data) // 2] + bytes(1024) + data[len(data) // 2 + 1024 :],
}


def photographic() -> NDArray:
    """Enough detail for a JPEG of some tens of kilobytes."""
    noise = np.random.default_rng(0).normal(0, 12, (200, 300, 3))
    return np.clip(cv2.resize(drawn(), (300, 200)) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}]
)
def test_damage_of_jpegs_is_named_and_sound_oddities_pass(options: dict[str, object]) -> None:
    whole = pillow(photographic(), "JPEG", quality=92, **options)
    expected = decode_image(whole, "x").pixels
    for name, change in SOUND.items():
        np.testing.assert_array_equal(decode_image(change(whole), name).pixels, expected, name)
    for name, change in DAMAGED.items():
        if options.get("progressive") and name == "a sector of zeros":
            continue  # zeros mean something there
        with pytest.raises(InputError, match="damaged or truncated"):
            decode_image(change(whole), name)
    kept = decode_image(DAMAGED["half"](whole), "x", keep_damaged=True)
    assert "damaged or truncated" in kept.notes[0]
    if not options.get("progressive"):  # where all of it lacks the last scans
        np.testing.assert_array_equal(kept.pixels[:16], expected[:16])


def test_a_jpeg_that_is_shorter_than_its_header_says_is_named_whatever_else_is_said() -> None:
    """libjpeg tells its first complaint alone, and stray bytes come before the end."""
    whole = bytearray(SOUND["stray bytes before the scan"](pillow(photographic(), "JPEG", quality=92)))
    frame = bytes(whole).index(b"\xff\xc0")
    whole[frame + 5 : frame + 7] = (712).to_bytes(2, "big")
    with pytest.raises(InputError, match="premature end"):
        decode_image(bytes(whole), "x")


def test_plain_areas_of_jpegs_are_no_damage() -> None:
    for value in (0, 255):
        page = np.full((1000, 1500, 3), value, np.uint8)
        page[300:500, 300:600] = photographic()
        for options in ({"optimize": True}, {"progressive": True}, {}):
            decode_image(pillow(page, "JPEG", quality=90, **options), "x")


def test_damage_is_named_whatever_is_decoded_beside_it() -> None:
    whole = pillow(photographic(), "JPEG", quality=92)
    broken = tiff(photographic(), photometric="rgb", compression="deflate")
    work = [(SOUND["stray bytes at the end"](whole), True), (whole, True), (DAMAGED["half"](whole), False)]
    work += [(DAMAGED["the last bytes"](whole), False), (broken[: len(broken) // 2], False), (b"text", False)]

    def is_read(data: bytes) -> bool:
        try:
            decode_image(data, "x")
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(is_read, [data for data, _ in work] * 25))
    assert found == [expected for _, expected in work] * 25


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"tile": (16, 16)}, {"bigtiff": True}])
def test_cut_and_flipped_tiffs_are_named(options: dict[str, object]) -> None:
    data = tiff(photographic(), photometric="rgb", rowsperstrip=None if "tile" in options else 16, **options)
    start = tifffile.TiffFile(io.BytesIO(data)).pages[0].dataoffsets[0]
    for cut in (start + (len(data) - start) // 2, len(data) - 100):
        with pytest.raises(InputError, match="damaged or truncated"):
            decode_image(data[:cut], "x")
    if options.get("compression"):
        flipped = bytearray(data)
        flipped[start + (len(data) - start) // 2] ^= 16
        with pytest.raises(InputError, match="damaged or truncated"):
            decode_image(bytes(flipped), "x")


def test_a_hole_in_lossy_webp_is_named_and_plain_images_are_none() -> None:
    data = bytearray(pillow(photographic(), "WEBP", quality=90))
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    with pytest.raises(InputError, match="a hole in its data"):
        decode_image(bytes(data), "x")
    page = np.full((1000, 1500, 3), 255, np.uint8)
    page[300:500, 300:600] = photographic()
    for value in (page, 255 - page, np.zeros_like(page)):
        for quality in (1, 50, 90):
            decode_image(pillow(value, "WEBP", quality=quality), "x")


def test_a_deflated_strip_that_is_full_before_its_data_ends_is_named() -> None:
    data = bytearray(tiff(photographic(), photometric="rgb", compression="deflate", predictor=2))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data[start + length // 2 : start + length // 2 + 5000] = bytes(5000)
    with pytest.raises(InputError, match="damaged or truncated"):
        decode_image(bytes(data), "x")


def gps_photo() -> bytes:
    """A JPEG with invented place, numbers, owner and a thumbnail."""
    exif = Image.Exif()
    exif[0x010F], exif[0x8298], exif[0x013B] = "Cam", "(c) Ann", "Ann"
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0xA431], inner[0xA430], inner[0x927C] = (
        "2024:01:02 03:04:05",
        "SN12345",
        "Ann O",
        b"maker",
    )
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 1.0)})
    data = exif.tobytes()
    tiff_part = data[6:]
    place = len(tiff_part)
    thumbnail = pillow(drawn(24, 32), "JPEG")
    ifd1 = struct.pack(
        ">HHHIHxxHHIIHHIII", 3, 259, 3, 1, 6, 513, 4, 1, place + 42, 514, 4, 1, len(thumbnail), 0
    )
    (first,) = struct.unpack(">I", tiff_part[4:8])
    (count,) = struct.unpack(">H", tiff_part[first : first + 2])
    link = first + 2 + 12 * count
    data = data[: 6 + link] + struct.pack(">I", place) + data[10 + link :] + ifd1 + thumbnail
    return pillow(drawn(), "JPEG", exif=data)


def test_privacy() -> None:
    photo = decode_image(gps_photo(), "x")
    assert photo.exif is not None
    assert Image.open(io.BytesIO(gps_photo())).getexif().get_ifd(0x8825), "the photo has a place"
    assert photo.exif.count(b"\xff\xd8\xff"), "the photo has a thumbnail"
    for policy in ("keep", "public", "none"):
        chosen = metadata.chosen(photo.exif, policy)
        written = encode_image(photo.pixels, "jpg", exif=chosen)
        result = decode_image(written, "x").exif or b""
        assert b"\xff\xd8\xff" not in result, "the thumbnail shows the old background"
        assert (b"SN12345" in written) == (policy == "keep")
        assert (b"Ann O" in written) == (policy == "keep")
        with Image.open(io.BytesIO(written)) as image:
            assert bool(image.getexif().get_ifd(0x8825)) == (policy == "keep")
        if policy != "none":
            found = exif_of(result)
            assert (found[0x010F], found[0x8298], found[0x9003]) == ("Cam", "(c) Ann", "2024:01:02 03:04:05")
        else:
            assert not result


def test_only_listed_loaders_open_anything(tmp_path: Path) -> None:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>"
    (tmp_path / "x.jpg").write_bytes(svg)
    with pytest.raises(InputError, match="an SVG drawing is not supported"):
        read_image(tmp_path / "x.jpg")
    pyvips = vips.library()
    with pytest.raises(pyvips.Error):
        pyvips.Image.new_from_buffer(svg, "")
    with pytest.raises(pyvips.Error):
        pyvips.Image.svgload_buffer(svg)
    (tmp_path / "x.csv").write_text("1 2 3\n")
    with pytest.raises(pyvips.Error):
        pyvips.Image.new_from_file(str(tmp_path / "x.csv"))
    assert pyvips.cache_get_max() == 0


def test_a_gain_map_is_told() -> None:
    photo = pillow(drawn(), "JPEG", xmp=b'<x hdrgm:Version="1.0"/>')
    assert decode_image(photo, "x").notes == ("Ultra HDR: its SDR image is used, without its gain map",)


def test_kinds_by_first_bytes() -> None:
    beginnings = {
        b"II*\0\x10\0\0\0CR\2\0": "raw",
        b"\0\0\0\x18ftypcrx ": "raw",
        b"\xff\x0a": "jxl",
        b"8BPS": "psd",
        b"\0\0\0\x20ftypavif\0\0\0\0avifmif1": "avif",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "heic",
        b"\x76\x2f\x31\x01": "exr",
        b"no picture": None,
    }
    for data, kind in beginnings.items():
        assert formats.kind_of(data) == kind


def test_assets_are_the_same_through_pillow() -> None:
    for name in ("palette.png", "progressive.jpg"):
        expected = np.asarray(Image.open(ASSETS / name).convert("RGB")).astype(int)
        assert np.abs(read_image(ASSETS / name).pixels - expected).max() <= 2


def test_heic_upright_with_alpha_and_ten_bits() -> None:
    """Drawn with pillow-heif 1.4; a wheel without an encoder reads them here."""
    pytest.importorskip("pi_heif")
    for name, dtype in {"red_alpha": np.uint8, "red_turned": np.uint8, "red_ten_bits": np.uint16}.items():
        data = (ASSETS / f"{name}.heic").read_bytes()
        photo = decode_image(data, name)
        white = np.iinfo(dtype).max
        assert photo.pixels.shape == (48, 64, 3)
        assert photo.pixels.dtype == dtype
        assert np.abs(photo.pixels[15, 30] / white - (1, 0, 0)).max() < 0.01
        assert np.abs(photo.pixels[35, 30] / white - 128 / 255).max() < 0.01
        assert measure(data) == (48, 64, np.dtype(dtype).itemsize)
        for share in (0.3, 0.6, 0.95):
            with pytest.raises(InputError, match="damaged or truncated"):
                decode_image(data[: int(len(data) * share)], name)
        if name == "red_alpha":
            assert photo.alpha is not None
            assert (photo.alpha[10, 10], photo.alpha[45, 10]) == (255, 0)
        if name == "red_turned":
            assert exif_of(metadata.chosen(photo.exif, "public")) == {0x010F: "Cam", 0x0112: 1}


def test_pixels_of_a_heic_stay_when_others_are_decoded() -> None:
    """pi-heif's arrays lie in memory that it frees with its image."""
    pytest.importorskip("pi_heif")
    files = [(ASSETS / f"{name}.heic").read_bytes() for name in ("red_alpha", "red_turned", "red_ten_bits")]
    photos = [decode_image(data, "x") for data in files * 20]
    for photo in photos:
        white = np.iinfo(photo.pixels.dtype).max
        assert np.abs(photo.pixels[15, 30] / white - (1, 0, 0)).max() < 0.01


def test_heic_without_its_extra_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(MissingError) as failure:
        decode_image((ASSETS / "red_alpha.heic").read_bytes(), "x")
    assert failure.value.hint == "pip install 'stylematte[heic]'"
