"""`stylematte models remove`, `pack`, `unpack`, and what licences say."""

import json
import zipfile

import pytest

from stylematte import weights
from stylematte.errors import InputError, UsageError
from stylematte.licences import check_policy, commercial_use
from stylematte_cli.app import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(weights, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr("stylematte.bundles.ASSETS", tmp_path / "assets")
    for folder in ("home", "assets"):
        (tmp_path / folder).mkdir()
    for name in ("mine.onnx", "mine_refiner.onnx", "mine.0a1b.engine", "minerals.onnx"):
        (tmp_path / "home" / name).write_bytes(name.encode())
    (tmp_path / "home" / "mine.json").write_text('{"licence": "MIT"}')
    (tmp_path / "assets" / "nano.onnx").write_bytes(b"shipped")
    return tmp_path / "home"


def test_remove_takes_all_files_of_a_name_and_no_other(home, capsys):
    assert main(["models", "remove", "mine"]) == 0
    assert [path.name for path in home.iterdir()] == ["minerals.onnx"]
    assert capsys.readouterr().out.count("removed ") == 4


@pytest.mark.parametrize(
    ("name", "code", "words"), [("nano", 2, "ships"), ("x", 4, "minerals"), ("../x", 2, "name")]
)
def test_what_cannot_be_removed_is_told(home, capsys, name, code, words):
    before = sorted(home.iterdir())
    assert main(["models", "remove", name]) == code
    assert words in capsys.readouterr().err
    assert sorted(home.iterdir()) == before


def test_a_bundle_brings_weights_card_and_refiner_to_another_machine(home, tmp_path, monkeypatch, capsys):
    bundle = tmp_path / "weights.zip"
    assert main(["models", "pack", "mine", "nano", "--out", str(bundle)]) == 0
    assert main(["models", "pack", "mine", "--out", str(bundle)]) == 2
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "there"))
    assert main(["models", "unpack", str(bundle)]) == 0
    there = tmp_path / "there"
    # nano ships there too, and the engine is for one card alone
    assert sorted(path.name for path in there.iterdir()) == ["mine.json", "mine.onnx", "mine_refiner.onnx"]
    assert (there / "mine.onnx").read_bytes() == b"mine.onnx"
    capsys.readouterr()
    assert main(["models", "unpack", str(bundle)]) == 0
    assert "already unpacked" in capsys.readouterr().out
    (there / "mine.onnx").write_bytes(b"another")
    assert main(["models", "unpack", str(bundle)]) == 3
    assert (there / "mine.onnx").read_bytes() == b"another"
    assert main(["models", "unpack", str(bundle), "--overwrite"]) == 0
    assert (there / "mine.onnx").read_bytes() == b"mine.onnx"


def rewritten(bundle, change):
    """The bundle with its contents and files changed by `change(contents, files)`."""
    with zipfile.ZipFile(bundle) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    contents = json.loads(files.pop("stylematte-bundle.json"))
    change(contents, files)
    with zipfile.ZipFile(bundle, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
        packed.writestr("stylematte-bundle.json", json.dumps(contents))


def exchange(contents, files):
    files["mine.onnx"] = b"exchanged"


def escape(contents, files):
    contents["files"]["../evil.onnx"] = contents["files"].pop("mine.onnx")


def program(contents, files):
    contents["files"]["evil.py"] = contents["files"]["mine.onnx"]


def lack(contents, files):
    del files["mine.onnx"]


def later(contents, files):
    contents["version"] = 9


@pytest.mark.parametrize("change", [exchange, escape, program, lack, later])
def test_a_bundle_that_is_not_what_was_packed_changes_nothing(home, tmp_path, monkeypatch, capsys, change):
    bundle = tmp_path / "weights.zip"
    assert main(["models", "pack", "mine", "--out", str(bundle)]) == 0
    rewritten(bundle, change)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "there"))
    assert main(["models", "unpack", str(bundle)]) == 3
    assert not list((tmp_path / "there").iterdir())
    assert not (tmp_path / "evil.onnx").exists()


def test_what_is_no_bundle_is_told(tmp_path, home, capsys):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    assert main(["models", "unpack", str(tmp_path / "a.zip")]) == 3
    assert "not a bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        ("Apache-2.0", "yes"),
        ("mit", "yes"),
        ("CC-BY-NC-4.0", "no"),
        ("Apache-2.0 AND CC-BY-NC-4.0", "no"),
        ("MIT OR GPL-3.0-only", "yes"),
        ("(MIT OR CC-BY-NC-4.0) AND Apache-2.0", "yes"),
        ("(MIT OR CC-BY-NC-4.0) AND (CC-BY-NC-4.0)", "no"),
        ("AGPL-3.0-only", "unknown"),
        ("bria-rmbg-1.4 (non-commercial)", "no"),
        ("", "unknown"),
        ("mine", "unknown"),
    ],
)
def test_what_a_licence_says_of_commercial_use(licence, use):
    assert commercial_use(licence) == use


def test_policy_takes_what_is_clearly_allowed_and_nothing_else():
    check_policy("any", "a", "")
    check_policy("commercial", "a", "MIT")
    for licence in ("", "CC-BY-NC-4.0", "AGPL-3.0-only"):
        with pytest.raises(InputError, match="policy commercial"):
            check_policy("commercial", "a", licence)
    with pytest.raises(UsageError, match="policy 'x'"):
        check_policy("x", "a", "MIT")
