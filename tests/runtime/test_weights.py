import hashlib
import json
from pathlib import Path

import pytest

from stylematte import files, weights
from stylematte.errors import InputError, MissingError


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The folder of shipped models and the cache folder, both empty."""
    shipped, cache = tmp_path / "assets", tmp_path / "cache"
    shipped.mkdir()
    cache.mkdir()
    monkeypatch.setattr(weights, "ASSETS", shipped)
    monkeypatch.setenv("STYLEMATTE_HOME", str(cache))
    return shipped, cache


def test_shipped_name_goes_before_a_cached_one(folders: tuple[Path, Path]) -> None:
    shipped, cache = folders
    for path in (shipped / "nano.onnx", cache / "nano.onnx", cache / "mine.onnx"):
        path.write_bytes(b"x")
    assert weights.resolve() == shipped / "nano.onnx"
    assert weights.resolve("mine") == cache / "mine.onnx"
    assert [(w.name, w.shipped) for w in weights.list_weights()] == [("nano", True), ("mine", False)]


def test_path_is_taken_as_it_is(folders: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "somewhere.onnx"
    path.write_bytes(b"x")
    assert weights.resolve(path) == path
    assert weights.resolve(str(path)) == path


def test_name_goes_before_a_file_called_the_same(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders[0] / "nano.onnx").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    Path("nano").write_bytes(b"not a model")
    assert weights.resolve("nano") == folders[0] / "nano.onnx"
    assert weights.resolve("./nano") == weights.resolve(Path("nano")) == Path("nano")


def test_unknown_name_lists_the_known_ones(folders: tuple[Path, Path]) -> None:
    (folders[0] / "nano.onnx").write_bytes(b"x")
    (folders[1] / "mine.onnx").write_bytes(b"x")
    with pytest.raises(MissingError, match="'nanoo' are not known") as error:
        weights.resolve("nanoo")
    assert "nano, mine" in error.value.hint


def test_missing_file_is_named(folders: tuple[Path, Path]) -> None:
    for text in ("gone.onnx", "some/folder/gone"):
        with pytest.raises(MissingError, match=f"{text}: no such weights file"):
            weights.resolve(text)


def test_training_weights_get_the_export_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="weights for training") as error:
        weights.resolve(path)
    assert f"stylematte export --weights {path}" in error.value.hint


def test_training_weights_of_ones_own_have_a_name(folders: tuple[Path, Path]) -> None:
    shipped, cache = folders
    for path in (shipped / "nano.onnx", shipped / "nano.safetensors", cache / "both.onnx"):
        path.write_bytes(b"x")
    for name in ("both", "mine"):
        (cache / f"{name}.safetensors").write_bytes(b"x")
    listed = [(w.name, w.path.suffix, w.is_model) for w in weights.list_weights()]
    assert listed == [
        ("nano", ".onnx", True),
        ("both", ".onnx", True),
        ("mine", ".safetensors", False),
    ]
    assert weights.resolve("both") == cache / "both.onnx"
    assert weights.find("mine") == cache / "mine.safetensors"
    with pytest.raises(InputError, match="'mine' are here for training") as error:
        weights.resolve("mine")
    assert f"stylematte export --weights mine --out {cache}" in error.value.hint


def test_checkpoints_get_the_import_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "stylematte_pure.pth"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="weights for training") as error:
        weights.resolve(path)
    assert f"stylematte models import {path}" in error.value.hint


def test_digest_of_a_card_is_of_the_file_it_names(folders: tuple[Path, Path]) -> None:
    """Weights and the model exported from them lie side by side, with one card."""
    path = folders[1] / "mine.onnx"
    path.write_bytes(b"model")
    card = {"file": "mine.safetensors", "sha256": "0" * 64, "licence": "MIT"}
    path.with_suffix(".json").write_text(json.dumps(card))
    found = weights.describe("mine")
    assert (found.sha256, found.licence) == ("", "MIT")


def test_card_is_read_and_the_digest_is_of_the_file(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "nano.onnx"
    path.write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()
    card = {"sha256": digest, "licence": "Apache-2.0", "summary": "Small.", "provenance": {"steps": 3}}
    path.with_suffix(".json").write_text(json.dumps(card))
    (found,) = weights.list_weights()
    assert (found.bytes, found.sha256, found.licence) == (5, digest, "Apache-2.0")
    assert (found.summary, found.provenance) == ("Small.", {"steps": 3})
    assert files.sha256_of(path) == digest


def test_sha256_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_of(tmp_path / "abc") == digest


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_damaged_card_is_named_but_does_not_stop_the_model(folders: tuple[Path, Path], text: str) -> None:
    path = folders[1] / "mine.onnx"
    path.write_bytes(b"x")
    path.with_suffix(".json").write_text(text)
    assert weights.resolve("mine") == path
    with pytest.raises(InputError, match=r"mine\.json: the model card is damaged"):
        weights.list_weights()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "home"
    monkeypatch.delenv("STYLEMATTE_HOME")
    assert files.cache_folder() == tmp_path / "xdg" / "stylematte"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert files.cache_folder() == tmp_path / ".cache" / "stylematte"
