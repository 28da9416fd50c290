"""Write clips with the available codecs: timestamps and audio as in the source, files atomically."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from numpy.typing import NDArray

from stylematte.errors import InputError, MissingError
from stylematte.files import temporary_path
from stylematte.imaging import compose
from stylematte.media.clip_frame import ClipInfo, Frame
from stylematte.media.sound import Sound, SoundWriter
from stylematte.media.yuv import FULL, LIMITED, RGB, UNSPECIFIED, Colour, from_rgb

log = logging.getLogger("stylematte")


@dataclass(frozen=True)
class Recipe:
    """Storage format of a clip.

    Attributes:
        container: FFmpeg's name of the container format.
        suffix: File name suffix.
        codec: FFmpeg's name of the encoder.
        pixel_format: Pixel format of the codec.
        options: Options of the encoder.
    """

    container: str
    suffix: str
    codec: str
    pixel_format: str
    options: Mapping[str, str]


# No B-frames: with frames of variable duration they give an MP4 a wrong total duration.
# veryfast with subme 1 takes a third of the time of fast; a composite has the same size at the same error.
_X264 = {"crf": "13", "preset": "veryfast", "bf": "0", "x264-params": "subme=1"}
_X265 = {"crf": "14", "preset": "fast", "x265-params": "bframes=0:log-level=none"}
_VP9 = {"crf": "16", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1", "auto-alt-ref": "0"}
_FFV1 = {"level": "3", "g": "1", "slices": "16", "slicecrc": "1"}
_PRORES_HQ = {"profile": "hq", "vendor": "apl0"}
_PRORES_4444 = {"profile": "4444", "vendor": "apl0", "alpha_bits": "16"}


def recipe_for(kind: str, channels: int, size: tuple[int, int], is_deep: bool) -> Recipe:
    """Choose codec and pixel format.

    Args:
        kind: prores, webm, mp4, hevc or ffv1.
        channels: 1 for an alpha, 3 for colours, 4 for both.
        size: (height, width).
        is_deep: The result has more than 8 bits per channel.
    """
    # 4:2:0 chroma needs even sizes; only VP9 subsamples odd ones too.
    chroma = "420" if size[0] % 2 == size[1] % 2 == 0 else "444"
    if kind == "prores":
        if channels == 1:
            return Recipe("mov", ".mov", "prores_ks", "yuv422p10le", _PRORES_HQ)
        pixel_format = "yuva444p10le" if channels == 4 else "yuv444p10le"
        return Recipe("mov", ".mov", "prores_ks", pixel_format, _PRORES_4444)
    if kind == "webm":
        return Recipe("webm", ".webm", "libvpx-vp9", "yuva420p" if channels == 4 else "yuv420p", _VP9)
    if kind == "mp4":
        return Recipe("mp4", ".mp4", "libx264", f"yuv{chroma}p", _X264)
    if kind == "hevc":
        return Recipe("mp4", ".mp4", "libx265", f"yuv{chroma}p10le" if is_deep else f"yuv{chroma}p", _X265)
    names = {1: ("gray", "gray16le"), 3: ("bgr0", "gbrp16le"), 4: ("bgra", "gbrap16le")}
    return Recipe("matroska", ".mkv", "ffv1", names[channels][is_deep], _FFV1)


class VideoWriter:
    """Writer of one clip; `finish` moves it into place, `discard` deletes it.

    Args:
        path: The file.
        recipe: Result of `recipe_for`.
        info: Description of the source.
        sound_streams: Audio streams of the open source; written packet by packet.
        premultiplied: Multiply colours by alpha.
        facts: Text tags of the file; `comment` is supported in every container.

    Attributes:
        notes: A line for each thing that could not be kept; complete after `finish`.

    Raises:
        InputError: The file cannot be written.
        MissingError: This FFmpeg lacks the encoder.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        info: ClipInfo,
        sound_streams: Sequence[av.AudioStream],
        premultiplied: bool,
        facts: Mapping[str, str],
    ) -> None:
        self._path = path
        self._recipe = recipe
        self._info = info
        self._premultiplied = premultiplied
        self._colour = _colour_for(recipe, info)
        self.notes: list[str] = []
        self._durations: dict[int | None, int] = {}  # of the frames in the encoder, by timestamp
        self._temporary = temporary_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(
                str(self._temporary), "w", format=recipe.container, options=_muxer_options(recipe, info)
            )
        except OSError as error:
            raise self._cannot(error) from None
        try:
            self._stream = self._add_video()
            self._sound = SoundWriter(self._container, sound_streams)
            self.notes += self._sound.notes
            self._container.metadata.update({**info.tags, **facts})
            self._add_chapters()
        except BaseException:
            self.discard()
            raise

    def prepare(self, frame: Frame, pixels: NDArray[Any]) -> av.VideoFrame:
        """Convert an image to the codec's pixel format; thread-safe.

        Args:
            frame: Source frame.
            pixels: (H, W) alpha, (H, W, 3) RGB or (H, W, 4) straight RGBA.
        """
        if self._premultiplied and pixels.ndim == 3 and pixels.shape[2] == 4:
            pixels = compose.premultiply(pixels)
        image = from_rgb(pixels, self._recipe.pixel_format, self._colour)
        image.color_primaries = self._info.colour.primaries
        image.color_trc = self._info.colour.transfer
        image.pts, image.duration = frame.pts, frame.duration
        image.time_base = self._info.time_base
        return image

    def write(self, frame: Frame, image: av.VideoFrame) -> None:
        """Write the audio before an image, and encode the image.

        Raises:
            InputError: The disk is full, or the file cannot be written.
        """
        try:
            self._sound.write(frame.sound)
            self._encode(image)
        except OSError as error:
            raise self._cannot(error) from None

    def finish(self, sound_after: Sound) -> None:
        """Flush the encoders and move the file to its final name.

        Raises:
            InputError: As for `write`; the file does not appear then.
        """
        try:
            self._encode(None)
            self._sound.write(sound_after)
            self.notes += self._sound.end()
            self._container.close()
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise self._cannot(error) from None

    def _encode(self, image: av.VideoFrame | None) -> None:
        """Encode and write; restore frame durations, which PyAV loses and the last frame needs."""
        if image is not None and image.pts is not None:
            self._durations[image.pts] = image.duration
        for packet in self._stream.encode(image):
            duration = self._durations.pop(packet.pts, 0)
            if duration and packet.time_base == self._info.time_base:
                packet.duration = duration
            self._container.mux(packet)

    def discard(self) -> None:
        """Delete what was written so far."""
        try:
            self._container.close()
        except OSError:  # the disk is full, but the file is deleted anyway
            log.debug("%s: could not be ended", self._temporary)
        self._temporary.unlink(missing_ok=True)

    def _add_video(self) -> av.VideoStream:
        recipe, info = self._recipe, self._info
        try:
            stream = self._container.add_stream(
                recipe.codec, rate=_rate_for(info), options=dict(recipe.options)
            )
        except av.codec.codec.UnknownCodecError:
            raise MissingError(
                f"{self._path}: this FFmpeg has no encoder {recipe.codec}", "Choose another --format"
            ) from None
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.height, context.width = info.size
        context.pix_fmt = recipe.pixel_format
        stream.time_base = context.time_base = info.time_base
        if info.pixel_shape is not None:
            context.sample_aspect_ratio = info.pixel_shape
            if recipe.container in ("webm", "matroska"):  # PyAV does not pass it to these
                self.notes.append("the result has square pixels, unlike the source")
        context.color_primaries = info.colour.primaries
        context.color_trc = info.colour.transfer
        context.colorspace = self._colour.matrix
        context.color_range = self._colour.range
        context.thread_count = 0
        if recipe.codec == "libx265":
            context.codec_tag = "hvc1"  # required by Apple's players
        if info.timecode is not None:
            stream.metadata["timecode"] = info.timecode
        return stream

    def _add_chapters(self) -> None:
        unit = Fraction(1, 1000)
        self._container.set_chapters(
            [
                {
                    "id": number,
                    "start": round(chapter.begin / unit),
                    "end": round(chapter.end / unit),
                    "time_base": unit,
                    "metadata": {"title": chapter.title} if chapter.title else {},
                }
                for number, chapter in enumerate(self._info.chapters, 1)
            ]
        )

    def _cannot(self, error: OSError) -> InputError:
        return InputError(
            f"{self._path}: cannot be written: {error.strerror}", "Choose another folder with --out"
        )


