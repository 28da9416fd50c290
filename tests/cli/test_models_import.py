"""`stylematte models import FILE.onnx`: a network of others becomes a model that every command takes."""

import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest

from stylematte_cli.app import main
from tests.export.drawn_networks import network, save, with_architecture

TOLD = ["--mean", "0.5", "--std", "0.25", "--activation", "none"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_import_keeps_a_model_and_its_card_and_matte_takes_it(tmp_path, home, capsys):
    file = save(with_architecture("u2net"), tmp_path / "u2net.onnx")
    assert main(["models", "import", str(file), "--licence", "MIT"]) == 0
    out = capsys.readouterr().out
    assert "recognised as U²-Net" in out
    assert "commercial use: yes" in out
    card = json.loads((home / "u2net.json").read_text())
    assert card["licence"] == "MIT"
    assert card["provenance"]["imported_from"] == "u2net.onnx"
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8))
    assert main(["matte", str(photo), "--out", str(tmp_path / "out"), "--weights", "u2net"]) == 0
    assert cv2.imread(str(tmp_path / "out" / "photo.png"), cv2.IMREAD_UNCHANGED).shape == (50, 80)


def test_json_has_the_proof(tmp_path, home, capsys):
    file = save(network(), tmp_path / "mine.onnx")
    assert main(["models", "import", str(file), *TOLD, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recognised"] is False
    assert facts["parity"]["max_difference"] < 1e-5


def test_by_name_of_a_family_it_is_said_to_be_untried(tmp_path, home, capsys):
    file = save(network(ends_in="Identity"), tmp_path / "b.onnx")
    assert main(["models", "import", str(file), "--as", "birefnet", "--name", "big"]) == 0
    said = capsys.readouterr().err
    assert "not tested with a real file" in said
    assert "licensed MIT" in said
    assert (home / "big.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{}/missing.onnx"], 3, "no such file"),
        (["{}/text.onnx"], 3, "text file"),
        (["{}/net.onnx"], 3, "not recognised"),
        (["{}/net.onnx", "--as", "sam"], 2, "not a known family"),
        (["{}/net.onnx", "--mean", "a,b", "--std", "1"], 2, "three numbers"),
        (["{}/net.onnx", *TOLD, "--name", "nano"], 2, "an included model"),
        (["{}/w.pth", "--as", "u2net"], 2, "for .onnx files"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(tmp_path, home, capsys, arguments, code, words):
    save(network(), tmp_path / "net.onnx")
    (tmp_path / "text.onnx").write_text("no network\n")
    (tmp_path / "w.pth").write_bytes(b"PK")
    assert main(["models", "import", *(part.format(tmp_path) for part in arguments)]) == code
    error = capsys.readouterr().err
    assert words in error
    assert not list(home.glob("*"))


def test_it_is_not_overwritten_unasked_and_shares_no_card(tmp_path, home, capsys):
    file = save(network(), tmp_path / "mine.onnx")
    assert main(["models", "import", str(file), *TOLD]) == 0
    assert main(["models", "import", str(file), *TOLD]) == 3
    assert "already there" in capsys.readouterr().err
    assert main(["models", "import", str(file), *TOLD, "--overwrite"]) == 0
    (home / "other.safetensors").write_bytes(b"")
    assert main(["models", "import", str(file), *TOLD, "--name", "other"]) == 3


def test_importing_takes_no_torch(tmp_path):
    file = save(network(), tmp_path / "mine.onnx")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from stylematte_cli.app import main\n"
        f"sys.exit(main(['models', 'import', {str(file)!r}, *{TOLD!r}]))"
    )
    environment = {"STYLEMATTE_HOME": str(tmp_path / "home"), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    model = onnx.load(tmp_path / "home" / "mine.onnx")
    assert {port.name for port in model.graph.output} == {"alpha", "coefficients"}
