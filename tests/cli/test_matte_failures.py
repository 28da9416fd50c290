"""`stylematte matte` on what cannot be read or written: each file is named, and the rest is done."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_matte import files
from tests.images import red_image, save

Matte = Callable[..., int]


def test_two_inputs_of_one_name_are_refused_before_work(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = save(tmp_path / "a.png", red_image()), save(tmp_path / "a.jpg", red_image())
    assert matte(tmp_path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert str(first) in error
    assert str(second) in error
    assert not (tmp_path / "out").exists()


def test_bad_files_are_named_and_the_rest_is_done(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    whole = save(folder / "good.jpg", red_image())
    save(folder / "good.png", red_image()).rename(folder / "better.png")
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:-200])
    (folder / "cut.png").write_bytes((folder / "better.png").read_bytes()[:-60])
    (folder / "cut.png").rename(folder / "cut2.png")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "x.png").mkdir()
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    assert matte(folder, "--out", tmp_path / "out") == 1
    assert files(tmp_path / "out") == ["better.png", "good.png"]
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "libpng" not in error
    for name, reason in {
        "cut.jpg": "damaged or truncated",
        "cut2.png": "damaged or truncated",
        "empty.jpg": "empty, 0 bytes",
        "text.jpg": "not an image in a known format",
        "x.png": "a folder, not an image",
        "gone.jpg": "no such file",
    }.items():
        (line,) = (line for line in error.splitlines() if f"failed: {folder / name}: " in line)
        assert reason in line
    assert "2 done, 6 failed" in error


def test_a_file_that_vanishes_is_named(
    tmp_path: Path, matte: Matte, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stylematte.media import manifest

    save(tmp_path / "in" / "a.png", red_image())
    victim = save(tmp_path / "in" / "b.png", red_image())
    opened = manifest.Manifest.open

    def open_and_delete(self: manifest.Manifest) -> None:  # after the list is made, before reading begins
        victim.unlink()
        opened(self)

    monkeypatch.setattr(manifest.Manifest, "open", open_and_delete)
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert f"failed: {victim}: no such file" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["a.png"]


def test_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "a.png", red_image())
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert matte(photo, "--out", out, "--quiet") == 3
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "cannot be written" in error
        assert "--out" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to every folder")
def test_read_only_output_is_one_line(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "a.png", red_image())
    (tmp_path / "out").mkdir(mode=0o500)
    assert matte(photo, "--out", tmp_path / "out", "--quiet") == 3
    assert "Permission denied" in capsys.readouterr().err


def test_one_result_that_cannot_be_written_leaves_the_rest(tmp_path: Path, matte: Matte) -> None:
    save(tmp_path / "in" / "a.png", red_image())
    save(tmp_path / "in" / "sub" / "b.png", red_image())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").touch()
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert files(tmp_path / "out") == ["a.png", "sub"]
