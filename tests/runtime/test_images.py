"""Every kind of image becomes upright RGB; what cannot is named; what is written is whole."""

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stylematte import files
from stylematte.errors import InputError
from stylematte.files import remove_leftovers, write_bytes
from stylematte.media import metadata, stored, vips
from stylematte.media.colour import PRIMARIES, make_profile
from stylematte.media.decode import decode_image, measure
from stylematte.media.images import (
    encode_image,
    read_alpha,
    read_image,
)
from stylematte.memory import usable_bytes
from tests.images import ASSETS, STORED, exif_bytes, exif_of, icc_bytes, png_that_says, red_image, save

LOSSY = 6  # greatest mean difference that JPEG and WebP may make


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once_then_reset(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = red_image(40, 64)
    for order in "<>":
        exif = exif_bytes(orientation, order)
        photo = read_image(save(tmp_path / f"photo{suffix}", STORED[orientation](upright), exif=exif))
        assert photo.pixels.shape == upright.shape
        assert np.abs(photo.pixels.astype(int) - upright).mean() < LOSSY
        assert metadata.orientation_of(photo.exif) == orientation
        assert exif_of(metadata.chosen(photo.exif, "public")) == {271: "Cam", 274: 1}


def test_avif_is_turned_as_its_boxes_say() -> None:
    photo = read_image(ASSETS / "turned.avif")
    assert photo.pixels.shape == (48, 64, 3)
    assert np.all(np.abs(photo.pixels[16, 32].astype(int) - (255, 0, 0)) < 40)
    assert np.all(np.abs(photo.pixels[40, 32].astype(int) - 128) < 40)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_depth_grey_and_alpha_survive(tmp_path: Path, suffix: str, dtype: type) -> None:
    rgb = red_image(dtype=dtype)
    photo = read_image(save(tmp_path / f"rgb{suffix}", rgb))
    np.testing.assert_array_equal(photo.pixels, rgb)
    assert photo.pixels.dtype == dtype
    assert photo.alpha is None

    photo = read_image(save(tmp_path / f"grey{suffix}", rgb[:, :, 0]))
    np.testing.assert_array_equal(photo.pixels, np.repeat(rgb[:, :, :1], 3, axis=2))

    alpha = rgb[:, :, 0]
    photo = read_image(save(tmp_path / f"rgba{suffix}", np.dstack([rgb, alpha])))
    np.testing.assert_array_equal(photo.pixels, rgb)
    np.testing.assert_array_equal(photo.alpha, alpha)

    opaque = np.full_like(alpha, np.iinfo(dtype).max)
    assert read_image(save(tmp_path / f"opaque{suffix}", np.dstack([rgb, opaque]))).alpha is None


def test_palette_grey_with_alpha_cmyk_progressive_and_bmp(tmp_path: Path) -> None:
    palette = read_image(ASSETS / "palette.png")
    assert palette.pixels[16, 32].tolist() == [255, 0, 0]
    assert palette.pixels[40, 32].tolist() == [128, 128, 128]

    transparent = read_image(ASSETS / "palette_transparent.png")
    assert transparent.alpha is not None
    assert (transparent.alpha[16, 32], transparent.alpha[40, 32]) == (255, 0)

    grey = read_image(ASSETS / "grey_alpha.png")
    assert grey.alpha is not None
    assert (grey.alpha[16, 32], grey.alpha[40, 32]) == (255, 64)
    assert grey.pixels[40, 32].tolist() == [128, 128, 128]

    for name in ("cmyk.jpg", "progressive.jpg"):
        pixels = read_image(ASSETS / name).pixels.astype(int)
        assert np.abs(pixels[16, 32] - (255, 0, 0)).max() < 12, name
        assert np.abs(pixels[40, 32] - 128).max() < 12, name

    rgb = red_image(5, 7)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.bmp", rgb)).pixels, rgb)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp", ".avif"])
def test_cut_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    if not cv2.haveImageWriter(str(path)):
        pytest.skip(f"this OpenCV writes no {suffix}")
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    whole = save(path, noise).read_bytes()
    decode_image(whole, "whole")
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"photo\..*damaged or truncated"):
            read_image(path)


def test_what_is_no_image_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("To whom it may concern")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "drawing.jpg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    for name, reason in {
        "text.jpg": "not an image in a known format",
        "empty.jpg": "empty, 0 bytes",
        "folder.png": "a folder, not an image",
        "loop.jpg": "cannot be read",
        "missing.jpg": "no such file",
        "drawing.jpg": "an SVG drawing is not supported",
        "phone.jpg": "damaged or truncated",
    }.items():
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            read_image(tmp_path / name)


