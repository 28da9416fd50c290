"""`stylematte evaluate`: pairs by name, readers of alphas, table, CSV, JSON, and each refusal."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stylematte_cli.app import main
from stylematte_cli.commands import progress
from training import metrics


def write(path: Path, pixels: np.ndarray) -> Path:
    """Write an array as it is; four channels are RGBA here and BGRA for OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def run_json(capsys, *arguments: object, code: int = 0) -> dict:
    assert main(["evaluate", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def alphas(rng) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth, (24, 31) uint8."""
    truth = np.zeros((24, 31), np.uint8)
    cv2.circle(truth, (15, 12), 8, 255, -1)
    truth = cv2.GaussianBlur(truth, (0, 0), 1.5)
    truth[11:14, 14:17] = 255
    noisy = truth.astype(int) + rng.integers(-40, 41, truth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), truth


@pytest.fixture
def folders(tmp_path, alphas) -> tuple[Path, Path]:
    """Two trees of three pairs: one prediction is perfect, one empty; suffixes differ, one is upper case."""
    prediction, truth = alphas
    pred, gt = tmp_path / "pred", tmp_path / "gt"
    for name, pixels in {"a": prediction, "sub/b": truth, "sub/c": np.zeros_like(truth)}.items():
        write(pred / f"{name}.png", pixels)
        write(gt / f"{name}.tiff", truth)
    (pred / "sub/b.png").rename(pred / "sub/b.PNG")
    (pred / "manifest.jsonl").write_text("{}\n")
    return pred, gt


def expected(prediction: np.ndarray, truth: np.ndarray, trimap: np.ndarray | None = None) -> dict[str, float]:
    unit = [(a.astype(np.float64) / np.iinfo(a.dtype).max).astype(np.float32) for a in (prediction, truth)]
    return metrics.measure(unit[0], unit[1], trimap)


def test_two_files(tmp_path, alphas, capsys):
    pred, gt = write(tmp_path / "out.png", alphas[0]), write(tmp_path / "true.png", alphas[1])
    report = run_json(capsys, pred, gt)
    assert report["images"] == 1
    assert report["mean"] == report["median"] == pytest.approx(expected(*alphas))
    assert report["conventions"] == {key: metrics.CONVENTIONS[key] for key in metrics.WHOLE_IMAGE}


def test_sad_is_in_thousands_and_mad_a_fraction(tmp_path, capsys):
    pred = write(tmp_path / "p.png", np.full((50, 100), 255, np.uint8))
    gt = write(tmp_path / "g.png", np.zeros((50, 100), np.uint8))
    mean = run_json(capsys, pred, gt)["mean"]
    assert (mean["SAD"], mean["MAD"], mean["MSE"], mean["IoU"]) == (5.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("kind", ["gray", "rgb", "rgba", "gray16", "rgba16"])
def test_where_the_alpha_is_read_from(tmp_path, alphas, capsys, kind):
    prediction, truth = alphas
    other = np.full_like(prediction, 77)
    pixels = {
        "gray": prediction,
        "rgb": np.dstack([prediction, other, other]),
        "rgba": np.dstack([other, other, other, prediction]),
        "gray16": prediction.astype(np.uint16) * 257,
        "rgba16": np.dstack([other, other, other, prediction]).astype(np.uint16) * 257,
    }[kind]
    report = run_json(capsys, write(tmp_path / "p.png", pixels), write(tmp_path / "g.png", truth))
    assert report["mean"] == pytest.approx(expected(*alphas), rel=1e-5)


def test_photos_in_the_place_of_alphas_are_named(tmp_path, alphas, capsys, rng):
    truth = write(tmp_path / "truth.png", alphas[1])
    photo = write(tmp_path / "photo.png", rng.integers(0, 256, (24, 31, 3), np.uint8))
    report = run_json(capsys, photo, truth)
    said = "a colour image, not an alpha; its red channel is scored"
    assert report["warnings"] == [f"{photo}: {said}"]
    assert main(["evaluate", str(truth), str(photo)]) == 0
    assert f"warning: {photo}: {said}" in capsys.readouterr().err
    # Grey in three channels is an alpha, and so is what JPEG makes of it; colours beside an alpha are none.
    colours = rng.integers(0, 256, (24, 31, 3), np.uint8)
    for name, pixels in {
        "grey.png": np.dstack([alphas[0]] * 3),
        "grey.jpg": np.dstack([alphas[0]] * 3),
        "rgba.png": np.dstack([colours, alphas[0]]),
    }.items():
        assert run_json(capsys, write(tmp_path / name, pixels), truth)["warnings"] == []


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_masks_of_0_and_1_are_scored_as_what_they_mean(tmp_path, alphas, capsys, kind):
    mask = (alphas[1] > 127).astype(kind)
    whole = write(tmp_path / "whole.png", (mask * 255).astype(np.uint8))
    ones = write(tmp_path / "ones.png", mask)
    report = run_json(capsys, ones, whole)
    assert (report["mean"]["SAD"], report["mean"]["IoU"]) == (0.0, 1.0)
    assert report["warnings"] == [
        f"{ones}: a mask with values 0 and 1; it is scored as 0 and {np.iinfo(kind).max}"
    ]


def test_sixteen_bits_are_not_rounded_to_eight(tmp_path, capsys):
    pred = write(tmp_path / "p.png", np.full((4, 4), 100, np.uint16))
    gt = write(tmp_path / "g.png", np.zeros((4, 4), np.uint8))
    assert run_json(capsys, pred, gt)["mean"]["MAD"] == pytest.approx(100 / 65535, rel=1e-4)


def test_folders_are_matched_by_path_without_suffix(folders, alphas, capsys):
    report = run_json(capsys, *folders)
    prediction, truth = alphas
    each = [expected(prediction, truth), expected(truth, truth), expected(np.zeros_like(truth), truth)]
    assert [image["name"] for image in report["per_image"]] == ["a", "sub/b", "sub/c"]
    for key in metrics.WHOLE_IMAGE:
        values = [scores[key] for scores in each]
        assert [image[key] for image in report["per_image"]] == pytest.approx(values)
        assert report["mean"][key] == pytest.approx(sum(values) / 3)
        assert report["median"][key] == pytest.approx(sorted(values)[1])


def test_table_names_the_worst_image_and_every_convention(folders, capsys):
    assert main(["evaluate", *map(str, folders)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["mean", "median", "worst"]
    sad = next(line for line in lines if line.startswith("SAD"))
    assert sad.endswith("sub/c")
    assert len(sad.split()) == 5
    for key in metrics.WHOLE_IMAGE:
        assert any(line.split() == [key, *metrics.CONVENTIONS[key].split()] for line in lines)


def test_csv_has_a_line_an_image(folders, tmp_path, capsys):
    path = tmp_path / "scores.csv"
    report = run_json(capsys, *folders, "--csv", path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "sub/b", "sub/c"]
    for row, image in zip(rows, report["per_image"], strict=True):
        assert {key: float(row[key]) for key in metrics.WHOLE_IMAGE} == {
            key: image[key] for key in metrics.WHOLE_IMAGE
        }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gt", "pred", "scores.csv"]


def test_csv_that_cannot_be_written_says_so_after_the_table(folders, tmp_path, capsys):
    assert main(["evaluate", *map(str, folders), "--csv", str(tmp_path / "pred/sub/c.png/scores.csv")]) == 3
    captured = capsys.readouterr()
    assert "SAD" in captured.out
    assert "--csv" in captured.err
    assert captured.err.count("\n") == 1


def test_files_without_a_partner_are_named(folders, capsys):
    pred, gt = folders
    (pred / "a.png").rename(pred / "extra.png")
    assert main(["evaluate", str(pred), str(gt), "--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["without_prediction"] == ["a"]
    assert report["without_truth"] == ["extra"]
    assert report["images"] == 2
    assert "1 in GT have no prediction and are not part of the means: a" in captured.err
    assert "1 in PRED have no ground truth and are not scored: extra" in captured.err


def test_a_prediction_too_many_is_no_failure(folders, capsys):
    pred, gt = folders
    (gt / "a.tiff").unlink()
    assert run_json(capsys, pred, gt)["without_truth"] == ["a"]


def test_sizes_that_differ_are_refused_with_both_named(tmp_path, capsys):
    pred = write(tmp_path / "p.png", np.zeros((20, 30), np.uint8))
    gt = write(tmp_path / "g.png", np.zeros((40, 60), np.uint8))
    assert main(["evaluate", str(pred), str(gt)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "prediction is 20x30, ground truth is 40x60" in captured.err
    assert captured.err.count("\n") == 1


def test_one_bad_pair_among_good_ones_is_named_and_the_rest_is_scored(folders, capsys):
    pred, gt = folders
    write(pred / "a.png", np.zeros((5, 5), np.uint8))
    (pred / "sub/b.PNG").write_bytes(b"not an image")
    assert main(["evaluate", str(pred), str(gt), "--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [image["name"] for image in report["per_image"]] == ["sub/c"]
    assert sorted(report["failed"]) == ["a", "sub/b"]
    assert "5x5" in report["failed"]["a"]
    assert "24x31" in report["failed"]["a"]
    assert "b.PNG" in captured.err


def test_no_good_pair_at_all_is_bad_input(folders, capsys):
    pred, gt = folders
    for path in pred.rglob("*.[pP][nN][gG]"):
        path.write_bytes(b"")
    assert main(["evaluate", str(pred), str(gt)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("0 bytes") == 3
    assert "none of 3 pairs could be scored" in captured.err


def test_trimaps_from_a_folder(folders, alphas, tmp_path, capsys):
    prediction, truth = alphas
    trimap = metrics.trimap_from_alpha((truth / 255).astype(np.float32), 3)
    for name in ("a", "sub/b", "sub/c"):
        write(tmp_path / "trimaps" / f"{name}.png", trimap)
    report = run_json(capsys, *folders, "--trimap", tmp_path / "trimaps")
    image = report["per_image"][0]
    assert {key: image[key] for key in report["mean"]} == pytest.approx(expected(prediction, truth, trimap))
    assert tuple(report["mean"]) == metrics.WHOLE_IMAGE + metrics.WITH_TRIMAP
    assert report["warnings"] == []


def test_trimap_with_127_is_scored_the_same_and_warned_of(tmp_path, alphas, capsys):
    pred, gt = write(tmp_path / "p.png", alphas[0]), write(tmp_path / "g.png", alphas[1])
    trimap = metrics.trimap_from_alpha((alphas[1] / 255).astype(np.float32), 3)
    right = run_json(capsys, pred, gt, "--trimap", write(tmp_path / "t.png", trimap))
    off = np.where(trimap == 128, 127, trimap).astype(np.uint8)
    report = run_json(capsys, pred, gt, "--trimap", write(tmp_path / "t127.png", off))
    assert report["mean"] == right["mean"]
    assert len(report["warnings"]) == 1
    assert "t127.png: value 127 is counted as unknown" in report["warnings"][0]


def test_auto_trimap(tmp_path, alphas, capsys):
    pred, gt = write(tmp_path / "p.png", alphas[0]), write(tmp_path / "g.png", alphas[1])
    trimap = metrics.trimap_from_alpha((alphas[1] / 255).astype(np.float32), 2)
    assert run_json(capsys, pred, gt, "--trimap", "auto:2")["mean"] == pytest.approx(
        expected(*alphas, trimap)
    )
    assert main(["evaluate", str(pred), str(gt), "--trimap", "auto:2"]) == 0
    assert "by 2 px" in capsys.readouterr().out


def test_a_band_that_no_image_has_is_null_not_nan(tmp_path, capsys):
    flat = write(tmp_path / "flat.png", np.zeros((4, 4), np.uint8))
    assert main(["evaluate", str(flat), str(flat), "--trimap", "auto:2", "--json"]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert json.loads(text)["mean"]["MSE-tri"] is None
    assert json.loads(text)["mean"]["IoU"] is None  # of nothing with nothing


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pred", "gt/a.tiff"], 2, "one is a folder and the other a file"),
        (["nowhere", "gt"], 3, "nowhere: no such file or folder"),
        (["pred", "empty"], 3, "no files in these folders have the same name"),
        (["pred", "gt", "--trimap", "auto:wide"], 2, "auto:wide"),
        (["pred", "gt", "--trimap", "gt/a.tiff"], 2, "one file for two folders"),
        (["pred", "gt", "--trimap", "empty"], 3, "no trimap for a, sub/b, sub/c"),
        (["pred", "gt", "--trimap", "nowhere"], 3, "nowhere: no such file or folder"),
        (["pred/a.png", "gt/a.tiff", "--trimap", "empty"], 3, "no trimap for a"),
    ],
)
def test_refusals_are_one_line(folders, tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert main(["evaluate", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_two_files_of_one_name_in_a_folder_are_refused(folders, capsys):
    pred, gt = folders
    write(pred / "a.jpg", np.zeros((24, 31), np.uint8))
    assert main(["evaluate", str(pred), str(gt)]) == 3
    error = capsys.readouterr().err
    assert "a.jpg" in error
    assert "a.png" in error


def test_a_loop_of_links_ends(folders, capsys):
    pred, gt = folders
    (pred / "sub/loop").symlink_to(pred)
    assert run_json(capsys, pred, gt)["images"] == 3


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_off_a_terminal_is_plain_lines(folders, capsys, monkeypatch, quiet):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    run = ["evaluate", *map(str, folders)]
    assert main([*run, "--quiet"] if quiet else run) == 0
    lines = [f"stylematte: {done} of 3 images" for done in (1, 2, 3)]
    assert capsys.readouterr().err.splitlines() == ([] if quiet else lines)


def test_evaluate_runs_where_torch_cannot_be_imported(folders):
    code = "import sys; sys.modules['torch'] = None; from stylematte_cli.app import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "SAD" in done.stdout
