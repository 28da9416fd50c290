"""The times of a clip's packets and frames on one line that only goes forward."""

import heapq
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

# A stream that goes back by more than this begins anew there; as much forward is a jump, where formats jump.
BACK_SECONDS = Fraction(1, 2)
BACK_SECONDS_OF_BROADCAST = Fraction(1, 10)
FORWARD_SECONDS = 10
_MOST_HELD = 2000  # packets of sound that wait for the video to jump, too


class Timeline:
    """Joins the stretches of a file whose timestamps start anew, as in transport streams that were joined.

    Every stream moves to the next stretch by itself; where that lies is decided by the video, so that sound
    stays with it.

    Args:
        lead: Index of the video stream.
        is_broadcast: Timestamps may jump by the rules of the format, as in MPEG transport streams.
    """

    def __init__(self, lead: int, is_broadcast: bool) -> None:
        self._lead = lead
        self._back = BACK_SECONDS_OF_BROADCAST if is_broadcast else BACK_SECONDS
        self._forward = FORWARD_SECONDS if is_broadcast else None
        self._offsets = [Fraction(0)]  # seconds, of each stretch
        self._stretch_of: dict[int, int] = {}
        self._expected: dict[int, Fraction] = {}  # when a stream's next packet comes, in its own time
        self._held: list[av.Packet[Any]] = []
        self._own: dict[int, Fraction] = {}  # where a stretch would lie for the stream that came to it first

    @property
    def joins(self) -> int:
        """How often the timestamps began anew."""
        return len(self._offsets) - 1

    def feed(self, packet: "av.Packet[Any]") -> "Iterator[av.Packet[Any]]":
        """Take a packet; gives it back with its place on the line, sound perhaps later."""
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
        """Give what is held back."""
        held, self._held = self._held, []
        for packet in held:
            move(packet, self._offset(self._stretch_of[packet.stream.index]))
            yield packet

    def _offset(self, stretch: int) -> Fraction:
        return self._offsets[stretch] if stretch < len(self._offsets) else self._own[stretch]


def begin_of(packet: "av.Packet[Any]") -> Fraction:
    """Say when a packet that has a timestamp begins, in seconds."""
    assert packet.pts is not None
    return packet.pts * packet.time_base


def move(packet: "av.Packet[Any]", seconds: Fraction) -> None:
    """Move a packet in time; half a unit of rounding at most."""
    units = round(seconds / packet.time_base) if seconds else 0
    if units:
        packet.pts = None if packet.pts is None else packet.pts + units
        packet.dts = None if packet.dts is None else packet.dts + units


class FrameClock:
    """Says when each decoded frame is shown.

    Decoders give frames in the order in which they are shown. AVI files and bare streams number packets in
    the order of decoding alone: there the n-th frame has the n-th of the packets' times.

    Args:
        is_counted: The packets' times are those of decoding.
        ticks: What a frame lasts where nothing is said.
    """

    def __init__(self, is_counted: bool, ticks: int) -> None:
        self._is_counted = is_counted
        self._ticks = ticks
        self._waiting: list[int] = []
        self._last: int | None = None

    def saw(self, packet: "av.Packet[Any]") -> None:
        """Take notice of a packet that is decoded next."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None and (self._is_counted or packet.pts is None):
            heapq.heappush(self._waiting, time)

    def time_of(self, frame: av.VideoFrame) -> int:
        """Say the time of the next frame; always later than that of the one before."""
        time = frame.pts
        if self._waiting and (self._is_counted or time is None):
            time = heapq.heappop(self._waiting)
        if time is None:
            time = 0 if self._last is None else self._last + self._ticks
        if self._last is not None and time <= self._last:  # would be refused by every container
            time = self._last + 1
        self._last = time
        return time
