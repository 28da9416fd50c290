"""Writing clips: recipes, and an encoder or a folder that is not there."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stylematte.errors import InputError, MissingError
from stylematte.media.photo import Photo
from stylematte.media.video import ClipInfo, Frame
from stylematte.media.video_writer import VideoWriter, recipe_for
from tests.clips import SIZE, probe, red_frame

INFO = ClipInfo(SIZE, Fraction(25), Fraction(1, 25))


def frame(number: int) -> Frame:
    return Frame(number + 1, number, 1, Photo(red_frame(number)))


def write(path: Path, info: ClipInfo, kind: str = "ffv1", channels: int = 1, deep: bool = True) -> None:
    recipe = recipe_for(kind, channels, info.size, deep)
    writer = VideoWriter(path, recipe, info, [], premultiplied=False, facts={})
    pixels = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE) * 5
    for number in range(3):
        writer.write(frame(number), writer.prepare(frame(number), pixels))
    writer.finish([])


def test_16_bit_mattes_are_lossless_in_ffv1(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", INFO)
    found = probe(tmp_path / "a.mkv")
    assert found.pixel_format == "gray16le"
    assert np.array_equal(found.frames[2][:, :, 0], np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * 5)


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    recipe = replace(recipe_for("mp4", 1, SIZE, False), codec="nonesuch")
    with pytest.raises(MissingError, match="no encoder nonesuch"):
        VideoWriter(tmp_path / "a.mp4", recipe, INFO, [], False, {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "a.mkv", INFO)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(2997, 100), Fraction(60000, 1001)])
def test_drop_frame_time_codes_survive_rates_that_are_not_exact(tmp_path: Path, rate: Fraction) -> None:
    info = replace(INFO, rate=rate, time_base=1 / rate, timecode="00:59:59;28")
    write(tmp_path / "a.mov", info, "prores")
    assert probe(tmp_path / "a.mov").timecode == "00:59:59;28"


def test_tags_of_the_source_reach_the_file(tmp_path: Path) -> None:

    info = replace(INFO, tags={"title": "A walk", "creation_time": "2026-11-24T12:00:00.000000Z"})
    write(tmp_path / "a.mp4", info, "mp4", deep=False)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["title"] == "A walk"
        assert container.metadata["creation_time"] == "2026-11-24T12:00:00.000000Z"
