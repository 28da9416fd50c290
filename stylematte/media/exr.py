"""Read and write OpenEXR files with the OpenEXR package: scene-linear light with alpha, for compositing."""

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
_LIKE_BT709 = (1, 6, 14, 15, UNSPECIFIED_TRANSFER)  # BT.601, 709 and 2020 share one curve
_GAMMAS = {4: 2.2, 5: 2.8}
_MOST_HALF = 65504.0
Compression = Literal["zip", "piz", "dwaa", "none"]
_COMPRESSIONS = {"zip": "ZIP", "piz": "PIZ", "dwaa": "DWAA", "none": "NO"}
_RGB = ("R", "G", "B")
_FOREGROUND = tuple(f"foreground.{key}" for key in _RGB)
_BACKGROUND = tuple(f"background.{key}" for key in _RGB)
# Channel names by the number of channels; layers follow the image that viewers show.
_NAMES: dict[int, tuple[str, ...]] = {
    3: _RGB,
    4: (*_RGB, "A"),
    8: (*_RGB, "A", "alpha.A", *_FOREGROUND),
    10: (*_RGB, "alpha.A", *_FOREGROUND, *_BACKGROUND),
}
_SHOULDER = 0.8  # light above this is compressed


def library(name: str = "exr") -> Any:
    """Import OpenEXR.

    Raises:
        MissingError: OpenEXR is not installed.
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
        name: Name of the image in messages.

    Returns:
        A photo of the display window's size. `pixels` are straight float32 light; values beyond 0 and 1 are
        kept.

    Raises:
        MissingError: OpenEXR is not installed.
        InputError: The file is damaged, or contains no supported image.
    """
    library_ = library(name)
    try:
        part = library_.File(io.BytesIO(data), separate_channels=True).parts[0]
        channels = {key: channel.pixels for key, channel in part.channels.items()}
        header = dict(part.header)
    except Exception as error:  # OpenEXR raises many kinds of exceptions
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
    """Read height, width and bytes per channel of the decoded image."""
    part = library().File(io.BytesIO(data), header_only=True).parts[0]
    (left, top), (right, bottom) = (np.asarray(corner).tolist() for corner in part.header["displayWindow"])
    return bottom - top + 1, right - left + 1, 4


def _choose_layer(channels: Mapping[str, Any], name: str) -> tuple[str, tuple[str, ...]]:
    """Return the prefix of the channels to use, and notes: the unnamed layer, else the first by name."""
    layers = sorted({key.rpartition(".")[0] for key in channels if key.rpartition(".")[2] in ("R", "Y")})
    if not layers:
        raise InputError(f"{name}: it has neither the channels R, G and B nor Y", "Save it as RGB")
    layer = layers[0]
    notes = () if layer == "" or len(layers) == 1 else (f"layer {layer} of {', '.join(layers)}",)
    return (f"{layer}." if layer else ""), notes


def _in_display_window(
    colours: NDArray[np.float32], alpha: NDArray[np.float32] | None, header: Mapping[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Crop to the display window; pixels of it outside the data window become transparent."""
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
        pixels: (H, W) alpha, (H, W, 3) RGB, (H, W, 4) straight RGBA, or one of the latter two with the layers
            of `with_layers`; uint8, uint16, or float32, whose colours are already linear light. An alpha on
            its own is written as channel Y, which programs show as grey. Alpha is linear and not converted.
        transfer: Transfer function of the colours, as in H.273; white becomes 1.0.
        primaries: Primaries as in H.273, or their x and y.
        premultiplied: Multiply the linear colours by alpha; layers stay straight.
        facts: Text attributes.
        is_single: Write float instead of half.
        pixel_shape: Width of a pixel over its height.
        compression: Compression method; only `dwaa` is lossy.

    Raises:
        MissingError: OpenEXR is not installed.
        InputError: The transfer function is not supported, such as PQ and HLG.
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
    """Append the components of a result to its channels, as input of `encode_exr`.

    Args:
        pixels: (H, W, 4) cut-out, or (H, W, 3) composite.
        alpha: (H, W).
        foreground: (H, W, 3), straight.
        background: (H, W, 3) background of a composite; None for a cut-out.
    """
    layers = [pixels, alpha, foreground] + ([] if background is None else [background])
    return np.dstack(layers)


def colour_groups(channels: int) -> list[int]:
    """Return the index of the first channel of each RGB triple in an array for `encode_exr`."""
    return [index for index, key in enumerate(_NAMES[channels]) if key.rpartition(".")[2] == "R"]


def _number(plane: NDArray[Any], is_single: bool) -> NDArray[Any]:
    if is_single:
        return np.ascontiguousarray(plane, np.float32)
    return np.ascontiguousarray(np.clip(plane, -_MOST_HALF, _MOST_HALF), np.float16)


def seen(light: NDArray[np.float32], primaries: Primaries) -> NDArray[np.uint16]:
    """Convert scene light to the network's input: sRGB, with a shoulder if anything is brighter than white.

    Args:
        light: (H, W, 3), 1 for white.
        primaries: Primaries of the light.
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
    """Convert sRGB colours to linear light with the given primaries.

    Args:
        srgb: (H, W, 3) uint8, uint16, or float32 in [0, 1].
        primaries: Primaries of the light.
    """
    values = srgb if srgb.dtype == np.float32 else srgb / np.float32(np.iinfo(srgb.dtype).max)
    matrix = np.linalg.inv(colour.matrix_to_bt709(primaries))
    return np.asarray(to_linear(values, SRGB) @ matrix.T, np.float32)


def srgb_of(light: NDArray[np.float32], primaries: Primaries) -> NDArray[np.uint16]:
    """Encode light with the given primaries as 16-bit sRGB; values beyond 0 and 1 are clipped."""
    return from_linear(light @ colour.matrix_to_bt709(primaries).astype(np.float32).T)


def to_linear(values: NDArray[Any], transfer: int) -> NDArray[Any]:
    """Convert encoded colours to linear light.

    Args:
        values: Code values in [0, 1].
        transfer: Transfer function as in H.273; unspecified is treated as BT.709.

    Returns:
        Light in [0, 1], 1 for the white of the source.

    Raises:
        InputError: The transfer function is not supported, such as PQ and HLG.

    Reference:
        H.273 table 3: inverses of the functions 1, 4, 5, 8 and 13.
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
    """Encode light as 16-bit sRGB; values beyond 0 and 1 are clipped.

    Args:
        values: Floating-point light, any shape.
    """
    light = np.clip(values, 0, 1)
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    rounded: NDArray[np.uint16] = (encoded * 65535 + 0.5).astype(np.uint16)
    return rounded
