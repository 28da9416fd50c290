"""Write the audio of a clip into its result: copied if players support the codec there, else re-encoded."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import av
import numpy as np

from stylematte.media.timeline import begin_of

log = logging.getLogger("stylematte")

Sound: TypeAlias = "list[av.Packet[Any]]"

_PCM = (
    "pcm_s16le",
    "pcm_s16be",
    "pcm_s24le",
    "pcm_s24be",
    "pcm_s32le",
    "pcm_s32be",
    "pcm_f32le",
    "pcm_f32be",
)
# FFmpeg's name of the container → codecs that it holds and that players decode there. Few players support PCM
# and FLAC in MP4, although both are standardized; QuickTime supports neither Opus nor FLAC in MOV.
COPIED = {
    "mp4": ("aac", "alac", "mp3", "ac3", "eac3", "opus"),
    "mov": ("aac", "alac", "mp3", "ac3", "eac3", *_PCM),
    "webm": ("opus", "vorbis"),
    "matroska": (
        *("aac", "alac", "mp3", "mp2", "ac3", "eac3", "dts", "truehd", "opus", "vorbis", "flac"),
        *("wavpack", "tta", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"),
    ),
}
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_BITS_A_CHANNEL = 128_000  # AAC bit rate per channel
# Layouts by number of channels that every decoder of the codec supports.
_LAYOUTS = {
    "aac": ("mono", "stereo", "3.0", "4.0", "5.0", "5.1"),
    "libopus": ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"),
    "flac": ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"),
}
_BY_COUNT = (*_LAYOUTS["flac"],)  # for audio without a known channel layout
# ISO 639-2 has two codes for some languages; FFmpeg's MOV table knows one of them (tested with ffmpeg).
_LANGUAGES_OF_MOV = dict(
    pair.split("=")
    for pair in "deu=ger nld=dut zho=chi cze=ces ell=gre rum=ron isl=ice sqi=alb hye=arm kat=geo mkd=mac "
    "msa=may fas=per slo=slk cym=wel bod=tib mya=bur eus=baq fre=fra".split()
)
_GAP_SECONDS = Fraction(3, 100)  # audio that is this early is dropped; if this late, silence is inserted
_SHALLOW = ("u8", "s16")  # sample formats of at most 16 bits, without the p of planar ones


@dataclass(frozen=True)
class Encoding:
    """Encoder settings for audio that is not copied.

    Attributes:
        codec: FFmpeg's name of the encoder.
        layout: Channel layout.
        rate: Samples per second.
        sample_format: Sample format of the encoder's input.
        bit_rate: Bits per second; 0 for the encoder's default.
    """

    codec: str
    layout: str
    rate: int
    sample_format: str
    bit_rate: int = 0


def encoding_for(container: str, source: av.AudioStream) -> Encoding:
    """Choose the encoding of audio that is not copied: Opus, AAC, PCM or FLAC."""
    context = source.codec_context
    rate = context.sample_rate or 48000
    channels = max(1, context.layout.nb_channels)
    sample_format = context.format.name if context.format else "fltp"
    is_deep = sample_format.removesuffix("p") not in _SHALLOW
    if container == "webm":
        return Encoding("libopus", _layout("libopus", context.layout), 48000, "flt")
    if container == "mp4":
        nearest = min(_AAC_RATES, key=lambda other: (abs(other - rate), -other))
        layout = _layout("aac", context.layout)
        return Encoding("aac", layout, nearest, "fltp", _BITS_A_CHANNEL * av.AudioLayout(layout).nb_channels)
    if container == "mov":
        layout = context.layout.name if is_known(context.layout) else _by_count(channels)
        return Encoding(
            *(("pcm_s24le", layout, rate, "s32") if is_deep else ("pcm_s16le", layout, rate, "s16"))
        )
    return Encoding("flac", _layout("flac", context.layout), rate, "s32" if is_deep else "s16")


def is_known(layout: av.AudioLayout) -> bool:
    """Return whether a layout assigns its channels to positions; audio from AVI and WMV often does not."""
    return not layout.name.endswith("channels") and bool(layout.nb_channels)


def _by_count(channels: int) -> str:
    return _BY_COUNT[channels - 1] if channels <= len(_BY_COUNT) else f"{channels}c"


def _layout(encoder: str, layout: av.AudioLayout) -> str:
    names = _LAYOUTS[encoder]
    return names[min(max(1, layout.nb_channels), len(names)) - 1]


class SoundWriter:
    """Writer of a clip's audio into its result; must be created before the file header is written.

    Args:
        container: The result, open for writing.
        streams: Audio streams of the open source.

    Attributes:
        notes: A line for each stream that is re-encoded or left out.
    """

    def __init__(self, container: av.container.OutputContainer, streams: Sequence[av.AudioStream]) -> None:
        self.notes: list[str] = []
        self._container = container
        self._tracks: dict[int, _Copied | _Encoded] = {}
        for number, source in enumerate(streams, 1):
            track = self._add(source, f"sound {number}" if len(streams) > 1 else "sound")
            if track is not None:
                self._tracks[source.index] = track
                track.stream.metadata.update(source.metadata)
                if container.format.name == "mov" and "language" in source.metadata:
                    language = source.metadata["language"]
                    track.stream.metadata["language"] = _LANGUAGES_OF_MOV.get(language, language)
                track.stream.disposition = source.disposition

    def write(self, packets: Sound) -> None:
        """Write packets of the source, whose timestamps are already those of the result."""
        for packet in packets:
            track = self._tracks.get(packet.stream_index)
            if track is not None:
                self._container.mux(track.take(packet))

    def end(self) -> list[str]:
        """Flush the encoders and return a line for each damaged stream."""
        for track in self._tracks.values():
            self._container.mux(track.flush())
        return [track.damage for track in self._tracks.values() if track.damage]

    def _add(self, source: av.AudioStream, name: str) -> "_Copied | _Encoded | None":
        kind = self._container.format.name
        if source.codec_context is None:
            self.notes.append(f"{name} is left out, because FFmpeg cannot decode it")
            return None
        codec = source.codec_context.codec.canonical_name
        if codec in COPIED[kind]:
            try:
                stream = self._container.add_stream_from_template(source)
                return _Copied(stream, may_repeat=kind in ("webm", "matroska"))
            except ValueError:
                log.debug("%s in %s cannot be copied into %s", name, codec, kind)
        if not source.codec_context.layout.nb_channels:
            self.notes.append(f"{name} in {codec} is left out, because its channels are not stated")
            return None
        encoding = encoding_for(kind, source)
        self.notes.append(
            f"{name} in {codec} becomes {_told(source, encoding)}, for players of {_FILES[kind]}"
        )
        return _Encoded(self._container, source, encoding, name)


_FILES = {"mp4": "MP4", "mov": "MOV", "webm": "WebM", "matroska": "Matroska"}


def _told(source: av.AudioStream, encoding: Encoding) -> str:
    text = encoding.codec.removeprefix("lib")
    before = source.codec_context.layout.nb_channels
    after = av.AudioLayout(encoding.layout).nb_channels
    return text if before == after else f"{text} of {after} channels instead of {before}"


class _Copied:
    """A stream whose packets are copied unchanged.

    Args:
        stream: Stream of the result.
        may_repeat: The container accepts packets with equal timestamps, like Matroska with its milliseconds.
    """

    def __init__(self, stream: Any, may_repeat: bool) -> None:
        self.stream = stream
        self.damage = ""
        self._may_repeat = may_repeat
        self._last: Fraction | None = None

    def take(self, packet: "av.Packet[Any]") -> "list[av.Packet[Any]]":
        """Return the packet, timed after the previous one; nothing if it repeats earlier audio."""
        unit = Fraction(0) if self._may_repeat else packet.time_base
        dts = begin_of(packet) if packet.dts is None else packet.dts * packet.time_base
        if self._last is not None and dts < self._last - _GAP_SECONDS:
            return []
        if self._last is not None and dts < self._last + unit:
            dts = self._last + unit
            packet.dts = -int(-dts / packet.time_base // 1)
            packet.pts = max(packet.pts or packet.dts, packet.dts)
        self._last = dts
        packet.stream = self.stream
        return [packet]

    def flush(self) -> "list[av.Packet[Any]]":
        """Return nothing: copied packets are not buffered."""
        return []


class _Encoded:
    """A stream that is decoded and re-encoded without gaps, each sample at its own time."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        source: av.AudioStream,
        encoding: Encoding,
        name: str,
    ) -> None:
        self._name = name
        self._source = source
        self._encoding = encoding
        stream: Any = container.add_stream(encoding.codec, rate=encoding.rate)
        stream.codec_context.layout = encoding.layout
        stream.codec_context.format = encoding.sample_format
        if encoding.bit_rate:
            stream.codec_context.bit_rate = encoding.bit_rate
        stream.time_base = stream.codec_context.time_base = Fraction(1, encoding.rate)
        self.stream = stream
        self._resampler: av.AudioResampler | None = None
        self._made_for: tuple[Any, ...] = ()
        self._at: int | None = None  # index of the next sample
        self._lost = 0

    @property
    def damage(self) -> str:
        """A message about packets that could not be decoded; empty if there were none."""
        return f"{self._lost} damaged packets of {self._name} are silent" if self._lost else ""

    def take(self, packet: "av.Packet[Any]") -> "list[av.Packet[Any]]":
        """Decode a packet and return the packets that the encoder produces."""
        return self._encode(self._decode(packet))

    def flush(self) -> "list[av.Packet[Any]]":
        """Flush decoder, resampler and encoder, and return the remaining packets."""
        packets = self._encode(self._decode(None))
        for part in self._resampler.resample(None) if self._resampler else ():
            packets += self._put(part)
        return packets if self._at is None else packets + self.stream.encode(None)

    def _decode(self, packet: "av.Packet[Any] | None") -> list[av.AudioFrame]:
        try:
            return self._source.decode(packet)
        except av.error.FFmpegError:
            self._lost += 1
            return []

    def _encode(self, frames: list[av.AudioFrame]) -> "list[av.Packet[Any]]":
        packets = []
        for frame in frames:
            if not frame.samples:
                continue
            made_for = frame.format.name, frame.layout.name, frame.sample_rate
            if self._resampler is None or made_for != self._made_for:
                for part in self._resampler.resample(None) if self._resampler else ():
                    packets += self._put(part)
                how = self._encoding
                self._resampler = av.AudioResampler(how.sample_format, how.layout, how.rate)
                self._made_for = made_for
            late = self._late(frame)
            if late <= -_GAP_SECONDS * self._encoding.rate:
                continue  # this time is already filled, for example where overlapping recordings were joined
            if late >= _GAP_SECONDS * self._encoding.rate:
                packets += self._silence(late)
            if not is_known(frame.layout):
                frame = with_layout(frame)
            for part in self._resampler.resample(frame):
                packets += self._put(part)
        return packets

    def _late(self, frame: av.AudioFrame) -> int:
        """Return by how many samples a frame starts after the end of the previous ones."""
        rate = self._encoding.rate
        if frame.pts is None:
            self._at = self._at or 0
            return 0
        time_base = frame.time_base or self._source.time_base or Fraction(1, rate)
        begin = round(frame.pts * time_base * rate)
        self._at = begin if self._at is None else self._at
        return begin - self._at

    def _silence(self, samples: int) -> "list[av.Packet[Any]]":
        packets = []
        while samples > 0:
            count = min(samples, self._encoding.rate)
            packets += self._put(_silence(self._encoding, count))
            samples -= count
        return packets

    def _put(self, frame: av.AudioFrame) -> "list[av.Packet[Any]]":
        assert self._at is not None
        frame.pts, frame.time_base = self._at, Fraction(1, self._encoding.rate)
        self._at += frame.samples
        packets: list[av.Packet[Any]] = self.stream.encode(frame)
        return packets


def _silence(encoding: Encoding, samples: int) -> av.AudioFrame:
    channels = av.AudioLayout(encoding.layout).nb_channels
    dtype = {"fltp": np.float32, "flt": np.float32, "s16": np.int16}.get(encoding.sample_format, np.int32)
    is_planar = encoding.sample_format.endswith("p")
    shape = (channels, samples) if is_planar else (1, channels * samples)
    frame = av.AudioFrame.from_ndarray(np.zeros(shape, dtype), encoding.sample_format, encoding.layout)
    frame.sample_rate = encoding.rate
    return frame


def with_layout(frame: av.AudioFrame) -> av.AudioFrame:
    """Return a copy of a frame with the usual layout for its number of channels."""
    layout = _by_count(frame.layout.nb_channels)
    named = av.AudioFrame.from_ndarray(frame.to_ndarray(), frame.format.name, layout)
    named.sample_rate = frame.sample_rate
    named.pts = frame.pts
    if frame.time_base is not None:
        named.time_base = frame.time_base
    return named
