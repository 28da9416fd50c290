"""`stylematte synth`: files and manifest, resume after anything, near copies, the filter, each refusal."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file

from models.gan.checkpoints import load_generator, save_generator
from models.gan.generator import Generator, GeneratorConfig, rgba_of
from stylematte import weights as weights_module
from stylematte.errors import UsageError
from stylematte.files import TEMPORARY
from stylematte.media.json_lines import JsonLines
from stylematte_cli.app import main
from tests.conftest import bolder_red_detector, red_detector
from tests.training.generators import Discs
from training.config import load_recipe
from training.data.check import check_data
from training.data.readers import read_set
from training.data.subjects import read_subject
from training.synthesis import run as synthesis_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _discs(monkeypatch, request):
    if "stylegan3" not in request.node.name:
        monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Discs())


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "discs.safetensors"
    path.write_bytes(b"weights of discs")
    return path


def run(out: Path, weights: Path, *arguments: object, code: int = 0) -> None:
    options = ["--out", out, "--weights", weights, "--device", "cpu", "--quiet", *arguments]
    assert main(["synth", *map(str, options)]) == code


def manifest(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.png"))}


def assert_manifest_tells_the_truth(out: Path) -> None:
    last = {line["index"]: line for line in manifest(out)}
    for line in last.values():
        assert (line["outcome"] == "duplicate") or (out / line["output"]).is_file()


def test_files_and_manifest(tmp_path, weights, capsys):
    out = tmp_path / "out"
    run(out, weights, "--n", 5, "--truncation", "-0.9:0.9", "--jitter", "0.02:5", "--seed", 3)
    assert list(files(out)) == [f"{i:08}.png" for i in range(5)]
    rgba = cv2.imread(str(out / "00000002.png"), cv2.IMREAD_UNCHANGED)
    assert (rgba.shape, rgba.dtype) == ((32, 32, 4), np.uint8)
    lines = manifest(out)
    assert [line["index"] for line in lines] == list(range(5))
    assert all(0.1 <= abs(line["truncation"]) <= 0.9 for line in lines)
    assert all(max(map(abs, line["shift"])) <= 0.02 and abs(line["turn_deg"]) <= 5 for line in lines)
    assert lines[0]["settings"] == {
        # sha256sum of "weights of discs"
        "weights_sha256": "e111da48416834a1fcf7dfff2dc9bdaafbd8b017a0c6a3010e9322bf99e5c93c",
        "seed": 3,
        "truncation": [-0.9, 0.9],
        "shift": 0.02,
        "turn_deg": 5.0,
        "size_px": 32,
        "form": "rgba",
    }
    assert "5 images in" in capsys.readouterr().out


def test_an_image_is_the_same_whatever_the_batch(tmp_path, weights):
    """But for rounding: one step at few pixels."""
    outs = [tmp_path / name for name in "ab"]
    for out, batch in zip(outs, (1, 7), strict=True):
        run(out, weights, "--n", 9, "--batch-size", batch)
    for name in files(outs[0]):
        a, b = (cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED).astype(int) for out in outs)
        assert np.abs(a - b).max() <= 1


def test_more_can_be_drawn_later_and_nothing_is_drawn_twice(tmp_path, weights, monkeypatch):
    once, twice = tmp_path / "once", tmp_path / "twice"
    run(once, weights, "--n", 20)
    run(twice, weights, "--n", 5)
    first = files(twice)
    run(twice, weights, "--n", 20)
    assert files(twice) == files(once)
    assert first.items() <= files(twice).items()
    before = (twice / "manifest.jsonl").read_bytes()
    monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Undrawable())
    run(twice, weights, "--n", 20)
    run(twice, weights, "--n", 3)
    assert (twice / "manifest.jsonl").read_bytes() == before


class Undrawable(Discs):
    def forward(self, *inputs):
        raise AssertionError("drawn again")


def test_goes_on_after_kill_9(tmp_path, weights):
    """The process is killed while it draws; what it wrote stays, and the rest is as if nothing had been."""
    code = """
import sys, time
from tests.training.generators import Discs
from stylematte_cli.app import main
from training.synthesis import run
class Slow(Discs):
    def forward(self, *inputs):
        time.sleep(0.05)
        return super().forward(*inputs)
