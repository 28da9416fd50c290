"""`stylematte export`: the whole way once, then every refusal."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.int8 import fewest_photos
from export.parity import LIMITS, Limits
from models.checkpoints import save_weights
from stylematte_cli.app import main
from tests.models.networks import lively
from tests.training import drawn

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_weights(lively("test"), path, {"steps": 12})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        drawn.save(folder / f"{number}.png", drawn.sample_image(np.random.default_rng(number))[0])
    return folder


@pytest.fixture(scope="module")
def made(weights, photos, tmp_path_factory) -> Path:
    """Folder of a finished export."""
    out = tmp_path_factory.mktemp("made") / "deep"
    arguments = [
        "export",
        "--weights",
        weights,
        "--photos",
        photos,
        "--licence",
        "CC0-1.0",
        "--out",
        out,
        "-q",
    ]
    assert main([str(a) for a in arguments]) == 0
    return out


@pytest.fixture
def traced(made, monkeypatch):
    """Stands for torch's tracing, which takes seconds; returns what it will give."""
    model = onnx.load(made / "mine.onnx")
    monkeypatch.setattr("export.build.export_onnx", lambda network, origin: model)
    return model


def run(weights, out, *more) -> int:
    return main(["export", "--weights", str(weights), "--out", str(out), *map(str, more)])


def refused(capsys, *arguments, code: int) -> str:
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("stylematte: error: ")
    assert "Traceback" not in captured.err
    return line


def test_file_and_card(made, weights):
    assert sorted(p.name for p in made.iterdir()) == ["mine.json", "mine.onnx"]
    card = json.loads((made / "mine.json").read_text())
    data = (made / "mine.onnx").read_bytes()
    assert card == {
        "name": "mine",
        "file": "mine.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": "CC0-1.0",
        "summary": "",
        "provenance": {"steps": 12},
        "precision": "fp32",
    }
    facts = {entry.key: entry.value for entry in onnx.load(made / "mine.onnx").metadata_props}
    assert facts["stylematte.weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["stylematte.licence"] == "CC0-1.0"
    parity = json.loads(facts["stylematte.parity"])
    assert parity["pictures"] == 4  # two photos, noise, a batch
    assert 0 < parity["max_difference"] < 1 / 255


def test_the_file_needs_no_other(made, tmp_path):
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((made / "mine.onnx").read_bytes())
    session = onnxruntime.InferenceSession(str(alone), providers=["CPUExecutionProvider"])
    image = np.zeros((1, 3, 64, 64), np.float32)
    assert session.run(["alpha"], {"image": image, "guide": image})[0].shape == (1, 1, 64, 64)


def test_json(weights, photos, tmp_path, capsys, traced):
    assert run(weights, tmp_path, "--photos", photos, "--licence", "MIT", "--json") == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert captured.err == ""
    assert facts["file"] == str(tmp_path / "mine.onnx")
    assert facts["sha256"] == hashlib.sha256((tmp_path / "mine.onnx").read_bytes()).hexdigest()
    assert facts["parity"]["pictures"] == 4


def test_a_line_for_people(weights, photos, tmp_path, capsys, traced):
    assert run(weights, tmp_path, "--photos", photos) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'mine.onnx'}: ")
    assert "over 4 images" in captured.out
    assert "(test, fp32)" in captured.err


def test_the_card_beside_the_weights_is_carried_over(weights, photos, tmp_path, traced):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(weights.read_bytes())
    card = {"licence": "MIT", "summary": "Discs.", "provenance": {"steps": 3}}
    mine.with_suffix(".json").write_text(json.dumps(card))
    assert run(mine, tmp_path / "out", "--photos", photos) == 0
    made = json.loads((tmp_path / "out" / "mine.json").read_text())
    # Weights that were trained on since have more steps than the card beside them says.
    assert {key: made[key] for key in card} == card | {"provenance": {"steps": 12}}
    save_weights(lively("test"), mine)
    assert run(mine, tmp_path / "other", "--photos", photos) == 0
    assert json.loads((tmp_path / "other" / "mine.json").read_text())["provenance"] == {"steps": 3}


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_card_that_cannot_be_read(weights, photos, tmp_path, capsys, traced, text):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(weights.read_bytes())
    mine.with_suffix(".json").write_text(text)
    assert "mine.json" in refused(capsys, mine, tmp_path / "out", "--photos", photos, code=3)


