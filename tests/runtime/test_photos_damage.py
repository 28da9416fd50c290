"""Damaged files are named, and sound oddities pass."""

import functools
import io
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from stylematte.errors import InputError
from stylematte.media import vips
from stylematte.media.decode import decode_image
from tests.drawn_photos import (
    DAMAGED,
    drawn,
    photographic,
    pillow,
    tiff,
)


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


def test_threads_prepare_libvips_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders are blocked while it is prepared: a second time would fail what other threads decode."""
    calls = []

    @functools.cache
    def prepare() -> object:
        calls.append(1)
        time.sleep(0.05)
        return object()

    monkeypatch.setattr(vips, "_prepared", prepare)
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: vips.library(), range(6)))
    assert len(calls) == len(found) == 1


def test_an_error_that_may_still_empty_the_buffer_is_suspicious() -> None:
    """It was counted before the work began, and may remove the work's message afterwards."""
    with vips.messages.emptying():
        assert vips.messages.run(lambda: 7, "VipsJpeg") == (7, True)
    vips.messages.run_alone(lambda: None)  # empties the buffer
    assert vips.messages.run(lambda: 7, "VipsJpeg") == (7, False)


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