run.open_generator = lambda path, device: Slow()
main(sys.argv[1:])
"""
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ["--n", "400", "--batch-size", "4", "--quiet", "--device", "cpu", "--weights", str(weights)]
    process = subprocess.Popen([sys.executable, "-c", code, "synth", "--out", str(out), *arguments], cwd=ROOT)
    until = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < 20 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 20 <= len(list(out.glob("*.png"))) < 400
    assert_manifest_tells_the_truth(out)
    (out / "manifest.jsonl").open("ab").write(b'{"index": 399, "outco')  # as a killed process leaves it
    kept = {
        name: (out / name).stat().st_mtime_ns for name in (line["output"] for line in manifest_of_whole(out))
    }
    run(whole, weights, "--n", 60, "--batch-size", 4)
    run(out, weights, "--n", 60, "--batch-size", 4)
    assert {name: data for name, data in files(out).items() if name in files(whole)} == files(whole)
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())


def manifest_of_whole(out: Path) -> list[dict]:
    lines = (out / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_a_file_that_is_gone_is_drawn_again(tmp_path, weights):
    out = tmp_path / "out"
    run(out, weights, "--n", 8)
    before = files(out)
    (out / "00000003.png").unlink()
    run(out, weights, "--n", 8)
    assert files(out) == before


def test_full_disk_ends_in_one_line_and_leaves_what_is_there(tmp_path, weights, capsys, monkeypatch):
    out, whole, replace, done = tmp_path / "out", tmp_path / "whole", os.replace, []

    def full(source, target):
        if len(done) >= 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        run(out, weights, "--n", 100, code=3)
    err = capsys.readouterr().err
    assert "No space left" in err
    assert err.count("\n") == 1
    assert len(files(out)) == 30
    assert not list(out.glob(f".*{TEMPORARY}"))
    assert_manifest_tells_the_truth(out)
    run(out, weights, "--n", 100)
    run(whole, weights, "--n", 100)
    assert files(out) == files(whole)


def test_a_manifest_that_cannot_grow_ends_the_run(tmp_path, weights, capsys, monkeypatch):
    out = tmp_path / "out"

    def full(self, line):
        if line["index"] == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, line)

    append = JsonLines.append
    monkeypatch.setattr(JsonLines, "append", full)
    run(out, weights, "--n", 40, code=3)
    assert "manifest.jsonl: cannot be written: No space left" in capsys.readouterr().err
    assert [line["index"] for line in manifest(out)] == list(range(9))


def test_near_copies_are_refused_and_others_drawn(tmp_path, weights):
    """At this truncation discs are alike: some are near copies, by number always the same."""
    out, again = tmp_path / "out", tmp_path / "again"
    run(out, weights, "--n", 30, "--truncation", 0.25)
    lines = manifest(out)
    copies = {line["index"]: line["of"] for line in lines if line["outcome"] == "duplicate"}
    assert copies
    assert len(files(out)) == 30
    kept = {int(Path(name).stem) for name in files(out)}
    assert set(copies.values()) <= kept
    assert not kept & set(copies)
    run(again, weights, "--n", 7, "--truncation", 0.25)
    run(again, weights, "--n", 30, "--truncation", 0.25)
    assert set(files(again)) == set(files(out))


def test_nothing_but_near_copies_stops_the_run_early(tmp_path, weights, capsys):
    for jitter in ((), ("--jitter", "0.1:10")):
        out = tmp_path / f"out{len(jitter)}"
        run(out, weights, "--n", 5000, "--truncation", 0.01, *jitter, code=3)
        assert "no more variety" in capsys.readouterr().err
        assert len(files(out)) < 20
        assert_manifest_tells_the_truth(out)


def test_pairs_and_sizes(tmp_path, weights):
    rgba, pairs = tmp_path / "rgba", tmp_path / "pairs"
    run(rgba, weights, "--n", 3, "--size", 16)
    run(pairs, weights, "--n", 3, "--size", 16, "--format", "pairs")
    for i in range(3):
        whole = cv2.imread(str(rgba / f"{i:08}.png"), cv2.IMREAD_UNCHANGED)
        image, alpha = (
            cv2.imread(str(pairs / d / f"{i:08}.png"), cv2.IMREAD_UNCHANGED) for d in ("image", "alpha")
        )
        assert whole.shape == (16, 16, 4)
        np.testing.assert_array_equal(np.dstack([image, alpha]), whole)


@pytest.fixture
def backgrounds(tmp_path) -> Path:
    """Two plain images, of different colours and sizes."""
    folder = tmp_path / "backgrounds"
    folder.mkdir()
    for name, colour, side in (("a", (10, 200, 30), 40), ("b", (250, 0, 90), 64)):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((side, side, 3), colour, np.uint8))
    return folder


def test_composites_over_backgrounds(tmp_path, weights, backgrounds, capsys):
    rgba, over = tmp_path / "rgba", tmp_path / "over"
    run(rgba, weights, "--n", 12)
    run(over, weights, "--n", 12, "--backgrounds", backgrounds)
    behind = set()
    for i in range(12):
        whole = cv2.imread(str(rgba / f"{i:08}.png"), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(over / "image" / f"{i:08}.png"), cv2.IMREAD_UNCHANGED)
        alpha = cv2.imread(str(over / "alpha" / f"{i:08}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(alpha, whole[..., 3])
        assert alpha[0, 0] == 0
        behind.add(colour := tuple(map(int, image[0, 0])))
        opacity = alpha[..., None] / 255
        np.testing.assert_allclose(image, whole[..., :3] * opacity + (1 - opacity) * colour, atol=1)
    assert behind == {(10, 200, 30), (250, 0, 90)}
    assert_manifest_tells_the_truth(over)
    sheet = cv2.imread(str(tmp_path / "over.preview.png"))
    assert {tuple(map(int, p)) for p in sheet[0, ::31]} <= behind  # no checkerboard

    before = files(over)
    run(over, weights, "--n", 13, "--backgrounds", backgrounds)
    assert before.items() <= {k: v for k, v in files(over).items() if k in before}.items()
    cv2.imwrite(str(backgrounds / "c.png"), np.zeros((8, 8, 3), np.uint8))
    capsys.readouterr()
    run(over, weights, "--n", 14, "--backgrounds", backgrounds, code=3)
    assert "different settings: backgrounds" in capsys.readouterr().err


def test_filter_sees_the_composites_that_are_written(tmp_path, weights, red_model, monkeypatch, backgrounds):
    monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Holed())
    at_once, after = tmp_path / "at_once", tmp_path / "after"
    options = ("--n", 8, "--batch-size", 3, "--backgrounds", backgrounds)
    filtering = ("--filter", "--matting", red_model)
    run(at_once, weights, *options, *filtering)
    assert {line["outcome"] for line in manifest(at_once)} == {"ok", "rejected"}
    run(after, weights, *options)
    run(after, weights, *options, *filtering)
    assert files(after) == files(at_once)


@pytest.mark.parametrize("form", ["rgba", "pairs"])
def test_training_reads_it(tmp_path, weights, form):
    run(tmp_path / "data/synthetic", weights, "--n", 4, "--format", form)
    recipe = load_recipe("stylematte")
    (data_set,) = (s for s in recipe.sets if s.folder == "synthetic")
    report = check_data(
        dataclasses.replace(recipe, sets=(data_set,), validation=()), tmp_path / "data", quiet=True
    )
    assert (report.sets[0].errors, report.sets[0].warnings, report.sets[0].pictures) == ([], [], 4)
    subject = read_subject(read_set(tmp_path / "data", "synthetic")[2], data_set, tmp_path)
    folder = tmp_path / "data/synthetic"
    alpha = folder / "alpha/00000002.png" if form == "pairs" else folder / "00000002.png"
    wanted = cv2.imread(str(alpha), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(subject.alpha, wanted if form == "pairs" else wanted[..., 3])
    assert subject.image[16, 16, 0] > subject.image[16, 16, 1]  # RGB: the disc is red


@pytest.mark.parametrize("is_named", [True, False])
def test_preview(tmp_path, weights, capsys, is_named):
    out = tmp_path / "out"
    sheet = tmp_path / ("sheet.png" if is_named else "out.preview.png")
    run(out, weights, "--n", 5, *(["--preview", sheet] if is_named else []))
    assert str(sheet) in capsys.readouterr().out
    pixels = cv2.imread(str(sheet))[..., ::-1]
    assert pixels.shape == (64, 96, 3)
    assert pixels[16, 16, 0] > 170  # a disc
    assert {tuple(p) for p in pixels[:2].reshape(-1, 3)} == {(90, 90, 90), (165, 165, 165)}
    for bad in (out / "sheet.png", tmp_path / "sheet.txt"):
        run(out, weights, "--n", 5, "--preview", bad, code=2)
        assert "--preview" in capsys.readouterr().err


def test_filter_keeps_what_the_matting_network_agrees_with(tmp_path, weights, red_model, monkeypatch, capsys):
    """The red detector sees red discs; every third disc here has a hole in its alpha alone."""
    monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Holed())
    out = tmp_path / "out"
    options = ("--n", 8, "--filter", "--matting", red_model, "--batch-size", 3)
    run(out, weights, *options, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["preview"] == str(tmp_path / "out.preview.png")
    outcomes = {line["index"]: line["outcome"] for line in manifest(out)}
    assert outcomes == {i: "rejected" if i % 3 == 2 else "ok" for i in range(len(outcomes))}
    assert (report["pictures"], report["rejected"]) == (8, 3)
    assert report["filter"]["kept_share"] == pytest.approx(8 / 11, abs=1e-4)
    assert sum(b["pictures"] for b in report["filter"]["histogram"]) == 11
    assert {p.stem for p in (out / "rejected").iterdir()} == {f"{i:08}" for i in (2, 5, 8)}
    assert_manifest_tells_the_truth(out)
    run(out, weights, *options)
    assert "the filter kept 72.7%; 3 rejected images are in" in capsys.readouterr().out
    assert len(read_set(tmp_path, "out")) == 8  # rejected ones are no training data


def test_filter_after_the_fact(tmp_path, weights, red_model, monkeypatch, capsys):
    monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Holed())
    at_once, after = tmp_path / "at_once", tmp_path / "after"
    options = ("--n", 8, "--filter", "--matting", red_model, "--batch-size", 3)
    run(at_once, weights, *options)
    run(after, weights, "--n", 8, "--batch-size", 3)
    assert len(files(after)) == 8
    run(after, weights, *options)
    assert files(after) == files(at_once)
    run(after, weights, *options, "--threshold", 1)
    assert all(line["outcome"] == "ok" for line in {x["index"]: x for x in manifest(after)}.values())
    assert not list((after / "rejected").iterdir())


def test_another_file_of_the_same_matting_weights_and_other_backgrounds_filter_anew(
    tmp_path, weights, monkeypatch
):
    monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Holed())
    out, model, behind = tmp_path / "out", tmp_path / "model.onnx", tmp_path / "behind"
    behind.mkdir()

    def measured() -> dict[int, str]:
        options = ("--n", 8, "--filter", "--matting", model, "--threshold", 1, "--backgrounds", behind)
        options += ("--format", "rgba")
        before = len(manifest(out)) if out.exists() else 0
        run(out, weights, *options)
        return {line["index"]: line["filter"]["model_sha256"] for line in manifest(out)[before:]}

    cv2.imwrite(str(behind / "a.png"), np.full((32, 32, 3), 100, np.uint8))
    onnx.save(red_detector(), model)
    first = measured()
    assert set(first.values()) == {hashlib.sha256(model.read_bytes()).hexdigest()}
    assert measured() == {}
    onnx.save(bolder_red_detector(), model)
    second = measured()
    assert set(second) >= set(first)
    assert set(second.values()) == {hashlib.sha256(model.read_bytes()).hexdigest()}
    cv2.imwrite(str(behind / "b.png"), np.full((32, 32, 3), 30, np.uint8))
    assert set(measured()) >= set(first)


def test_a_filter_that_rejects_all_stops_the_run(tmp_path, weights, red_model, capsys):
    out = tmp_path / "out"
    options = ("--n", 1000, "--filter", "--matting", red_model, "--threshold", 0.0001, "--size", 16)
    run(out, weights, *options, code=3)
    assert "rejected 100 of the last 100" in capsys.readouterr().err
    assert len(list((out / "rejected").iterdir())) == len(manifest(out)) >= 100
    assert_manifest_tells_the_truth(out)


class Holed(Discs):
    """Has a hole in the alpha of numbers 2, 5, 8 ...; `z` tells the number."""

    def forward(self, z, truncation, transform):
        from training.synthesis.drawing import SamplingPlan

        images = super().forward(z, truncation, transform)
        noises = [SamplingPlan().draft(i, 4).noise for i in range(60)]
        for image, noise in zip(images, z, strict=True):
            number = next(i for i, n in enumerate(noises) if np.array_equal(n, noise))
            if number % 3 == 2:
                side = self.config.size_px
                image[3, side // 4 : -side // 4, side // 4 : -side // 4] *= -1
        return images


def test_a_folder_holds_images_of_one_kind(tmp_path, weights, capsys):
    out = tmp_path / "out"
    run(out, weights, "--n", 4)
    for options, word in (
        (("--seed", 1), "seed"),
        (("--truncation", 0.5), "truncation"),
        (("--size", 16), "size_px"),
    ):
        run(out, weights, "--n", 4, *options, code=3)
        assert word in capsys.readouterr().err
    weights.write_bytes(b"others")
    run(out, weights, "--n", 4, code=3)
    assert "different settings: weights" in capsys.readouterr().err
    run(out, weights, "--n", 2, "--seed", 1, "--overwrite")
    assert len(files(out)) == len(manifest(out)) == 2
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "photo.png").write_bytes(b"mine")
    run(foreign, weights, "--n", 2, "--overwrite", code=3)
    assert "without a manifest" in capsys.readouterr().err
    assert (foreign / "photo.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--n", 0), 2, "--n"),
        (("--truncation", "7"), 2, "--truncation 7: give values from -1 to 1"),
        (("--truncation", "0"), 2, "mean image"),
        (("--truncation", "high"), 2, "a number, or two"),
        (("--truncation", "0.2:0.9:1"), 2, "a number, or two"),
        (("--jitter", "a:b"), 2, "a shift and degrees"),
        (("--jitter", "0.9:5"), 2, "--jitter 0.9:5"),
        (("--size", 64), 2, "images have 32 px"),
        (("--threshold", 0.1), 2, "--filter"),
        (("--backgrounds", "#000", "--format", "rgba"), 2, "--backgrounds has no effect with --format rgba"),
        (("--backgrounds", "no such folder"), 2, "no such folder"),
        (("--weights", "gone"), 4, "'gone' do not exist"),
        (("--device", "cuda:7"), 4, "cuda:7"),
    ],
)
def test_refusals(tmp_path, weights, capsys, options, code, words):
    arguments = ["--out", tmp_path / "out", "--weights", weights, "--n", 2, "--device", "cpu", *options]
    assert main(["synth", *map(str, arguments)]) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The folder of what ships, and a home and a working folder without anything."""
    assets = tmp_path / "assets"
    (tmp_path / "work").mkdir()
    assets.mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(weights_module, "ASSETS", assets)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    return assets


