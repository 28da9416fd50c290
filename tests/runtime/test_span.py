"""Places in clips, and drop-frame time code against counting by hand."""

from fractions import Fraction

import pytest

from stylematte.errors import UsageError
from stylematte.media.span import parse_moment, parse_rate, shift_timecode

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", Fraction(0)),
        ("12.5", Fraction(25, 2)),
        ("1:02", Fraction(62)),
        ("1:02:03.25", Fraction(14893, 4)),
        ("120f", 120),
        ("0f", 0),
    ],
)
def test_moments(text: str, moment: Fraction | int) -> None:
    found = parse_moment(text, "--start")
    assert found == moment
    assert type(found) is type(moment)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:2:3:4", "1.5f", "1e3", "1:"])
def test_no_moments(text: str) -> None:
    with pytest.raises(UsageError, match="--end"):
        parse_moment(text, "--end")


def test_rates() -> None:
    assert parse_rate("23.976") == Fraction(2997, 125)
    assert parse_rate("30000/1001") == NTSC
    for text in ("0", "-5", "fast", "1/0"):
        with pytest.raises(UsageError, match="--rate"):
            parse_rate(text)


def count_drop_frame(labels: int, start: str = "00:00:00;00", base: int = 30) -> str:
    """Walk label by label, leaving out those that do not exist."""
    hours, minutes, seconds, number = (int(part) for part in start.replace(";", ":").split(":"))
    dropped = base // 15
    for _ in range(labels):
        number += 1
        if number == base:
            number, seconds = 0, seconds + 1
        if seconds == 60:
            seconds, minutes = 0, minutes + 1
            if minutes % 10:
                number = dropped
        if minutes == 60:
            minutes, hours = 0, (hours + 1) % 24
    return f"{hours:02}:{minutes:02}:{seconds:02};{number:02}"


@pytest.mark.parametrize("frames", [0, 1, 29, 1799, 1800, 1801, 17981, 17982, 17983, 19781, 19782, 107892])
def test_drop_frame(frames: int) -> None:
    assert shift_timecode("00:00:00;00", frames, NTSC) == count_drop_frame(frames)
    assert shift_timecode("00:58:59;20", frames, NTSC) == count_drop_frame(frames, "00:58:59;20")
    assert shift_timecode("00:00:00;00", frames, 2 * NTSC) == count_drop_frame(frames, base=60)


def test_plain_counting() -> None:
    assert shift_timecode("10:59:59:24", 1, Fraction(25)) == "11:00:00:00"
    assert shift_timecode("23:59:59:23", 2, Fraction(24000, 1001)) == "00:00:00:01"
    assert shift_timecode("23:59:59;29", 1, NTSC) == "00:00:00;00"
    assert shift_timecode("none", 5, NTSC) == "none"
