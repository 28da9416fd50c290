"""`stylematte synth`: images and manifest, near copies, composites, previews, and each refusal."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from stylematte_cli.app import main
from tests.cli.synth.runs import assert_manifest_tells_the_truth, files, manifest, run
from training.config import load_recipe
from training.data.check import check_data
from training.data.readers import read_set
from training.data.subjects import read_subject


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
