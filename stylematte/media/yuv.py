"""Convert video frames between the Y'CbCr of codecs and RGB.

FFmpeg's scaler is only exact to 8 bits: 16-bit RGB comes back up to four 10-bit codes off. So it converts
8-bit frames, and deeper Y'CbCr frames are converted here, in floating point.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.imaging.geometry import STRIP_PX, convert, to_dtype
from stylematte.media.photo import Photo

# Code points of ISO/IEC 23091-2 (H.273), which FFmpeg uses too.
RGB, BT709, UNSPECIFIED, BT2020 = 0, 1, 2, 9
SMPTE170M = 6
MATRICES = {  # luma weights of red and blue, H.273 table 4
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    SMPTE170M: (0.299, 0.114),
    7: (0.212, 0.087),
    BT2020: (0.2627, 0.0593),
}
LIMITED, FULL = 1, 2  # FFmpeg's names for the range are MPEG and JPEG
_SCALER_NAMES = {
    4: "FCC",
    5: "ITU601",
    SMPTE170M: "ITU601",
    7: "SMPTE240M",
    BT709: "ITU709",
    BT2020: "BT2020",
}
SD_LINES, HD_COLUMNS = 576, 1280  # a frame with more lines, or at least as many columns, is HD

_FAST = int(Interpolation.BICUBIC)
# Interpolate chroma instead of repeating it: the difference shows along the edges of a matte.
_FINE = int(_FAST | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP)


@dataclass(frozen=True)
class Colour:
    """Colour description of a stream, as H.273 code points; 2 means unspecified.

    Attributes:
        primaries: Chromaticities of red, green and blue.
        transfer: Transfer function between light and code values.
        matrix: Matrix from RGB to Y'CbCr; 0 if the stream holds RGB.
        range: `LIMITED` (16..235 of 255), `FULL`, or 0 if unspecified.
    """

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0

    def as_players_take_it(self, height: int, width: int) -> "Colour":
        """Replace an unspecified matrix as players do, by the frame size."""
        if self.matrix not in (UNSPECIFIED, 3):
            return self
        return replace(self, matrix=self.matrix_for(height, width))

    def matrix_for(self, height: int, width: int = 0) -> int:
        """Return the matrix; if unspecified, that of HD or SD by the frame size; for RGB, that of HD.

        Raises:
            InputError: The matrix is not supported, such as YCgCo or ICtCp.
        """
        if self.matrix in (UNSPECIFIED, RGB, 3):
            is_hd = height > SD_LINES or width >= HD_COLUMNS or self.matrix == RGB
            return BT709 if is_hd else SMPTE170M
        if self.matrix not in MATRICES:
            raise InputError(
                f"colours in matrix {self.matrix} of H.273 are not supported", "Convert to BT.709 first"
            )
        return self.matrix


def reduced(frame: av.VideoFrame, divisor: int) -> av.VideoFrame:
    """Downscale a frame: height and width are divided, and rounded to even numbers."""
    if divisor == 1:
        return frame
    height, width = (max(2, 2 * round(side / divisor / 2)) for side in (frame.height, frame.width))
    return frame.reformat(width=width, height=height, interpolation=Interpolation.AREA, threads=1)


def to_photo(frame: av.VideoFrame, colour: Colour, fine: bool = True) -> Photo:
    """Convert a decoded frame.

    Args:
        frame: Frame in any pixel format except floating point.
        colour: Colour description of its stream.
        fine: Interpolate chroma, which is slower. Without it mattes are as good, colours slightly worse.

    Returns:
        uint8 RGB, or uint16 if the frame has more than 8 bits per channel; with alpha if it has one.

    Raises:
        InputError: The matrix is not supported.
    """
    has_alpha = frame.format.name.startswith(("yuva", "rgba", "argb", "bgra", "abgr", "gbrap", "ya", "pal8"))
    is_full = colour.range == FULL or frame.format.name.startswith("yuvj")
    matrix = colour.matrix_for(frame.height, frame.width)
    if max(component.bits for component in frame.format.components) <= 8:
        form: dict[str, Any] = {}
        if not frame.format.is_rgb:
            form["src_colorspace"] = _SCALER_NAMES[matrix]
            form["src_color_range"] = "JPEG" if is_full else "MPEG"
        pixels = _scale(
            frame, "rgba" if has_alpha else "rgb24", interpolation=_FINE if fine else _FAST, **form
        ).to_ndarray()
    elif frame.format.is_rgb:
        pixels = _scale(frame, "rgba64le" if has_alpha else "rgb48le").to_ndarray()
    else:
        return _deep_photo(frame, matrix, is_full, has_alpha)
    if not has_alpha:
        return Photo(pixels)
    alpha = plane(frame, 3) if frame.format.name == "yuva420p" else pixels[:, :, 3]
    return _photo_with_alpha(np.ascontiguousarray(pixels[:, :, :3]), np.ascontiguousarray(alpha))


def from_rgb(pixels: NDArray[Any], pixel_format: str, colour: Colour) -> av.VideoFrame:
    """Make a frame of a codec's pixel format.

    Args:
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA; uint8 or uint16. Alpha is linear: it keeps its
            values, at full range.
        pixel_format: FFmpeg's name of a grey, planar Y'CbCr or RGB format.
        colour: Matrix and range to use and to record in the frame.
    """
    height, width = pixels.shape[:2]
    bits = av.VideoFormat(pixel_format, width, height).components[0].bits
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if not pixel_format.startswith("yuv"):
        pixels = np.ascontiguousarray(convert(pixels, np.uint16 if bits > 8 else np.uint8))
        source = {1: ("gray", "gray16le"), 3: ("rgb24", "rgb48le"), 4: ("rgba", "rgba64le")}[channels][
            bits > 8
        ]
        frame = av.VideoFrame.from_ndarray(pixels, source)
        return frame if source == pixel_format else _scale(frame, pixel_format)

    matrix, is_full = colour.matrix_for(height, width), colour.range == FULL
    if channels == 1:
        frame = _grey_frame(pixels, pixel_format, bits, is_full)
    elif bits == 8:
        pixels = np.ascontiguousarray(convert(pixels, np.uint8))
        frame = _scale(
            av.VideoFrame.from_ndarray(pixels, "rgb24" if channels == 3 else "rgba"),
            pixel_format,
            dst_colorspace=_SCALER_NAMES[matrix],
            dst_color_range="JPEG" if is_full else "MPEG",
            interpolation=_FINE,
        )
        if channels == 4:  # the scaler is off by one
            plane(frame, 3)[:] = pixels[:, :, 3]
    else:
        whole = f"yuva444p{bits}le" if channels == 4 else f"yuv444p{bits}le"
        frame = av.VideoFrame(width, height, whole)
        _write_planes(frame, pixels, matrix, bits, is_full)
        if whole != pixel_format:
            side = "JPEG" if is_full else "MPEG"
            frame = _scale(frame, pixel_format, src_color_range=side, dst_color_range=side)
    frame.colorspace = matrix
    frame.color_range = FULL if is_full else LIMITED
    return frame


def plane(frame: av.VideoFrame, index: int) -> NDArray[Any]:
    """Return a writable view of a plane without its padding: (rows, columns) uint8 or uint16."""
    part = frame.planes[index]
    dtype = np.dtype(np.uint8 if frame.format.components[0].bits <= 8 else np.uint16)
    rows: NDArray[Any] = np.frombuffer(memoryview(part), dtype).reshape(part.height, -1)
    return rows[:, : part.width]


def _scale(frame: av.VideoFrame, pixel_format: str, **how: Any) -> av.VideoFrame:
    """Convert with FFmpeg, in one thread.

    Its vector code writes a few pixels past the end of a line. With several threads, this corrupts the first
    pixels of the next line if another thread has already finished it.
    """
    return frame.reformat(format=pixel_format, threads=1, **how)


def _deep_photo(frame: av.VideoFrame, matrix: int, is_full: bool, has_alpha: bool) -> Photo:
    # Upsample chroma at the same bit depth: if it changes, FFmpeg's white level depends on the code path.
    bits = max(component.bits for component in frame.format.components)
    side = "JPEG" if is_full else "MPEG"
    name = f"yuv{'a' * has_alpha}444p{bits}le"
    whole = frame
    if frame.format.name != name:
        whole = _scale(frame, name, src_color_range=side, dst_color_range=side, interpolation=_FINE)
    decoder, offset = _to_rgb_matrix(matrix, bits, is_full)
    rows = np.hstack([decoder, offset[:, None]]).astype(np.float32)
    planes = [plane(whole, index) for index in range(3)]
    pixels = np.empty((frame.height, frame.width, 3), np.uint16)
    for strip in _strips(frame.height, frame.width):
        values = cv2.merge([part[strip].astype(np.float32) for part in planes])
        pixels[strip] = to_dtype(np.asarray(cv2.transform(values, rows), np.float32), np.uint16)
    if not has_alpha:
        return Photo(pixels)
    alpha = to_dtype(plane(whole, 3) * np.float32(1 / ((1 << bits) - 1)), np.uint16)
    return _photo_with_alpha(pixels, alpha)


def _photo_with_alpha(pixels: NDArray[Any], alpha: NDArray[Any]) -> Photo:
    is_opaque = bool(alpha.min() == np.iinfo(alpha.dtype).max)
    return Photo(pixels, None if is_opaque else alpha)


def _grey_frame(grey: NDArray[Any], pixel_format: str, bits: int, is_full: bool) -> av.VideoFrame:
    """Make a frame from luma alone, for a matte; chroma is neutral."""
    frame = av.VideoFrame(grey.shape[1], grey.shape[0], pixel_format)
    scale, base = _luma_scale(bits, is_full)
    dtype = np.uint8 if bits == 8 else np.uint16
    table = np.arange(np.iinfo(grey.dtype).max + 1) * (scale / np.iinfo(grey.dtype).max) + base
    codes: NDArray[np.integer[Any]] = np.round(table).astype(dtype)
    if grey.dtype == np.uint8:
        cv2.LUT(np.ascontiguousarray(grey), codes, dst=plane(frame, 0))
    else:
        plane(frame, 0)[:] = codes[grey]
    for index in (1, 2):
        plane(frame, index)[:] = 1 << (bits - 1)
    return frame


def _write_planes(frame: av.VideoFrame, pixels: NDArray[Any], matrix: int, bits: int, is_full: bool) -> None:
    """Fill the planes of a 4:4:4 frame with more than 8 bits per channel."""
    decoder, offset = _to_rgb_matrix(matrix, bits, is_full)
    encoder = np.linalg.inv(decoder)
    white = np.iinfo(pixels.dtype).max
    rows = np.hstack([encoder / white, -(encoder @ offset)[:, None]]).astype(np.float32)
    most = np.float32((1 << bits) - 1)
    planes = [plane(frame, index) for index in range(len(frame.planes))]
    for strip in _strips(*pixels.shape[:2]):
        values = np.asarray(cv2.transform(pixels[strip, :, :3].astype(np.float32), rows), np.float32)
        values += np.float32(0.5)
        np.clip(values, 0, most, out=values)
        for index, channel in enumerate(cv2.split(values)):
            planes[index][strip] = channel
        if len(planes) == 4:
            alpha = pixels[strip, :, 3].astype(np.float32)
            planes[3][strip] = alpha * (most / np.float32(white)) + np.float32(0.5)


def _to_rgb_matrix(matrix: int, bits: int, is_full: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix M and offset o of RGB = M · (Y, Cb, Cr) + o, from codes of `bits` bits to [0, 1].

    Reference:
        H.273, equations 20-23 and 38-40.
    """
    red, blue = MATRICES[matrix]
    green = 1 - red - blue
    encoder = np.array(
        [
            [red, green, blue],
            [-red / (2 * (1 - blue)), -green / (2 * (1 - blue)), 0.5],
            [0.5, -green / (2 * (1 - red)), -blue / (2 * (1 - red))],
        ]
    )
    luma, base = _luma_scale(bits, is_full)
    chroma = float((1 << bits) - 1) if is_full else 224.0 * (1 << bits - 8)
    decoder = np.linalg.inv(np.diag([luma, chroma, chroma]) @ encoder)
    return decoder, -(decoder @ np.array([base, 1 << bits - 1, 1 << bits - 1]))


def _luma_scale(bits: int, is_full: bool) -> tuple[float, float]:
    """Return the number of luma codes from black to white, and the code of black."""
    if is_full:
        return float((1 << bits) - 1), 0.0
    return 219.0 * (1 << bits - 8), 16.0 * (1 << bits - 8)


def _strips(height: int, width: int) -> Sequence[slice]:
    rows = max(1, STRIP_PX // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
