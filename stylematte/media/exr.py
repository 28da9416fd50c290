"""OpenEXR files through the OpenEXR package: scene-linear light with alpha, as compositors want it."""

import importlib
import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError, MissingError
from stylematte.media import colour
from stylematte.media.colour import HLG, LINEAR, PQ, PRIMARIES, SRGB, Primaries
from stylematte.media.photo import Light, Photo

BT709 = colour.BT709
UNSPECIFIED_TRANSFER = colour.UNSPECIFIED
_LIKE_BT709 = (1, 6, 14, 15, UNSPECIFIED_TRANSFER)  # 601, 709 and 2020 share one curve
_GAMMAS = {4: 2.2, 5: 2.8}
_MOST_HALF = 65504.0
Compression = Literal["zip", "piz", "dwaa", "none"]
_COMPRESSIONS = {"zip": "ZIP", "piz": "PIZ", "dwaa": "DWAA", "none": "NO"}
_RGB = ("R", "G", "B")
_FOREGROUND = tuple(f"foreground.{key}" for key in _RGB)
_BACKGROUND = tuple(f"background.{key}" for key in _RGB)
# What channels of pixels mean, by their number; layers follow the picture that viewers show.
_NAMES: dict[int, tuple[str, ...]] = {
    3: _RGB,
    4: (*_RGB, "A"),
    8: (*_RGB, "A", "alpha.A", *_FOREGROUND),
    10: (*_RGB, "alpha.A", *_FOREGROUND, *_BACKGROUND),
}
_SHOULDER = 0.8  # light from which on brightness is compressed


def library(name: str = "exr") -> Any:
    """Import OpenEXR.

    Raises:
        MissingError: It is not installed.
    """
    try:
        return importlib.import_module("OpenEXR")
    except ModuleNotFoundError:
        raise MissingError(
            f"{name}: EXR needs OpenEXR, which is not installed", "pip install 'stylematte[exr]'"
        ) from None


def decode_exr(data: bytes, name: str) -> Photo:
    """Decode an EXR.

    Args:
        data: The file.
        name: What messages call it.

    Returns:
        `pixels` are float32 light, divided by the alpha that they were multiplied by, beyond 0 and 1 as in
        the file; the size is that of the display window.

    Raises:
        MissingError: OpenEXR is not installed.
        InputError: Damaged, or without an image that can be matted.
    """
    library_ = library(name)
    try:
        part = library_.File(io.BytesIO(data), separate_channels=True).parts[0]
        channels = {key: channel.pixels for key, channel in part.channels.items()}
        header = dict(part.header)
    except Exception as error:  # OpenEXR raises what its parts happen to raise
        raise InputError(
            f"{name}: damaged, truncated, or not supported by OpenEXR", "Get the file again"
        ) from error
    layer, notes = _choose_layer(channels, name)
    planes = [channels[layer + key] for key in ("RGB" if layer + "R" in channels else "YYY")]
    if len({plane.shape for plane in planes}) > 1:
        raise InputError(f"{name}: EXR with subsampled colours is not supported", "Save it as RGB")
    is_single = planes[0].dtype == np.float32
    colours = np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1)
    if not all(np.isfinite(plane).all() for plane in planes):
        notes = (
            *notes,
            "numbers in it that are none (NaN or infinite) count as 0 or as the brightest there is",
        )
    np.nan_to_num(colours, copy=False, nan=0.0, posinf=_MOST_HALF, neginf=-_MOST_HALF)
    alpha = channels.get(layer + "A")
    if alpha is not None:
        alpha = np.clip(np.nan_to_num(np.asarray(alpha, np.float32)), 0, 1)
        colours /= np.where(alpha > 0, alpha, 1)[:, :, None]
    colours, alpha = _in_display_window(colours, alpha, header)
    if alpha is not None and alpha.min() == 1:
        alpha = None
    primaries: Any = tuple(map(float, header.get("chromaticities", PRIMARIES[BT709])))
    shape = float(header.get("pixelAspectRatio", 1.0))
    shape = shape if 0.01 < shape < 100 else 1.0
    return Photo(colours, alpha, notes=notes, light=Light(primaries, is_single, shape))


def measure(data: bytes) -> tuple[int, int, int]:
    """Read height, width and bytes a channel, as it will be decoded."""
    part = library().File(io.BytesIO(data), header_only=True).parts[0]
    (left, top), (right, bottom) = (np.asarray(corner).tolist() for corner in part.header["displayWindow"])
    return bottom - top + 1, right - left + 1, 4


