"""EXR files against FFmpeg's reader, and transfer functions against values by hand."""

import io
from pathlib import Path

import av
import numpy as np
import OpenEXR
import pytest
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import exr
from stylematte.media.colour import LINEAR, SRGB
from stylematte.media.decode import decode_image
from stylematte.media.images import read_image


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
    light = exr.to_linear(pixels[:, :, :3] / white, SRGB)
    alpha = pixels[:, :, 3:] / white
    for premultiplied in (False, True):
        found = read(tmp_path / "a.exr", exr.encode_exr(pixels, SRGB, 1, premultiplied, {"comment": "x"}))
        expected = np.dstack([light * alpha if premultiplied else light, alpha])
        # Half floats have 11 bits.
        assert np.abs(found.reshape(expected.shape) - expected).max() <= 2**-11
    opaque = read(tmp_path / "b.exr", exr.encode_exr(pixels[:, :, :3], SRGB, 1, False, {}))
    assert np.abs(opaque.reshape(light.shape) - light).max() <= 2**-11
    grey = read(tmp_path / "c.exr", exr.encode_exr(pixels[:, :, 3], SRGB, 1, False, {}))
    assert np.abs(grey.reshape(size) - alpha[:, :, 0]).max() <= 2**-11, (
        "alpha is linear, whatever the colours"
    )


def test_our_reader_undoes_premultiplication(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (9, 7, 4)).astype(np.uint16)
    pixels[:, :, 3] |= 0x4000
    path = tmp_path / "a.exr"
    path.write_bytes(exr.encode_exr(pixels, SRGB, 1, True, {}))
    photo = read_image(path)
    assert photo.alpha is not None
    assert np.abs(photo.alpha - pixels[:, :, 3] / 65535).max() <= 2**-11
    assert np.abs(photo.pixels - exr.to_linear(pixels[:, :, :3] / 65535, SRGB)).max() <= 0.002
    assert np.abs(photo.srgb / 65535 - pixels[:, :, :3] / 65535).max() <= 0.004


def scene(rng: np.random.Generator) -> NDArray[np.float32]:
    """Light from below 0 to a lamp."""
    light = rng.uniform(-0.1, 2, (24, 32, 3)).astype(np.float32)
    light[3:6, 4:9] = 900.0
    return light


def exr_file(header: dict[str, object], channels: dict[str, NDArray], kind: str = "ZIP") -> bytes:
    file = io.BytesIO()
    whole = {"compression": getattr(OpenEXR, f"{kind}_COMPRESSION"), "type": OpenEXR.scanlineimage, **header}
    OpenEXR.File(whole, channels).write(file)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", ["ZIP", "PIZ", "DWAA", "NO"])
def test_light_comes_in_as_it_is(kind: str, dtype: type, rng: np.random.Generator) -> None:
    light = scene(rng)
    planes = {key: np.ascontiguousarray(light[:, :, i].astype(dtype)) for i, key in enumerate("RGB")}
    photo = decode_image(exr_file({}, planes, kind), "x")
    slack = 0.1 if kind == "DWAA" else 1e-3
    assert np.abs(photo.pixels / light - 1)[np.abs(light) > 0.5].max() <= slack
    assert photo.light is not None
    assert photo.light.is_single == (dtype == np.float32)
    assert photo.alpha is None


def test_windows_layers_and_what_is_no_image() -> None:
    plane = np.full((4, 6), 0.5, np.float32)
    window = (np.array([2, 1], np.int32), np.array([7, 4], np.int32))
    display = (np.array([0, 0], np.int32), np.array([9, 5], np.int32))
    data = exr_file({"dataWindow": window, "displayWindow": display}, dict.fromkeys("RGB", plane))
    photo = decode_image(data, "x")
    assert photo.pixels.shape == (6, 10, 3)
    assert photo.alpha is not None
    assert (photo.alpha[1:5, 2:8].min(), photo.alpha.sum()) == (1, 24)

    layers = {f"{layer}.{key}": plane for layer in ("fog", "hero") for key in "RGB"}
    assert decode_image(exr_file({}, layers), "x").notes == ("layer fog of fog, hero",)
    with pytest.raises(InputError, match="neither the channels R, G and B"):
        decode_image(exr_file({}, {"Z": plane}), "x")
    whole = exr_file({}, dict.fromkeys("RGB", np.random.default_rng(0).uniform(size=(64, 64)).astype("f")))
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(InputError, match="damaged, truncated"):
            decode_image(whole[: int(len(whole) * share)], "x")


