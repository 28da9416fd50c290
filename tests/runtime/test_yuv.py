"""Y'CbCr and RGB against the equations of H.273, by hand and in float64."""

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media.yuv import FULL, LIMITED, MATRICES, RGB, Colour, from_rgb, plane, to_photo

SIZE = (18, 46)  # (height, width): even, and no multiple of what vector code likes


def flat(colour: NDArray[np.float64], channels: int = 3) -> NDArray[np.uint16]:
    return np.broadcast_to(np.round(colour[:channels] * 65535), (*SIZE, channels)).astype(np.uint16)


def codes(colour: NDArray[np.float64], matrix: int, bits: int, full: bool) -> NDArray[np.float64]:
    """Y', Cb, Cr of a colour in [0, 1]: H.273, equations 20 to 22 and 38 to 40."""
    red, blue = MATRICES[matrix]
    luma = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
    pair = np.array([(colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red)])
    if full:
        white = 2**bits - 1
        return np.array([luma * white, *(pair * white + 2 ** (bits - 1))])
    scale = 2 ** (bits - 8)
    return np.array([(219 * luma + 16) * scale, *((224 * pair + 128) * scale)])


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("pixel_format", "bits"),
    [("yuv420p", 8), ("yuv444p", 8), ("yuv420p10le", 10), ("yuv422p10le", 10), ("yuv444p12le", 12)],
)
def test_codes_of_flat_colours(
    rng: np.random.Generator, matrix: int, full: bool, pixel_format: str, bits: int
) -> None:
    tags = Colour(matrix=matrix, range=FULL if full else LIMITED)
    for colour in [*rng.random((4, 3)), np.zeros(3), np.ones(3), np.array([1.0, 0, 0])]:
        frame = from_rgb(flat(colour), pixel_format, tags)
        expected = np.clip(codes(colour, matrix, bits, full), 0, 2**bits - 1)
        for index in range(3):
            # What has more than 8 bits is rounded once; FFmpeg's tables are good to a code of 8 bits.
            assert np.abs(plane(frame, index) - expected[index]).max() <= (0.51 if bits > 8 else 1.5)
        assert (frame.colorspace, frame.color_range) == (matrix, tags.range)

        back = to_photo(frame, tags).pixels
        assert back.dtype == (np.uint8 if bits == 8 else np.uint16)
        step = 1.9 if full else 2.2  # of luma and both chromas, each off by half a code
        error = np.abs(back / np.iinfo(back.dtype).max - colour).max() * (2**bits - 1)
        assert error <= (step if bits > 8 else 2 * step)


@pytest.mark.parametrize("pixel_format", ["yuva420p", "yuva444p10le"])
@pytest.mark.parametrize("full", [False, True])
def test_alpha_is_never_scaled_to_a_range(rng: np.random.Generator, pixel_format: str, full: bool) -> None:
    pixels = rng.integers(0, 65536, (*SIZE, 4)).astype(np.uint16)
    tags = Colour(matrix=1, range=FULL if full else LIMITED)
    most = 1023 if "10" in pixel_format else 255
    frame = from_rgb(pixels, pixel_format, tags)
    assert np.abs(plane(frame, 3) - pixels[:, :, 3] / 65535 * most).max() <= 0.51
    photo = to_photo(frame, tags)
    assert photo.alpha is not None
    white = np.iinfo(photo.alpha.dtype).max
    assert np.abs(photo.alpha / white - plane(frame, 3) / most).max() <= 1 / 65535


@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv420p", 8), ("yuv422p10le", 10)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_matte_as_luma(rng: np.random.Generator, pixel_format: str, bits: int, dtype: type) -> None:
    white = np.iinfo(dtype).max
    alpha = rng.integers(0, white + 1, SIZE).astype(dtype)
    frame = from_rgb(alpha, pixel_format, Colour(matrix=1, range=LIMITED))
    expected = (16 + 219 * (alpha / white)) * 2 ** (bits - 8)
    assert np.abs(plane(frame, 0) - expected).max() <= 0.51
    assert (plane(frame, 1) == 2 ** (bits - 1)).all()
    assert (plane(frame, 2) == 2 ** (bits - 1)).all()


def test_lines_do_not_spoil_each_other() -> None:
    # FFmpeg's threads once wrote past the ends of lines of such widths, every fortieth time or so.
    pixels = flat(np.array([0.9, 0.2, 0.4]))
    for _ in range(200):
        frame = from_rgb(pixels, "yuv422p10le", Colour(matrix=1, range=LIMITED))
        assert np.ptp(plane(frame, 1)) == 0
        assert np.ptp(to_photo(frame, Colour(matrix=1, range=LIMITED)).pixels, axis=(0, 1)).max() == 0


@pytest.mark.parametrize("pixel_format", ["gbrp10le", "gbrp16le", "rgb48le", "bgr0", "gbrap12le", "rgba"])
def test_rgb_formats_pass_as_they_are(rng: np.random.Generator, pixel_format: str) -> None:
    has_alpha = pixel_format in ("gbrap12le", "rgba")
    pixels = rng.integers(0, 65536, (*SIZE, 4 if has_alpha else 3)).astype(np.uint16)
    bits = av.VideoFormat(pixel_format, *SIZE).components[0].bits
    photo = to_photo(from_rgb(pixels, pixel_format, Colour(matrix=RGB)), Colour(matrix=RGB))
    white = np.iinfo(photo.pixels.dtype).max
    assert np.abs(photo.pixels / white - pixels[:, :, :3] / 65535).max() <= 1.01 / (2**bits - 1)
    assert (photo.alpha is not None) is has_alpha


def test_grey_that_is_not_said_follows_the_size() -> None:
    assert Colour().matrix_for(576) == 6
    assert Colour().matrix_for(720) == 1
    assert Colour(matrix=RGB).matrix_for(480) == 1, "RGB becomes BT.709"
    assert Colour(matrix=9).matrix_for(480) == 9
    with pytest.raises(InputError, match="matrix 14"):
        Colour(matrix=14).matrix_for(1080)
