"""The manifest decides what a second run does again."""

import json
import os
from pathlib import Path

import pytest

from stylematte.errors import InputError
from stylematte.media.manifest import NAME, Manifest, describe_output, read_and_identify
from stylematte.media.paths import Item

SETTINGS = {"output": "alpha", "format": "png"}
MODEL = {"model_sha256": "m" * 64, "engine": "onnx, CPUExecutionProvider"}


@pytest.fixture
def item(tmp_path: Path) -> Item:
    """A photo and its result, recorded as done."""
    source, output = tmp_path / "a.jpg", tmp_path / "out" / "sub" / "a.png"
    source.write_bytes(b"photo")
    output.parent.mkdir(parents=True)
    output.write_bytes(b"matte")
    found = Item(source, output)
    record(tmp_path, found)
    return found


def record(folder: Path, item: Item, outcome: str = "ok") -> None:
    manifest = Manifest(folder / "out", SETTINGS, MODEL, "MIT")
    manifest.open()
    _, identity = read_and_identify(item.source)
    manifest.record(item, outcome, {**identity, "size": (4, 5), "seconds": {"read": 0.5}})
    manifest.close()


def state(
    folder: Path, item: Item, settings: dict[str, str] = SETTINGS, model: dict[str, str] = MODEL
) -> str:
    return Manifest(folder / "out", settings, model).state_of(item)


def test_line_says_everything(tmp_path: Path, item: Item) -> None:
    (line,) = (tmp_path / "out" / NAME).read_text().splitlines()
    assert json.loads(line) == {
        "input": str(item.source),
        "output": "sub/a.png",
        "outcome": "ok",
        "settings": SETTINGS,
        **MODEL,
        "licence": "MIT",
        # sha256sum of "photo"
        "sha256": "55c64d0fcd6f9d5f7c828093857e3fdfda68478bb4e9bd24d481ef391c7804e8",
        "bytes": 5,
        "mtime_ns": item.source.stat().st_mtime_ns,
        "size": [4, 5],
        "frames": None,
        "output_bytes": 0,
        "output_mtime_ns": 0,
        "output_sha256": "",
        "seconds": {"read": 0.5},
        "notes": [],
        "error": "",
    }


def test_done_until_something_changes(tmp_path: Path, item: Item) -> None:
    assert state(tmp_path, item) == "done"
    assert state(tmp_path, item, settings={**SETTINGS, "format": "webp"}) == "changed"
    assert state(tmp_path, item, model={**MODEL, "model_sha256": "n" * 64}) == "changed"
    assert state(tmp_path, item, model={**MODEL, "engine": "tensorrt, TensorRT"}) == "changed"

    os.utime(item.source, ns=(1, 1))
    assert state(tmp_path, item) == "done", "touched, but the same bytes"
    item.source.write_bytes(b"foto!")
    assert state(tmp_path, item) == "changed", "other bytes of the same length"

    item.output.unlink()
    assert state(tmp_path, item) == "new"


def test_lines_that_know_the_weights_alone_are_of_another_model(tmp_path: Path, item: Item) -> None:
    path = tmp_path / "out" / NAME
    line = json.loads(path.read_text())
    del line["model_sha256"], line["engine"]
    path.write_text(json.dumps(line | {"weights_sha256": "w" * 64}) + "\n")
    assert state(tmp_path, item) == "changed"


def test_result_that_the_manifest_does_not_know_is_kept(tmp_path: Path, item: Item) -> None:
    (tmp_path / "out" / NAME).unlink()
    assert state(tmp_path, item) == "kept"


def test_failure_after_a_success_does_not_disown_the_result(tmp_path: Path, item: Item) -> None:
    record(tmp_path, item, outcome="failed")
    assert state(tmp_path, item) == "done"


def test_half_a_line_is_passed_over_and_the_next_is_whole(tmp_path: Path, item: Item) -> None:
    path = tmp_path / "out" / NAME
    with path.open("a") as file:
        file.write('[]\n{"outcome": "ok"}\n{"input": "b.jpg", "outp')
    record(tmp_path, item)
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[-1])["outcome"] == "ok"
    assert state(tmp_path, item) == "done"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written") as caught:
        Manifest(tmp_path / "file" / "out", SETTINGS, MODEL).open()
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to every folder")
def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        Manifest(tmp_path / "out", SETTINGS, MODEL).open()


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    source, output = (
        Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/\xff.jpg", b"/out/\xff.png")
    )
    source.write_bytes(b"photo")
    output.parent.mkdir()
    output.touch()
    record(tmp_path, Item(source, output))
    assert state(tmp_path, Item(source, output)) == "done"


def test_results_that_were_emptied_are_made_again_and_those_that_were_changed_are_kept(
    tmp_path: Path, item: Item
) -> None:
    item.output.parent.mkdir(parents=True, exist_ok=True)
    item.output.write_bytes(b"matte")
    manifest = Manifest(tmp_path / "out", SETTINGS, MODEL)
    manifest.open()
    _, identity = read_and_identify(item.source)
    manifest.record(item, "ok", identity | describe_output(item.output, b"matte"))
    manifest.close()
    assert state(tmp_path, item) == "done"
    os.utime(item.output, (1, 1))
    assert state(tmp_path, item) == "done", "the same bytes, copied"
    for changed in (b"retouched", b"Matte"):
        item.output.write_bytes(changed)
        assert state(tmp_path, item) == "kept"
    item.output.write_bytes(b"")
    assert state(tmp_path, item) == "changed"
