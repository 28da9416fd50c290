"""Colours that came out wrong without a word: profiles, CMYK, Lab; values by Pillow or by hand."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from stylematte.media import colour, vips
from stylematte.media.decode import decode_image
from stylematte.media.images import encode_image
from tests.drawn_photos import (
    ADOBE,
    P3_GAMMA,
    PROPHOTO,
    deep,
    drawn,
    grey,
    off,
    pillow,
    png_with,
    through,
    tiff,
)


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
