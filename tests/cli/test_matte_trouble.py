"""What goes wrong around photos: each is one clear line, and the rest is done."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stylematte.media import paths
from stylematte_cli.app import main
from stylematte_cli.commands import matte_files
from tests.cli.test_matte_process import ROOT, check_whole, command, start_and_wait, tool
from tests.images import assert_is_red_matte, load, red_image, save

__all__ = ["command"]  # a fixture

Matte = Callable[..., int]


def errors_of(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert "Traceback" not in err
    return err


def test_a_second_ctrl_c_ends_at_once_and_loses_nothing(tmp_path: Path, command: list[str]) -> None:
    process = start_and_wait(command, tmp_path / "out", results=1)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
    assert stderr.count("interrupted") >= 1
    check_whole(tmp_path / "out")
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").glob(".*")), "what was half written is taken away"


def test_closed_streams(tmp_path: Path, red_model: Path) -> None:
    photo = save(tmp_path / "photo.png", red_image())
    line = tool("matte", photo, "--out", tmp_path / "out", "--weights", red_model, "--device", "cpu")
    script = 'exec "$@" >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, "sh", *line], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0
    assert_is_red_matte(load(tmp_path / "out" / "photo.png"))
    assert (tmp_path / "out" / "manifest.jsonl").read_text().count("\n") == 1, "no log line went into a file"


def test_a_result_whose_name_is_too_long(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png", red_image())
    long = tmp_path / "in" / f"{'x' * 251}.png"  # as long as names may be; .webp is longer
    os.link(tmp_path / "in" / "a.png", long)
    assert matte(tmp_path / "in", "--out", tmp_path / "out", "--format", "webp") == 1
    err = errors_of(capfd)
    assert "cannot be written: File name too long. Give the photo a shorter name" in " ".join(err.split())
    assert (tmp_path / "out" / "a.webp").is_file()


def test_a_folder_that_is_called_like_a_photo(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "2024.jpg" / "a.png", red_image())
    save(tmp_path / "in" / "b.png", red_image())
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert errors_of(capfd).count("2024.jpg: a folder, not a") == 1
    assert (tmp_path / "out" / "2024.jpg" / "a.png").is_file(), "what is in it is done"
    assert (tmp_path / "out" / "b.png").is_file()
    assert matte(tmp_path / "in" / "2024.jpg", "--out", tmp_path / "by-name") == 0


def forbid(monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
    """Let nothing below a folder be looked at, whoever runs the tests: root may look at everything."""

    def guarded(work: Callable[..., object]) -> Callable[..., object]:
        def instead(path: object, *arguments: object, **options: object) -> object:
            text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
            target = os.path.join(os.path.dirname(text), os.readlink(text)) if os.path.islink(text) else text
            if target.startswith(f"{below}{os.sep}"):
                raise PermissionError(13, "Permission denied", text)
            return work(path, *arguments, **options)

        return instead

    monkeypatch.setattr(os, "stat", guarded(os.stat))
    monkeypatch.setattr(os, "scandir", guarded(os.scandir))


def test_a_link_into_a_folder_that_cannot_be_read(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "closed" / "album" / "b.png", red_image())
    save(tmp_path / "in" / "a.png", red_image())
    (tmp_path / "in" / "album").symlink_to(tmp_path / "closed" / "album")
    forbid(monkeypatch, tmp_path / "closed")
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert errors_of(capfd).count("album: a link to what cannot be read: Permission denied") == 1
    assert (tmp_path / "out" / "a.png").is_file()


def test_a_home_that_cannot_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another user, as after sudo: weights of one's own are not to be found there, and that is said."""
    photo = save(tmp_path / "photo.png", red_image())
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("STYLEMATTE_HOME", raising=False)
    forbid(monkeypatch, tmp_path / "home")
    code = main(["matte", str(photo), "--out", str(tmp_path / "out"), "--weights", "mine", "--device", "cpu"])
    assert code == 4
    assert errors_of(capfd).count("stylematte: error: ") == 1


@pytest.mark.parametrize("name", ["clip.MOV", "moving.gif"])
def test_clips_in_a_folder_without_what_reads_them(
    tmp_path: Path,
    matte: Matte,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    save(tmp_path / "in" / "a.png", red_image())
    (tmp_path / "in" / name).write_bytes(b"GIF89a")
    for module in (paths, matte_files):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 0
    err = errors_of(capfd)
    assert "skipped: 1 file(s) of type clip. pip install 'stylematte[video]'" in err
    assert "1 done, 1 skipped" in err
    named = (tmp_path / "in" / "a.png", tmp_path / "in" / name)
    assert matte(*named, "--out", tmp_path / "b") == 1
    assert f"{name}: a clip needs PyAV" in errors_of(capfd)
    assert (tmp_path / "b" / "a.png").is_file()


def test_emptied_results_are_made_again(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "photo.png", red_image())
    result = tmp_path / "out" / "photo.png"
    assert matte(photo, "--out", tmp_path / "out") == 0
    result.write_bytes(b"")
    assert matte(photo, "--out", tmp_path / "out") == 0
    assert_is_red_matte(load(result))
    mine = save(tmp_path / "mine.png", red_image()).read_bytes()
    result.write_bytes(mine)
    capfd.readouterr()
    assert matte(photo, "--out", tmp_path / "out") == 0
    assert "photo.png" in errors_of(capfd)
    assert result.read_bytes() == mine, "what somebody has painted into is kept, and told"
