"""Kinds of files that came out wrong without a word: orientation, transparency, pages, metadata, HEIC."""

import io
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from stylematte.errors import InputError, MissingError
from stylematte.media import formats, metadata, vips
from stylematte.media.decode import decode_image, measure
from stylematte.media.images import encode_image, read_image
from tests.drawn_photos import (
    drawn,
    gps_photo,
    grey,
    off,
    pillow,
    tiff,
)
from tests.images import ASSETS, STORED, exif_bytes, exif_of


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