def test_a_finished_file_is_kept_unless_told_otherwise(weights, photos, tmp_path, capsys, traced):
    target = tmp_path / "mine.onnx"
    target.write_bytes(b"old")
    line = refused(capsys, weights, tmp_path, code=3)
    assert str(target) in line
    assert "--overwrite" in line
    assert target.read_bytes() == b"old"
    assert run(weights, tmp_path, "--photos", photos, "--overwrite") == 0
    onnx.checker.check_model(onnx.load(target))


@pytest.mark.parametrize("part", ["head.weight", "grey_weights"])
def test_a_file_that_differs_from_the_network_is_not_kept(weights, photos, tmp_path, capsys, traced, part):
    tensor = next(t for t in traced.graph.initializer if part in t.name)
    array = onnx.numpy_helper.to_array(tensor) * np.float32(1.1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    line = refused(capsys, weights, tmp_path / "out", "--photos", photos, code=5)
    assert "alpha of the file differs from the network's" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["giant", "nowhere/x.safetensors"])
def test_weights_that_are_not_here(tmp_path, capsys, name):
    assert repr(name) in refused(capsys, name, tmp_path, code=4)


def test_weights_of_another_kind(tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(b"x")
    assert "w.pth: not a .safetensors file" in refused(capsys, tmp_path / "w.pth", tmp_path, code=3)
    (tmp_path / "w.safetensors").write_bytes(b"x")
    line = refused(capsys, tmp_path / "w.safetensors", tmp_path, code=3)
    assert "w.safetensors: not a readable safetensors file" in line


def test_photos_that_are_not_there(weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    line = refused(capsys, weights, tmp_path, "--photos", tmp_path / "empty", code=3)
    assert "no images for the parity check" in line
    assert "gone" in refused(capsys, weights, tmp_path, "--photos", tmp_path / "gone", code=3)


def test_a_missing_package_is_named_with_the_line_that_installs_it(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stylematte_cli.commands.toolkit.find_spec", lambda name: None)
    line = refused(capsys, weights, tmp_path, code=4)
    assert line.endswith('torch is not installed. pip install "stylematte[train]"')


def test_precisions(weights, photos, tmp_path, capsys, traced):
    """A file of each, under a name of its own, with the card saying which."""
    for precision in ("fp16", "bf16"):
        assert run(weights, tmp_path, f"--{precision}", "--photos", photos) == 0
        target = tmp_path / f"mine_{precision}.onnx"
        assert f"{target}: " in capsys.readouterr().out
        facts = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
        assert facts["stylematte.precision"] == precision
        assert json.loads(facts["stylematte.parity"])["reference"] == "fp32"
        assert json.loads(target.with_suffix(".json").read_text())["precision"] == precision


def test_int8_is_calibrated_on_three_quarters_and_proven_on_the_rest(
    weights, tmp_path, capsys, traced, monkeypatch
):
    # A network of random weights is undecided everywhere, so its alpha moves more than a trained one's.
    monkeypatch.setitem(LIMITS, "int8", Limits(0.6, 0.5, 0.05))
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(24):
        drawn.save(folder / f"{number:02}.png", drawn.sample_image(np.random.default_rng(number))[0])
    assert run(weights, tmp_path, "--int8", "--photos", folder) == 0
    assert "over 8 images" in capsys.readouterr().out  # six photos, noise, a batch
    assert json.loads((tmp_path / "mine_int8.json").read_text())["calibration_photos"] == 18


@pytest.mark.parametrize("count", [1, 16, 21])
def test_too_few_photos_for_int8_are_said_first_and_truly(weights, tmp_path, capsys, monkeypatch, count):
    """16 set the ranges, and of four photos one proves: 22 are as few as do."""
    assert fewest_photos() == 22
    assert "at least 22" in (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    monkeypatch.setattr("export.build.export_onnx", lambda *_: pytest.fail("it is traced"))
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(count):
        drawn.save(folder / f"{number:02}.png", np.full((8, 8, 3), number, np.uint8))
    line = refused(capsys, weights, tmp_path / "out", "--int8", "--photos", folder, code=3)
    assert f"few: {count} photos, but int8 needs at least 22: 16 for calibration" in line
    assert not (tmp_path / "out").exists()


def test_a_name_of_its_own_and_a_licence(weights, photos, tmp_path, capsys, traced):
    best = tmp_path / "best.safetensors"
    best.write_bytes(weights.read_bytes())
    given = ("--name", "fur", "--licence", "CC-BY-4.0", "--photos", photos)
    assert run(best, tmp_path / "a b", *given) == 0
    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == ["fur.json", "fur.onnx"]
    card = json.loads((tmp_path / "a b" / "fur.json").read_text())
    assert (card["name"], card["file"], card["licence"]) == ("fur", "fur.onnx", "CC-BY-4.0")
    captured = capsys.readouterr()
    assert "licence" not in captured.err
    assert captured.out.endswith(f" --weights '{tmp_path}/a b/fur.onnx'\n")  # to be pasted into a shell
    assert run(best, tmp_path / "out", "--fp16", *given) == 0
    assert (tmp_path / "out" / "fur_fp16.onnx").is_file()


@pytest.mark.parametrize("flags", [[], ["--json"], ["-q"]])
def test_a_missing_licence_is_said(weights, photos, tmp_path, capsys, traced, flags):
    assert run(weights, tmp_path, "--photos", photos, *flags) == 0
    words = f"{weights} states no licence, so the model will state none; give one with --licence"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden"])
def test_a_name_that_no_file_can_have(weights, tmp_path, capsys, name):
    assert f"--name {name!r}" in refused(capsys, weights, tmp_path, "--name", name, code=2)


def test_precisions_that_cannot_be_meant(weights, photos, tmp_path, capsys):
    assert "exclude each other" in refused(capsys, weights, tmp_path, "--fp16", "--int8", code=2)
    assert "--int8 needs --photos DIR" in refused(capsys, weights, tmp_path, "--int8", code=2)


def test_a_working_size_and_a_fixed_size(weights, photos, tmp_path, capsys):
    """Traced anew: the file of the other tests says the preset's own size."""
    arguments = ("--photos", photos, "--size", 96, "--fixed-size", "64x96")
    assert run(weights, tmp_path, *arguments) == 0
    model = onnx.load(tmp_path / "mine.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["stylematte.working_size"] == "96"
    assert facts["stylematte.working_sizes"] == "64x96"
    session = onnxruntime.InferenceSession(str(tmp_path / "mine.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[2:] == [64, 96]
    image = np.zeros((2, 3, 64, 96), np.float32)
    assert session.run(["alpha"], {"image": image, "guide": image})[0].shape == (2, 1, 64, 96)
    capsys.readouterr()
    line = refused(capsys, weights, tmp_path, "--overwrite", "--fixed-size", "64x97", code=3)
    assert "needs sizes that are multiples of 32" in line


def test_a_file_without_the_input_prior(photos, tmp_path, capsys):
    weights = tmp_path / "hinted.safetensors"
    save_weights(lively("test_nano"), weights)
    assert run(weights, tmp_path, "--photos", photos, "--no-prior") == 0
    model = onnx.load(tmp_path / "hinted.onnx")
    assert [port.name for port in model.graph.input] == ["image", "guide"]
    capsys.readouterr()
    line = refused(capsys, tmp_path / "hinted.onnx", tmp_path / "other", "--fp16", "--no-prior", code=2)
    assert "--no-prior are for trained weights" in line
    engine = ("--format", "tensorrt", "--plan-only")
    line = refused(capsys, weights, tmp_path, "--photos", photos, *engine, code=3)
    assert "another model: input prior no, not yes" in line