def _choose_layer(channels: Mapping[str, Any], name: str) -> tuple[str, tuple[str, ...]]:
    """Prefix of the channels to take: those without one, else the first layer by name."""
    layers = sorted({key.rpartition(".")[0] for key in channels if key.rpartition(".")[2] in ("R", "Y")})
    if not layers:
        raise InputError(f"{name}: it has neither the channels R, G and B nor Y", "Save it as RGB")
    layer = layers[0]
    notes = () if layer == "" or len(layers) == 1 else (f"layer {layer} of {', '.join(layers)}",)
    return (f"{layer}." if layer else ""), notes


def _in_display_window(
    colours: NDArray[np.float32], alpha: NDArray[np.float32] | None, header: Mapping[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Cut what lies outside of the display window, and fill with nothing what the data leave free of it."""
    (left, top), (right, bottom) = (np.asarray(corner).tolist() for corner in header["displayWindow"])
    (data_left, data_top), _ = (np.asarray(corner).tolist() for corner in header["dataWindow"])
    size = bottom - top + 1, right - left + 1
    if (data_left, data_top) == (left, top) and colours.shape[:2] == size:
        return colours, alpha
    alpha = np.ones(colours.shape[:2], np.float32) if alpha is None else alpha
    whole = np.zeros((*size, 4), np.float32)
    down, across = data_top - top, data_left - left
    rows = slice(max(0, down), max(0, min(size[0], down + len(colours))))
    columns = slice(max(0, across), max(0, min(size[1], across + colours.shape[1])))
    inner = slice(rows.start - down, rows.stop - down), slice(columns.start - across, columns.stop - across)
    whole[rows, columns, :3], whole[rows, columns, 3] = colours[inner], alpha[inner]
    return np.ascontiguousarray(whole[:, :, :3]), np.ascontiguousarray(whole[:, :, 3])


def encode_exr(
    pixels: NDArray[Any],
    transfer: int,
    primaries: int | Primaries,
    premultiplied: bool,
    facts: Mapping[str, str],
    is_single: bool = False,
    pixel_shape: float = 1.0,
    compression: Compression = "zip",
) -> bytes:
    """Encode an image.

    Args:
        pixels: (H, W) alpha, (H, W, 3) RGB, (H, W, 4) straight RGBA, or one of the latter with the layers of
            `with_layers`; uint8, uint16, or float32, whose colours are light already. Alone, an alpha is
            written as channel Y, which programs show as grey. Alpha is linear and stays as it is.
        transfer: From the numbers of the colours to light, as in H.273; 1.0 is their white.
        primaries: As in H.273, or their x and y.
        premultiplied: Multiply the colours, once they are linear, by alpha; layers stay straight.
        facts: Text attributes.
        is_single: Write float instead of half.
        pixel_shape: Width of a pixel over its height.
        compression: `dwaa` alone loses something.

    Raises:
        MissingError: OpenEXR is not installed.
        InputError: A transfer whose light is not on this scale, as PQ and HLG.
    """
    library_ = library()
    names = ("Y",) if pixels.ndim == 2 else _NAMES[pixels.shape[2]]
    planes = pixels.reshape(*pixels.shape[:2], -1)
    table = None
    if pixels.dtype != np.float32:
        codes = np.linspace(0, 1, int(np.iinfo(pixels.dtype).max) + 1)
        linear = codes.astype(np.float32)
        table = to_linear(codes, transfer).astype(np.float32) if pixels.ndim == 3 else linear
    channels: dict[str, NDArray[Any]] = {}
    for index, key in enumerate(names):
        plane = planes[:, :, index]
        if table is not None:
            plane = linear[plane] if key.endswith("A") else table[plane]
        channels[key] = plane
    if premultiplied and "A" in channels:
        channels |= {key: channels[key] * channels["A"] for key in _RGB}
    chromaticities = primaries if isinstance(primaries, tuple) else PRIMARIES.get(primaries, PRIMARIES[BT709])
    header = {
        "compression": getattr(library_, f"{_COMPRESSIONS[compression]}_COMPRESSION"),
        "type": library_.scanlineimage,
        "chromaticities": chromaticities,
        "pixelAspectRatio": pixel_shape,
        **facts,
    }
    file = io.BytesIO()
    written = {key: _number(plane, is_single) for key, plane in channels.items()}
    library_.File(header, written).write(file)
    return file.getvalue()


def with_layers(
    pixels: NDArray[Any], alpha: NDArray[Any], foreground: NDArray[Any], background: NDArray[Any] | None
) -> NDArray[Any]:
    """Put what a result was made of behind its channels, as `encode_exr` takes it.

    Args:
        pixels: (H, W, 4) cut-out, or (H, W, 3) composite.
        alpha: (H, W).
        foreground: (H, W, 3), straight.
        background: (H, W, 3) of a composite; None for a cut-out.
    """
    layers = [pixels, alpha, foreground] + ([] if background is None else [background])
    return np.dstack(layers)


def colour_groups(channels: int) -> list[int]:
    """First channel of each three that are colours, of an array as `encode_exr` takes it."""
    return [index for index, key in enumerate(_NAMES[channels]) if key.rpartition(".")[2] == "R"]


def _number(plane: NDArray[Any], is_single: bool) -> NDArray[Any]:
    if is_single:
        return np.ascontiguousarray(plane, np.float32)
    return np.ascontiguousarray(np.clip(plane, -_MOST_HALF, _MOST_HALF), np.float16)


def seen(light: NDArray[np.float32], primaries: Primaries) -> NDArray[np.uint16]:
    """What the network sees of a scene: sRGB, with a shoulder for what is brighter than white.

    Args:
        light: (H, W, 3), 1 for white.
        primaries: Of the light.
    """
    result = np.empty(light.shape, np.uint16)
    shoulder = _SHOULDER if float(light.max()) > 1 else 1.0
    matrix = colour.matrix_to_bt709(primaries).astype(np.float32)
    rows = max(1, (1 << 20) // light.shape[1])
    for top in range(0, len(light), rows):
        strip = light[top : top + rows] @ matrix.T
        if shoulder < 1:
            over = np.maximum(strip - shoulder, 0) / (1 - shoulder)
            strip = np.minimum(strip, shoulder) + (1 - shoulder) * (1 - np.exp(-over))
        result[top : top + rows] = from_linear(strip)
    return result


def light_of(srgb: NDArray[Any], primaries: Primaries) -> NDArray[np.float32]:
    """Turn sRGB colours into light of some primaries.

    Args:
        srgb: (H, W, 3) uint8, uint16, or float32 in [0, 1].
        primaries: Of the light.
    """
    values = srgb if srgb.dtype == np.float32 else srgb / np.float32(np.iinfo(srgb.dtype).max)
    matrix = np.linalg.inv(colour.matrix_to_bt709(primaries))
    return np.asarray(to_linear(values, SRGB) @ matrix.T, np.float32)


def srgb_of(light: NDArray[np.float32], primaries: Primaries) -> NDArray[np.uint16]:
    """Encode light of some primaries as sRGB with 16 bits; what is beyond 0 and 1 is cut off."""
    return from_linear(light @ colour.matrix_to_bt709(primaries).astype(np.float32).T)


def to_linear(values: NDArray[Any], transfer: int) -> NDArray[Any]:
    """Turn encoded colours into light.

    Args:
        values: In [0, 1].
        transfer: As in H.273. Where nothing is said, the curve of BT.709 is undone.

    Returns:
        In [0, 1], 1 for the white of the source.

    Raises:
        InputError: Light on another scale, or a transfer that the tool does not know.

    Reference:
        H.273 table 3: the functions of numbers 1, 4, 5, 8 and 13, inverted.
    """
    if transfer == LINEAR:
        return values
    if transfer == SRGB:
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if transfer in _LIKE_BT709:
        return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))
    if transfer in _GAMMAS:
        return values ** _GAMMAS[transfer]
    name = {PQ: "PQ", HLG: "HLG"}.get(transfer, f"{transfer} of H.273")
    raise InputError(f"transfer {name} cannot be converted to linear light for exr", "Use --format tiff")


def from_linear(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Encode light as sRGB with 16 bits; what is brighter than 1 is cut off.

    Args:
        values: Floating point, any shape.
    """
    light = np.clip(values, 0, 1)
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    rounded: NDArray[np.uint16] = (encoded * 65535 + 0.5).astype(np.uint16)
    return rounded