def test_beyond_the_limit_is_refused() -> None:
    bmp = bytearray(cv2.imencode(".bmp", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 60000, 50000)
    with pytest.raises(InputError, match="wide: above Pillow's size limit"):
        decode_image(bytes(bmp), "wide")
    tiff = bytearray(encode_image(np.zeros((4, 4, 4), np.uint8), "tiff"))
    ifd = int.from_bytes(tiff[4:8], "little")
    for place in range(ifd + 2, ifd + 26, 12):  # width and height, the first two tags
        tiff[place + 8 : place + 12] = struct.pack("<I", 60000)
    with pytest.raises(InputError, match=r"60000x60000 \(height x width\) is beyond the limit of 2\^30"):
        decode_image(bytes(tiff), "wide")


def test_what_no_memory_holds_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "usable_bytes", lambda: 4 * 10**9)
    monkeypatch.setattr(vips, "array_of", lambda *_: pytest.fail("it is decoded"))
    words = r"wide: 30000x30000 \(height x width\) takes 5.4 GB or more, but only 4.0 are"
    with pytest.raises(InputError, match=words):
        decode_image(png_that_says(30000, 30000), "wide")


def test_memory_is_that_of_the_machine() -> None:
    there_is = usable_bytes()
    assert there_is is None or 1 << 28 < there_is < 1 << 50


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp", ".avif"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 300), (70, 20)])
def test_header_tells_the_size(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    path = tmp_path / f"photo{suffix}"
    if not cv2.haveImageWriter(str(path)):
        pytest.skip(f"this OpenCV writes no {suffix}")
    save(path, np.zeros((height, width, 3), np.uint8))
    assert measure(path.read_bytes()) == (height, width, 1)
    assert measure(path.read_bytes()[:20]) is None


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_profile_and_exif_travel(kind: str) -> None:
    profile = make_profile(PRIMARIES[12], (2.2,))
    encoded = encode_image(red_image(), kind, icc=profile, exif=exif_bytes(1))
    photo = decode_image(encoded, "x")
    assert photo.icc == profile
    if kind != "tiff":
        found = exif_of(photo.exif)
        assert (found[271], found[274]) == ("Cam", 1)
    assert np.abs(photo.pixels.astype(int) - red_image()).mean() < LOSSY


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff"])
def test_resolution_is_the_photos_own_or_the_usual_one(kind: str) -> None:
    exif = Image.Exif()
    exif[0x011A] = exif[0x011B] = 300.0
    for given, dpi in ((None, 72), (exif.tobytes(), 300)):
        with Image.open(io.BytesIO(encode_image(red_image(), kind, exif=given))) as image:
            found = image.info.get("dpi", (72, 72))  # a JPEG may say nothing
            assert found == pytest.approx((dpi, dpi), abs=0.5)


def test_a_premultiplied_tiff_says_so() -> None:
    rgba = np.dstack([red_image(), red_image()[:, :, 0]])
    for premultiplied in (False, True):
        encoded = encode_image(rgba, "tiff", icc=icc_bytes(), premultiplied=premultiplied)
        with Image.open(io.BytesIO(encoded)) as image:
            assert image.tag_v2[338] == (1 if premultiplied else 2,)
        photo = decode_image(encoded, "x")
        assert np.abs(np.dstack([photo.pixels, photo.alpha]).astype(int) - rgba).max() <= premultiplied


def test_too_long_for_the_format_is_said() -> None:
    with pytest.raises(InputError, match="webp holds at most 16383 pixels"):
        encode_image(np.zeros((3, 20000), np.uint8), "webp")


def test_read_alpha_takes_the_alpha_channel_or_the_first(tmp_path: Path) -> None:
    rgb = red_image(dtype=np.uint16)
    alpha = read_alpha(save(tmp_path / "a.png", np.dstack([rgb, rgb[:, :, 1]])))
    assert alpha.dtype == np.float32
    np.testing.assert_allclose(alpha, rgb[:, :, 1] / 65535, atol=1e-7)
    grey = red_image()[:, :, 1]
    np.testing.assert_allclose(read_alpha(save(tmp_path / "b.png", grey)), grey / 255, atol=1e-7)


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "a.png"
    write_bytes(target, b"whole")
    assert target.read_bytes() == b"whole"

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"a\.png: cannot be written: No space left"):
        write_bytes(target, b"half")
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["a.png"]


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "out" / "a.png", b"")


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead, living = tmp_path / f".{child}-0.stylematte-part", tmp_path / f".{os.getpid()}-0.stylematte-part"
    other = tmp_path / ".notes-0.stylematte-part"
    for path in (dead, living, other):
        path.touch()
    remove_leftovers([tmp_path, tmp_path / "missing"])
    assert sorted(os.listdir(tmp_path)) == sorted([living.name, other.name])


def test_where_nobody_can_be_asked_old_leftovers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows signal 0 is Ctrl-C, and every other one ends the process that it is sent to."""
    monkeypatch.setattr(files, "CAN_ASK_FOR_PROCESSES", False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal is sent"))
    young, old = (tmp_path / f".{process}-0.stylematte-part" for process in (4, 5))
    for path in (young, old):
        path.touch()
    an_hour_ago = old.stat().st_mtime - 3601
    os.utime(old, (an_hour_ago, an_hour_ago))
    remove_leftovers([tmp_path])
    assert os.listdir(tmp_path) == [young.name]
