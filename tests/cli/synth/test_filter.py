"""`stylematte synth --filter`: it keeps what the matting network agrees with, at once or afterwards."""

import hashlib
import json

import cv2
import numpy as np
import onnx
import pytest

from tests.cli.synth.runs import Holed, assert_manifest_tells_the_truth, files, manifest, run
from tests.conftest import bolder_red_detector, red_detector
from training.data.readers import read_set
from training.synthesis import run as synthesis_run


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
