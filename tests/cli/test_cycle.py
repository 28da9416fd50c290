"""`stylematte cycle`: the whole loop in miniature, stopped and gone on with, and what it refuses."""

import json
import shutil
from pathlib import Path

import cv2
import pytest

from models.checkpoints import load_weights
from stylematte_cli.app import main
from tests.training.gan import runs
from training import cycle_steps

pytestmark = pytest.mark.usefixtures("traced_once")

STEPS = ["pretrain", "export", "mattes", "gan", "synth", "finetune", "control", "score"]
MATTING = f"""
preset = "test"
held_out_every = 4
sets = [
    {{ folder = "{runs.FACES}", kind = "mattes", share = 0.9, colours = "raw" }},
    {{ folder = "{runs.BACKGROUNDS}", kind = "backgrounds", share = 0.1 }},
]
[[stages]]
name = "matting"
steps = 4
batch_size = 2
side = [64, 64]
learning_rate = 2e-3
warmup_steps = 1
fine = {{ l2 = 1.0 }}
"""
PHOTOS = "photos"  # without an alpha, which the network mattes


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Of a run of the command, but for --out."""
    root = runs.draw_faces(tmp_path_factory.mktemp("data"))
    shutil.copytree(root / runs.FACES / "image", root / PHOTOS)
    recipes = tmp_path_factory.mktemp("recipes")
    (recipes / "matting.toml").write_text(MATTING)
    generator = runs.TOML.replace(f'folder = "{runs.FACES}"', f'folder = "{PHOTOS}"')
    (recipes / "generator.toml").write_text(generator)
    options = {
        "--data": root,
        "--recipe": recipes / "matting.toml",
        "--gan": recipes / "generator.toml",
        "--n": 6,
        "--truncation": 1,
        "--threshold": 1,
        "--steps": 2,
        "--workers": 0,
        "--detector": "none",
        "--mattes": tmp_path_factory.mktemp("mattes"),
    }
    return ["cycle", "--control", *(str(word) for pair in options.items() for word in pair)]


@pytest.fixture(scope="module")
def done(words, tmp_path_factory) -> Path:
    """A cycle that broke off in the middle of the generator, and was gone on with."""
    out = tmp_path_factory.mktemp("cycle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cycle_steps, "_scores_of", lambda log: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*words, "--out", str(out), "--quiet"])
    assert "result" in json.loads((out / "steps" / "mattes.json").read_text())
    assert "result" not in json.loads((out / "steps" / "gan.json").read_text())
    made = (out / "pretrain" / "state.pt").stat().st_mtime_ns
    assert main([*words, "--out", str(out), "--quiet"]) == 0
    assert (out / "pretrain" / "state.pt").stat().st_mtime_ns == made
    return out


def test_the_report_tells_of_every_step(done):
    report = json.loads((done / "report.json").read_text())
    assert list(report["steps"]) == STEPS
    assert report["steps"]["synth"]["kept"] == 6
    assert report["steps"]["synth"]["kept share"] == 1.0
    assert report["steps"]["mattes"]["pictures"] == report["steps"]["mattes"]["matted"] > 0
    assert set(report["scores"]) == {"before", "after", "control"}
    assert all(0 <= scores["iou"] <= 1 for scores in report["scores"].values())
    text = (done / "report.md").read_text()
    assert "| synth | kept 6, rejected 0, " in text
    assert "| score | before | after | control |" in text
    for name in ("before", "after", "control", "synthetic"):
        assert cv2.imread(str(done / "pictures" / f"{name}.png")) is not None


def test_the_last_network_learnt_from_what_was_drawn(done):
    after, provenance = load_weights(done / "finetune" / "last.safetensors")
    assert "synthetic" in [s["folder"] for s in provenance["recipe"]["sets"]]
    before, _ = load_weights(done / "pretrain" / "best.safetensors")
    assert any(not a.equal(b) for a, b in zip(after.parameters(), before.parameters(), strict=True))
    _, control = load_weights(done / "control" / "last.safetensors")
    assert "synthetic" not in [s["folder"] for s in control["recipe"]["sets"]]
    assert len(list((done / "data" / "synthetic").glob("*.png"))) == 6


def test_nothing_is_done_twice(done, words, capsys):
    assert main([*words, "--out", str(done)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "already done" in line] == [
        f"{number}/{len(STEPS)} {name}: already done" for number, name in enumerate(STEPS, 1)
    ]


def test_a_lost_product_is_made_again(done, words, tmp_path, capsys):
    out = Path(shutil.copytree(done, tmp_path / "cycle", symlinks=True))
    (out / "mattes_for_gan" / "made.json").unlink()
    (out / "pictures" / "after.png").write_bytes(b"cut off")
    assert main([*words, "--out", str(out)]) == 0
    anew = [line for line in capsys.readouterr().out.splitlines() if line[1:3] == f"/{len(STEPS)}"]
    assert [line.split()[1] for line in anew if "already done" not in line] == ["mattes:", "score:"]
    assert cv2.imread(str(out / "pictures" / "after.png")) is not None


def test_other_settings_are_refused(done, words, capsys):
    for option, value, named in (("--n", "5", "n"), ("--truncation", "0.5", "truncation")):
        others = list(words)
        others[others.index(option) + 1] = value
        assert main([*others, "--out", str(done)]) == 3
        line = capsys.readouterr().err.splitlines()[-1]
        said = f"steps/synth.json has a different {named}; give another --out, or delete this file and"
        assert said in line


def test_more_images_are_drawn_besides_those_there_and_the_rest_is_done_anew(done, words, tmp_path, capsys):
    out = Path(shutil.copytree(done, tmp_path / "cycle", symlinks=True))
    drawn = {path.name: path.read_bytes() for path in (out / "synthetic").glob("*.png")}
    weights = (out / "finetune" / "last.safetensors").read_bytes()
    more = list(words)
    more[more.index("--n") + 1] = "8"
    assert main([*more, "--out", str(out)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line[1:3] == f"/{len(STEPS)}"]
    anew = [line.split()[1] for line in said if "already done" not in line]
    assert anew == ["synth:", "finetune:", "score:"]
    now = {path.name: path.read_bytes() for path in (out / "synthetic").glob("*.png")}
    assert len(now) == 8
    assert all(now[name] == content for name, content in drawn.items())
    assert (out / "finetune_before_1" / "last.safetensors").read_bytes() == weights
    assert (out / "finetune" / "last.safetensors").exists()
    assert json.loads((out / "report.json").read_text())["steps"]["synth"]["kept"] == 8
    assert main([*more, "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("already done") == len(STEPS)


def test_trained_weights_take_the_place_of_training(done, words, tmp_path):
    given = ("--weights", str(done / "pretrain" / "best.safetensors"))
    given += ("--generator", str(done / "gan" / "last.safetensors"))
    assert main([*words, *given, "--out", str(tmp_path), "--quiet"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["steps"]) == [name for name in STEPS if name not in ("pretrain", "mattes", "gan")]
    assert not (tmp_path / "gan").exists()
    assert (tmp_path / "synthetic" / "manifest.jsonl").exists()


def test_what_cannot_be_meant(words, tmp_path, capsys):
    def refused(*more: str) -> str:
        code = main(["cycle", "--out", str(tmp_path / "out"), *more])
        return f"{code} {capsys.readouterr().err.splitlines()[-1]}"

    data = ("--data", str(tmp_path))
    assert "3 stylematte: error: " in refused("--data", str(tmp_path / "none"))
    assert "2 stylematte: error: --recipe gan/faces-64 trains a generator" in refused(
        *data, "--recipe", "gan/faces-64"
    )
    assert "2 stylematte: error: --gan nano trains a matting network" in refused(*data, "--gan", "nano")
    assert not (tmp_path / "out").exists()