@pytest.mark.parametrize("compression", ["zip", "piz", "dwaa", "none"])
def test_compressions_are_as_asked_for(compression: exr.Compression, rng: np.random.Generator) -> None:
    light = np.clip(scene(rng), -1, 4)
    data = exr.encode_exr(light, LINEAR, 1, False, {}, compression=compression)
    part = OpenEXR.File(io.BytesIO(data)).parts[0]
    found = {"zip": "ZIP", "piz": "PIZ", "dwaa": "DWAA", "none": "NO"}[compression]
    assert part.header["compression"] == getattr(OpenEXR, f"{found}_COMPRESSION")
    slack = 0.1 if compression == "dwaa" else 2**-9
    assert np.abs(decode_image(data, "x").pixels - light).max() <= slack


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_layers_have_names_and_colours_become_light_in_each(dtype: type, rng: np.random.Generator) -> None:
    is_light = dtype == np.float32
    values = rng.uniform(0, 1, (7, 9, 10)).astype(np.float32)
    pixels = values if is_light else (values * 65535 + 0.5).astype(np.uint16)
    cutout, composite, alpha = pixels[:, :, :4], pixels[:, :, :3], pixels[:, :, 3]
    foreground, behind = pixels[:, :, 4:7], pixels[:, :, 7:]
    light = values if is_light else exr.to_linear(pixels / 65535, SRGB)
    opacity = values[:, :, 3] if is_light else alpha / 65535

    def channels(array: NDArray, premultiplied: bool) -> dict[str, NDArray]:
        data = exr.encode_exr(array, SRGB, 1, premultiplied, {}, is_single=True)
        part = OpenEXR.File(io.BytesIO(data), separate_channels=True).parts[0]
        return {key: channel.pixels for key, channel in part.channels.items()}

    found = channels(exr.with_layers(cutout, alpha, foreground, None), True)
    expected = {"A": opacity, "alpha.A": opacity}
    expected |= {key: light[:, :, index] * opacity for index, key in enumerate("RGB")}
    expected |= {f"foreground.{key}": light[:, :, 4 + index] for index, key in enumerate("RGB")}
    assert found.keys() == expected.keys()
    for key, plane in expected.items():
        np.testing.assert_allclose(found[key], plane, atol=1e-6, err_msg=key)

    found = channels(exr.with_layers(composite, alpha, foreground, behind), False)
    expected = {"alpha.A": opacity}
    expected |= {key: light[:, :, index] for index, key in enumerate("RGB")}
    expected |= {f"foreground.{key}": light[:, :, 4 + index] for index, key in enumerate("RGB")}
    expected |= {f"background.{key}": light[:, :, 7 + index] for index, key in enumerate("RGB")}
    assert found.keys() == expected.keys()
    for key, plane in expected.items():
        np.testing.assert_allclose(found[key], plane, atol=1e-6, err_msg=key)


def test_the_network_sees_primaries_and_highlights_toned() -> None:
    """A white of 1 stays white where nothing is brighter, and brighter light stays apart from it."""
    aces = (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767)
    white = np.ones((1, 3, 3), np.float32)
    assert exr.seen(white, aces).min() >= 65530
    white[0, 1], white[0, 2] = 4.0, 0.5
    found = exr.seen(white, aces)[0, :, 0].astype(int)
    assert found[2] == pytest.approx(int(exr.from_linear(np.array([0.5]))[0]), abs=40)
    assert found[2] < found[0] < found[1]


@pytest.mark.parametrize(
    ("transfer", "code", "light"),
    [
        (SRGB, 0.5, 0.2140411),  # IEC 61966-2-1
        (SRGB, 0.04, 0.04 / 12.92),
        (1, 0.5, 0.2595894),  # ((0.5 + 0.099) / 1.099) ** (1 / 0.45)
        (1, 0.081 / 2, 0.009),
        (14, 1.0, 1.0),
        (4, 0.5, 0.5**2.2),
        (LINEAR, 0.3, 0.3),
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
    assert np.array_equal(exr.from_linear(exr.to_linear(codes / 65535, SRGB)), codes)
