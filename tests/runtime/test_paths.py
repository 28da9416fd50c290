"""Names of results: mirrored folders, no file written twice, no photo overwritten, no endless walk."""

import os
from pathlib import Path

import pytest

from stylematte.errors import UsageError
from stylematte.media import formats, paths
from stylematte.media.paths import Work, collect


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def outputs(work: Work, out: Path) -> list[str]:
    return [item.output.relative_to(out).as_posix() for item in work.items]


def test_folders_are_mirrored_and_other_files_passed_over(tmp_path: Path) -> None:
    photos = make(
        tmp_path / "photos",
        "b.jpg",
        "A.JPG",
        "notes.txt",
        "trip/Ünï 日本.PnG",
        "trip/day.1/c.v2.tiff",
        ".hidden.jpg",
        ".thumbnails/d.jpg",
    )
    work = collect([photos], tmp_path / "out", ".png")
    assert outputs(work, tmp_path / "out") == ["A.png", "b.png", "trip/Ünï 日本.png", "trip/day.1/c.v2.png"]
    assert work.problems == []


def test_files_go_to_the_top_whatever_they_are_called(tmp_path: Path) -> None:
    make(tmp_path, "deep/er/a.jpeg", "b")
    work = collect(
        [tmp_path / "deep/er/a.jpeg", tmp_path / "b", tmp_path / "gone.jpg"], tmp_path / "o", ".webp"
    )
    assert outputs(work, tmp_path / "o") == ["a.webp", "b.webp", "gone.webp"]


@pytest.mark.parametrize(
    ("names", "inputs"),
    [
        (["a.jpg", "a.png"], ["."]),
        (["x/a.jpg", "y/a.jpg"], ["x", "y"]),
        (["x/a.jpg", "y/a.webp"], ["x/a.jpg", "y/a.webp"]),
        (["x/a.jpg", "y/a.webp"], ["x/a.jpg", "y"]),
    ],
)
def test_two_inputs_of_one_result_are_refused_with_both_names(
    tmp_path: Path, names: list[str], inputs: list[str]
) -> None:
    make(tmp_path / "in", *names)
    with pytest.raises(UsageError) as caught:
        collect([tmp_path / "in" / name for name in inputs], tmp_path / "out", ".png")
    for name in names:
        assert str(tmp_path / "in" / name) in caught.value.message
    assert caught.value.exit_code == 2


def test_what_is_given_twice_is_done_once(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    assert len(collect([tmp_path, tmp_path / "a.jpg"], tmp_path / "out", ".png").items) == 1


def test_output_folder_inside_the_input_is_not_walked(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "mattes/a.png", "mattes/sub/b.jpg", "other/c.jpg")
    work = collect([tmp_path], tmp_path / "mattes", ".png")
    assert outputs(work, tmp_path / "mattes") == ["a.png", "other/c.png"]
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path / "mattes")
    assert outputs(collect([tmp_path], linked, ".png"), linked) == ["a.png", "other/c.png"]


def test_photos_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.png", "sub/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match="would replace the image"):
            collect([tmp_path / "a.png"], out, ".png")
    with pytest.raises(UsageError, match="both the input and the output folder"):
        collect([tmp_path / "sub"], tmp_path / "sub", ".png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would replace the image"):
        collect([tmp_path / "a.png"], Path("."), ".png")


def test_symlink_loops_end_and_links_are_followed(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", "a.jpg", "sub/b.jpg")
    make(tmp_path / "elsewhere", "c.jpg")
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    (photos / "best").symlink_to(tmp_path / "elsewhere")
    (photos / "d.jpg").symlink_to(tmp_path / "elsewhere" / "c.jpg")
    (photos / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    work = collect([photos], tmp_path / "out", ".png")
    # The broken link is kept: reading it names it.
    assert outputs(work, tmp_path / "out") == ["a.png", "broken.png", "d.png", "best/c.png", "sub/b.png"]


def test_what_looks_like_work_and_is_none_is_named(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", "x.png/inside.jpg", "a.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (tmp_path / "empty").mkdir()
    work = collect([photos, tmp_path / "empty"], tmp_path / "out", ".png")
    assert outputs(work, tmp_path / "out") == ["a.png", "x.png/inside.png"]
    assert work.problems == [
        (photos / "pipe.jpg", "not a regular file"),
        (photos / "x.png", "a folder, not an image"),
        (tmp_path / "empty", "no images and no clips in this folder"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_unreadable_folder_is_named(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", "a.jpg", "locked/b.jpg")
    (photos / "locked").chmod(0)
    try:
        work = collect([photos], tmp_path / "out", ".png")
    finally:
        (photos / "locked").chmod(0o700)
    assert outputs(work, tmp_path / "out") == ["a.png"]
    assert work.problems == [(photos / "locked", "cannot be read: Permission denied")]


def test_files_of_kinds_that_are_not_read_are_counted_by_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.CR2", "c.nef", "d.jxl", "e.psd", "f.heic", "g.HEIF", "h.exr", "i.gif", "n.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.setattr(paths, "find_spec", lambda name: None)
    work = collect([tmp_path / "in"], tmp_path / "out", ".png")
    work.pass_over_what_needs_more([tmp_path / "in"])
    assert [item.source.name for item in work.items] == ["a.jpg"]
    assert {title: count for (title, _), count in work.passed_over.items()} == {
        "camera raw file": 2,
        "JPEG XL": 1,
        "Photoshop document": 1,
        "HEIC": 2,
        "OpenEXR": 1,
        "clip": 1,
    }
    hints = dict(work.passed_over.keys())
    assert "pip install 'stylematte[heic]'" in hints["HEIC"]
    assert "pip install 'stylematte[video]'" in hints["clip"]

    named = collect([tmp_path / "in" / "f.heic"], tmp_path / "out", ".png")
    named.pass_over_what_needs_more([tmp_path / "in" / "f.heic"])
    assert len(named.items) == 1, "what is named fails by its name"


def test_a_page_is_named_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "scan.tif").touch()
    (item,) = collect([tmp_path / "scan.tif[2]"], tmp_path / "out", ".png").items
    assert (item.source, item.page, item.output.name) == (tmp_path / "scan.tif", 2, "scan[2].png")
    (tmp_path / "scan.tif[3]").touch()
    (item,) = collect([tmp_path / "scan.tif[3]"], tmp_path / "out", ".png").items
    assert (item.source, item.page) == (tmp_path / "scan.tif[3]", None)
