"""Folders from Python: requests, plans and results; and what manifests know requests by."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import stylematte
from stylematte.errors import UsageError
from stylematte.folder import find, make_plan, matte_clips, matte_photos
from stylematte.imaging.compose import Blur
from stylematte.media.span import Span
from tests.clips import draw_clip
from tests.images import assert_is_red_matte, load, red_image, save


def test_a_folder_from_python_and_again(red_model: Path, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "in" / "sub" / f"{number}.png", red_image(96, 128))
    draw_clip(tmp_path / "in" / "a.mp4", frames=3)
    matter = stylematte.load(red_model, device="cpu", lanes=2)
    photo, clip = stylematte.PhotoRequest(), stylematte.ClipRequest(kind="ffv1")
    out = tmp_path / "out"
    found = find([tmp_path / "in", tmp_path / "gone.png"], out, photo.kind, clip.kind)
    assert found.problems == [(tmp_path / "gone.png", "no such file")]
    photos, clips = make_plan(found.photos, out, photo, matter), make_plan(found.clips, out, clip, matter)
    assert (photos.states, clips.states) == (["new"] * 3, ["new"])
    outcomes = [*matte_photos(photos, matter, photo, workers=2), *matte_clips(clips, matter, clip, workers=2)]
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert outcomes[-1].frames == 3
    assert_is_red_matte(load(out / "sub" / "0.png"))
    assert (out / "a.mkv").stat().st_size > 0
    again = make_plan(found.photos, out, photo, matter)
    assert again.states == ["done"] * 3
    assert list(matte_photos(again, matter, photo)) == []
    assert make_plan(found.clips, out, clip, matter).states == ["done"]
    assert (
        make_plan(found.photos, out, stylematte.PhotoRequest(bit_depth=16), matter).states == ["changed"] * 3
    )
    assert make_plan(found.photos, out, photo, matter, overwrite=True).states == ["new"] * 3


def test_what_manifests_know_a_request_by() -> None:
    """Written out: with another word or order, folders of before would be done again."""
    assert list(stylematte.PhotoRequest().settings(640).items()) == [
        ("output", "alpha"),
        ("format", "png"),
        ("bit_depth", None),
        ("background", None),
        ("size", 640),
    ]
    clip = stylematte.ClipRequest(
        "cutout",
        "prores",
        despill="green",
        span=Span(12, Fraction(5, 2)),
        rate=Fraction(25),
        is_stabilised=True,
    )
    assert list(clip.settings().items()) == [
        ("output", "cutout"),
        ("format", "prores"),
        ("bit_depth", None),
        ("background", None),
        ("size", None),
        ("colours", "straight"),
        ("profile", "keep"),
        ("metadata", "public"),
        ("despill", "green"),
        ("stabilised", True),
        ("start", "12"),
        ("end", "5/2"),
        ("rate", "25"),
        ("every", 1),
    ]


def test_a_background_without_a_name_is_named_by_what_it_is() -> None:
    def name(background) -> str:
        return stylematte.PhotoRequest("composite", background=background).settings()["background"]

    image = np.zeros((4, 4, 3), np.uint8)
    assert name((1, 2, 3)) == "1,2,3"
    assert name(Blur(9)) == "blur:9"
    assert name(image) != name(image + 1)
    assert (
        stylematte.PhotoRequest("composite", background=image, background_name="mine").settings()[
            "background"
        ]
        == "mine"
    )


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"output": "cutout", "kind": "mp4"}, "cannot hold the transparency"),
        ({"output": "cutout", "kind": "jpg"}, "cannot hold the transparency"),
        ({"kind": "webm", "bit_depth": 16}, "webm holds 8 bits"),
        ({"output": "cutout", "kind": "webm", "premultiplied": True}, "cannot be premultiplied"),
        ({"output": "composite"}, "needs a background"),
        ({"despill": "green"}, "no effect on alphas"),
    ],
)
def test_requests_for_clips_that_cannot_be_meant(wanted: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        stylematte.ClipRequest(**wanted)
    assert caught.value.hint
