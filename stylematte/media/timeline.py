"""Map the timestamps of a clip's packets and frames to one continuous, increasing timeline."""

import heapq
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

# Larger steps backward, or forward in broadcast formats, start a new segment.
BACK_SECONDS = Fraction(1, 2)
BACK_SECONDS_OF_BROADCAST = Fraction(1, 10)
FORWARD_SECONDS = 10
_MOST_HELD = 2000  # audio packets that wait until the video jumps too


class Timeline:
    """Joins the segments of a file whose timestamps restart, as in concatenated transport streams.

    Each stream moves to the next segment on its own; the video determines the segment's offset, so that audio
    stays in sync.

    Args:
        lead: Index of the video stream.
        is_broadcast: The format allows timestamps to jump, like MPEG transport streams.
    """

    def __init__(self, lead: int, is_broadcast: bool) -> None:
        self._lead = lead
        self._back = BACK_SECONDS_OF_BROADCAST if is_broadcast else BACK_SECONDS
        self._forward = FORWARD_SECONDS if is_broadcast else None
        self._offsets = [Fraction(0)]  # of each segment, in seconds
        self._stretch_of: dict[int, int] = {}
        self._expected: dict[int, Fraction] = {}  # time of a stream's next packet, in seconds before offsets
        self._held: list[av.Packet[Any]] = []
        self._own: dict[int, Fraction] = {}  # segment → its offset by the first stream that reached it

    @property
    def joins(self) -> int:
        """Number of times that the timestamps restarted."""
        return len(self._offsets) - 1

    def feed(self, packet: "av.Packet[Any]") -> "Iterator[av.Packet[Any]]":
        """Take a packet, and yield packets with their new timestamps; audio may be held back."""
        index = packet.stream.index
        stretch = self._stretch_of.setdefault(index, 0)
        if packet.dts is not None:
            seconds = packet.dts * packet.time_base
            expected = self._expected.get(index, seconds)
            if seconds < expected - self._back or (self._forward and seconds > expected + self._forward):
                offset = self._offset(stretch) + expected - seconds
                stretch = self._stretch_of[index] = stretch + 1
                self._own.setdefault(stretch, offset)
                if index == self._lead:
                    self._offsets[stretch:] = [offset]
            self._expected[index] = seconds + (packet.duration or 0) * packet.time_base
        if stretch >= len(self._offsets):
            self._held.append(packet)
            if len(self._held) > _MOST_HELD:  # the video does not jump
                self._offsets.append(self._own[len(self._offsets)])
        else:
            move(packet, self._offsets[stretch])
            yield packet
        if self._held and len(self._offsets) > self._stretch_of[self._held[0].stream.index]:
            yield from self.rest()

    def rest(self) -> "Iterator[av.Packet[Any]]":
        """Yield the packets that were held back."""
        held, self._held = self._held, []
        for packet in held:
            move(packet, self._offset(self._stretch_of[packet.stream.index]))
            yield packet

    def _offset(self, stretch: int) -> Fraction:
        return self._offsets[stretch] if stretch < len(self._offsets) else self._own[stretch]


def begin_of(packet: "av.Packet[Any]") -> Fraction:
    """Return the start of a packet that has a timestamp, in seconds."""
    assert packet.pts is not None
    return packet.pts * packet.time_base


def move(packet: "av.Packet[Any]", seconds: Fraction) -> None:
    """Shift a packet in time, rounded to its time base."""
    units = round(seconds / packet.time_base) if seconds else 0
    if units:
        packet.pts = None if packet.pts is None else packet.pts + units
        packet.dts = None if packet.dts is None else packet.dts + units


class FrameClock:
    """Assigns presentation timestamps to decoded frames.

    Decoders return frames in presentation order. AVI files and raw streams only have decoding timestamps:
    there the n-th frame gets the n-th smallest of the packets' timestamps.

    Args:
        is_counted: The packets have decoding timestamps only.
        ticks: Duration of a frame without a timestamp.
    """

    def __init__(self, is_counted: bool, ticks: int) -> None:
        self._is_counted = is_counted
        self._ticks = ticks
        self._waiting: list[int] = []
        self._last: int | None = None

    def saw(self, packet: "av.Packet[Any]") -> None:
        """Record the packet that is decoded next."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None and (self._is_counted or packet.pts is None):
            heapq.heappush(self._waiting, time)

    def time_of(self, frame: av.VideoFrame) -> int:
        """Return the timestamp of the next frame, always later than the previous one."""
        time = frame.pts
        if self._waiting and (self._is_counted or time is None):
            time = heapq.heappop(self._waiting)
        if time is None:
            time = 0 if self._last is None else self._last + self._ticks
        if self._last is not None and time <= self._last:  # containers reject timestamps that do not increase
            time = self._last + 1
        self._last = time
        return time