def test_without_a_generator_one_line_says_where_one_is_had(package, capsys):
    assert main(["synth", "--n", "10000", "--truncation", "0.7"]) == 4
    err = capsys.readouterr().err
    assert "weights 'faces', the default generator, are missing" in err
    assert "`stylematte models import humans.pkl --name faces`" in err
    assert "`stylematte train gan`" in err
    assert err.count("\n") == 1
    assert not any(Path.cwd().iterdir())


def test_a_generator_that_ships_draws_if_none_is_named(package, capsys):
    path = package / "faces.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path, {"network": "stylegan3"})
    assert main(["synth", "--n", "2", "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["out"], report["pictures"]) == ("synthetic", 2)
    assert report["settings"]["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert main(["models", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["models"]
    assert (listed["name"], listed["kind"], listed["shipped"]) == ("faces", "generator", True)
    with pytest.raises(UsageError, match="an included model has this name"):
        weights_module.new_path("faces")


def stylegan3(path: Path, channels: int = 4) -> Path:
    """Random weights of the smallest kind, the last layer enlarged until images differ."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        size_px=16, channels=channels, channel_base=256, channel_max=16, z_dim=8, w_dim=8
    )
    generator = Generator(config)
    with torch.no_grad():
        list(generator.synthesis.children())[-1].weight.mul_(40)
    save_generator(generator, path, {})
    return path


def test_a_stylegan3_file(tmp_path, capsys):
    """Number 4 by hand: noise, truncation and pose as the manifest has them."""
    weights, out = stylegan3(tmp_path / "g.safetensors"), tmp_path / "out"
    run(
        out,
        weights,
        "--n",
        6,
        "--truncation",
        "0.3:0.9",
        "--jitter",
        "0.1:20",
        "--batch-size",
        4,
        "--seed",
        5,
    )
    line = next(line for line in manifest(out) if line["index"] == 4)
    noise = np.random.default_rng((5, 4)).standard_normal(8, np.float32)
    angle, (x, y) = np.radians(line["turn_deg"]), line["shift"]
    movement = np.array([[np.cos(angle), -np.sin(angle), x], [np.sin(angle), np.cos(angle), y], [0, 0, 1]])
    generator, _ = load_generator(weights)
    with torch.no_grad():
        lookup = torch.from_numpy(np.linalg.inv(movement)).float()[None]
        wanted = rgba_of(generator(torch.from_numpy(noise)[None], line["truncation"], lookup))
    rgba = cv2.cvtColor(cv2.imread(str(out / line["output"]), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    np.testing.assert_allclose(rgba.transpose(2, 0, 1), wanted[0] * 255, atol=1.01)
    assert wanted.std() > 0.1


def test_a_stylegan3_file_without_alpha_is_refused(tmp_path, capsys):
    run(tmp_path / "out", stylegan3(tmp_path / "g.safetensors", 3), "--n", 6, code=3)
    assert "3 channels and no alpha" in capsys.readouterr().err


def test_a_stylegan3_file_that_is_none_is_refused(tmp_path, weights, capsys):
    run(tmp_path / "out", weights, "--n", 6, code=3)
    assert "safetensors" in capsys.readouterr().err
