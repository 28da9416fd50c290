"""EXR files against FFmpeg's reader, and transfer functions against values by hand."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import exr
from stylematte.media.frame_sequence import read_exr


def read(path: Path, data: bytes) -> NDArray[np.float64]:
    """Read with FFmpeg alone: (H, W) grey or (H, W, 3 or 4) RGBA."""
    path.write_bytes(data)
    with av.open(str(path), format="exr_pipe") as container:
        frame = next(container.decode(video=0))
    dtype = np.float16 if "f16" in frame.format.name else np.float32
    planes = [np.frombuffer(part, dtype).reshape(part.height, -1)[:, : part.width] for part in frame.planes]
    order = [2, 0, 1, 3][: len(planes)]  # it stores green, blue, red, alpha
    return (
        np.dstack([planes[index] for index in order] if len(planes) > 1 else planes).squeeze().astype(float)
    )


@pytest.mark.parametrize("size", [(1, 1), (16, 5), (37, 53)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_comes_back(tmp_path: Path, rng: np.random.Generator, size: tuple, dtype: type) -> None:
    white = np.iinfo(dtype).max
    pixels = rng.integers(0, white + 1, (*size, 4)).astype(dtype)
    pixels[: size[0] // 2] = pixels[0, 0]  # one half compresses, one does not
    light = exr.to_linear(pixels[:, :, :3] / white, exr.SRGB)
    alpha = pixels[:, :, 3:] / white
    for premultiplied in (False, True):
        found = read(tmp_path / "a.exr", exr.encode_exr(pixels, exr.SRGB, 1, premultiplied, {"comment": "x"}))
        expected = np.dstack([light * alpha if premultiplied else light, alpha])
        # Half floats have 11 bits.
        assert np.abs(found.reshape(expected.shape) - expected).max() <= 2**-11
    opaque = read(tmp_path / "b.exr", exr.encode_exr(pixels[:, :, :3], exr.SRGB, 1, False, {}))
    assert np.abs(opaque.reshape(light.shape) - light).max() <= 2**-11
    grey = read(tmp_path / "c.exr", exr.encode_exr(pixels[:, :, 3], exr.SRGB, 1, False, {}))
    assert np.abs(grey.reshape(size) - alpha[:, :, 0]).max() <= 2**-11, (
        "alpha is linear, whatever the colours"
    )


def test_our_reader_undoes_premultiplication(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (9, 7, 4)).astype(np.uint16)
    pixels[:, :, 3] |= 0x4000
    path = tmp_path / "a.exr"
    path.write_bytes(exr.encode_exr(pixels, exr.SRGB, 1, True, {}))
    photo = read_exr(path)
    assert photo.alpha is not None
    assert np.abs(photo.alpha / 65535 - pixels[:, :, 3] / 65535).max() <= 2**-11
    assert np.abs(photo.pixels / 65535 - pixels[:, :, :3] / 65535).max() <= 0.004


@pytest.mark.parametrize(
    ("transfer", "code", "light"),
    [
        (exr.SRGB, 0.5, 0.2140411),  # IEC 61966-2-1
        (exr.SRGB, 0.04, 0.04 / 12.92),
        (1, 0.5, 0.2595894),  # ((0.5 + 0.099) / 1.099) ** (1 / 0.45)
        (1, 0.081 / 2, 0.009),
        (14, 1.0, 1.0),
        (4, 0.5, 0.5**2.2),
        (exr.LINEAR, 0.3, 0.3),
    ],
)
def test_light(transfer: int, code: float, light: float) -> None:
    assert exr.to_linear(np.array([code]), transfer)[0] == pytest.approx(light, rel=1e-5)


def test_light_on_another_scale_is_refused() -> None:
    for transfer, name in {16: "PQ", 18: "HLG", 9: "9 of H.273"}.items():
        with pytest.raises(InputError, match=name):
            exr.encode_exr(np.zeros((2, 2, 3), np.uint8), transfer, 1, False, {})


def test_srgb_there_and_back() -> None:
    codes = np.arange(65536)
    assert np.array_equal(exr.from_linear(exr.to_linear(codes / 65535, exr.SRGB)), codes)
