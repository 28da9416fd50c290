"""The generator that ships."""

import hashlib
import json

import cv2

from stylematte.weights import describe
from stylematte_cli.app import main


def test_faces_draws_heads(tmp_path, capsys):
    assert main(["synth", "--out", str(tmp_path / "out"), "--n", "4", "--device", "cpu", "--quiet"]) == 0
    faces = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((tmp_path / "out").glob("*.png"))]
    assert [face.shape for face in faces] == [(64, 64, 4)] * 4
    for face in faces:  # a head in the middle, nothing in the upper corners
        assert face[24:40, 24:40, 3].min() > 200
        assert max(face[:6, :6, 3].mean(), face[:6, -6:, 3].mean()) < 60
    assert main(["models", "list", "--json"]) == 0
    out = capsys.readouterr().out
    listed = {model["name"]: model for model in json.loads(out[out.index("{") :])["models"]}
    assert (listed["faces"]["licence"], listed["faces"]["shipped"]) == ("CC-BY-NC-4.0", True)


def test_the_card_of_faces():
    card = describe("faces")
    assert card.sha256 == hashlib.sha256(card.path.read_bytes()).hexdigest()
    assert card.provenance["kimg"] == 243.52