def _colour_for(recipe: Recipe, info: ClipInfo) -> Colour:
    """Return the source's colours if the codec stores Y'CbCr; ProRes supports only the limited range."""
    colour = info.colour
    if not recipe.pixel_format.startswith("yuv"):
        return Colour(colour.primaries, colour.transfer, RGB, FULL)
    is_limited = recipe.codec == "prores_ks" or colour.range != FULL or colour.matrix == RGB
    matrix = colour.matrix_for(*info.size) if colour.matrix != UNSPECIFIED else UNSPECIFIED
    return Colour(colour.primaries, colour.transfer, matrix, LIMITED if is_limited else FULL)


def _rate_for(info: ClipInfo) -> Fraction:
    """Return the frame rate to declare; with a drop-frame timecode, only the two exact rates are accepted."""
    if info.timecode is not None and ";" in info.timecode:
        for exact in (Fraction(30000, 1001), Fraction(60000, 1001)):
            if abs(info.rate - exact) < 1:
                return exact
    return info.rate


def _muxer_options(recipe: Recipe, info: ClipInfo) -> dict[str, str]:
    if recipe.container not in ("mov", "mp4"):
        # Audio priming has negative timestamps; shifting it to zero would shift the frames too.
        return {"avoid_negative_ts": "disabled"}
    options = {"movflags": "+faststart"} if recipe.container == "mp4" else {}
    # The source's time base, so that no timestamp is rounded.
    if info.time_base.numerator == 1 or info.time_base.denominator >= 1000:
        options["video_track_timescale"] = str(info.time_base.denominator)
    return options
