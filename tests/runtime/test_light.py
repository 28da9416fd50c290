"""PQ, HLG and floating point become light; colour codes and min-is-white mean what the standards say."""

import struct

import numpy as np
import pytest

from stylematte.media import colour, hdr
from stylematte.media.decode import decode_image
from tests.drawn_photos import drawn, pillow, png_with, tiff


@pytest.mark.parametrize(
    ("transfer", "code", "light"),
    [
        (colour.PQ, 0.508078, 100 / 203),  # ITU-R BT.2100: 100 cd/m2
        (colour.PQ, 0.580689, 1.0),  # BT.2408: white
        (colour.PQ, 0.751827, 1000 / 203),
        (colour.PQ, 1.0, 10000 / 203),
        (colour.PQ, 0.0, 0.0),
        (colour.HLG, 0.75, 1.0),
        (colour.HLG, 0.5, 1 / 12 / 0.264963),
        (colour.HLG, 1.0, 1 / 0.264963),
    ],
)
def test_light_of_pq_and_hlg(transfer: int, code: float, light: float) -> None:
    assert hdr.light_of(np.array([code]), transfer)[0] == pytest.approx(light, rel=2e-4, abs=1e-9)


@pytest.mark.parametrize("transfer", [colour.PQ, colour.HLG])
def test_avif_of_pq_and_hlg_is_light(transfer: int) -> None:
    data = pillow(drawn(), "AVIF", quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    photo = decode_image(data[:at] + struct.pack(">HH", 9, transfer) + data[at + 4 :], "x")
    assert photo.light is not None
    assert photo.light.primaries == colour.PRIMARIES[9]
    numbers = decode_image(data, "x").pixels
    expected = hdr.light_of(numbers / 255, transfer)
    np.testing.assert_allclose(photo.pixels, expected, rtol=1e-5)
    assert photo.srgb.dtype == np.uint16
    assert "keeps its light" in photo.notes[0]


def test_png_of_pq_is_light_and_a_mask_of_it_is_data() -> None:
    data = png_with(pillow(drawn(), "PNG"), (b"cICP", bytes((9, 16, 0, 1))))
    photo = decode_image(data, "x")
    np.testing.assert_allclose(photo.pixels, hdr.light_of(drawn() / 255, colour.PQ), rtol=1e-5)
    assert decode_image(data, "x", is_data=True).light is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floating_point_tiff_is_linear_light(dtype: type, rng: np.random.Generator) -> None:
    light = rng.uniform(-0.1, 3, (20, 30, 3)).astype(dtype)
    photo = decode_image(tiff(light, photometric="rgb"), "x")
    np.testing.assert_array_equal(photo.pixels, light.astype(np.float32))
    assert photo.light is not None
    assert photo.notes == ("floating point: taken as linear light",)
    half = np.full((20, 30, 1), 0.5, dtype)
    for extra in ("unassalpha", "assocalpha"):
        data = tiff(np.dstack([light, half]), photometric="rgb", extrasamples=[extra])
        photo = decode_image(data, "x")
        scale = 2 if extra == "assocalpha" else 1
        np.testing.assert_allclose(photo.pixels, light.astype(np.float32) * scale, rtol=1e-3)
        np.testing.assert_array_equal(photo.alpha, half[:, :, 0].astype(np.float32))
    grey = decode_image(tiff(light[:, :, 0], photometric="minisblack"), "x")
    np.testing.assert_array_equal(grey.pixels[:, :, 2], light[:, :, 0].astype(np.float32))


def test_cicp_of_p3_is_shown_by_the_standard() -> None:
    """Primaries 12, transfer 13: the curve of sRGB, not 2.2; against matrices of Lindbloom's form by hand."""
    numbers = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    photo = decode_image(png_with(pillow(numbers, "PNG"), (b"cICP", bytes((12, 13, 0, 1)))), "x")
    # P3 to linear BT.709: [1.2249 -0.2247 0; -0.0420 1.0419 0; -0.0197 -0.0786 1.0979]
    light = np.array([200, 100, 50]) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09828]])
    linear = matrix @ light
    expected = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(photo.srgb[4, 4] - expected).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_min_is_white_is_turned_as_the_tag_says(dtype: type) -> None:
    """TIFF 6.0: 0 is imaged as white; so do libtiff's own RGBA reader, OpenCV and libvips."""
    values = np.linspace(0, np.iinfo(dtype).max, 24 * 16).reshape(16, 24).astype(dtype)
    photo = decode_image(tiff(values, photometric="miniswhite"), "x")
    np.testing.assert_array_equal(photo.pixels[:, :, 1], np.iinfo(dtype).max - values)
