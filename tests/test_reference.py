"""docs/reference.py and docs/reference.mjs: the contract page's rule gives the tool's alphas."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from export.parity import PHOTOS
from export.precision import set_metadata
from stylematte.engines import open_engine
from stylematte.imaging.geometry import resize
from stylematte.matter import Matter
from stylematte.weights import resolve
from tests.conftest import red_detector

DOCS = Path(__file__).parents[1] / "docs"
LEVEL = 1 / 255  # the bound that the contract page gives
# Enlarged, one axis enlarged, odd, as it is, a strip, shrunk by whole and by broken factors.
SIZES = [(200, 150), (97, 301), (480, 480), (37, 1200), (300, 620), (903, 677), (1440, 1920)]
NODE = """
import { readFileSync, writeFileSync } from "node:fs";
const { workingSize, image } = await import(process.argv[2]);
const sizes = JSON.parse(readFileSync(0, "utf8"));
const found = sizes.map(([height, width, size, file]) => {
  const [h, w] = workingSize(height, width, size, 32);
  if (file) writeFileSync(`${file}.image`, image(readFileSync(file), height, width, h, w));
  return [h, w];
});
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs docs/reference.mjs on rows of (height, width, size, path of RGB bytes or nothing)."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    script = tmp_path_factory.mktemp("node") / "run.mjs"
    script.write_text(NODE)

    def run(rows: list[list]) -> list[list[int]]:
        command = [program, str(script), (DOCS / "reference.mjs").as_uri()]
        done = subprocess.run(
            command, input=json.dumps(rows), capture_output=True, text=True, timeout=120, check=True
        )
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(PHOTOS / "chelsea.jpg"))[..., ::-1])


def at(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)


@pytest.mark.parametrize("size", SIZES)
def test_alphas_are_the_tools(reference, photo, size):
    engine = open_engine(resolve("nano"), "onnx", "cpu")
    session = onnxruntime.InferenceSession(resolve("nano"), providers=["CPUExecutionProvider"])
    image = at(photo, size)
    wanted = Matter(engine)(image).alpha
    found = reference.alpha(session, session.get_modelmeta().custom_metadata_map, image)
    difference = np.abs(found - wanted)
    assert difference.max() <= LEVEL
    assert difference.mean() <= 1e-4
    assert wanted.max() > 0.9 or min(size) < 50  # there is something to agree on


@pytest.mark.parametrize("size", SIZES)
def test_both_references_make_the_tools_image(reference, node, photo, tmp_path, size):
    contract = open_engine(resolve("nano"), "onnx", "cpu").contract
    image = at(photo, size)
    working = contract.working_size_for(*size)
    wanted = resize(image, working).astype(int)
    assert np.abs(reference.resize(image, *working) - wanted).max() <= 1
    assert (reference.resize(image, *working) != wanted).mean() < 0.01
    (tmp_path / "photo").write_bytes(image.tobytes())
    assert node([[*size, contract.working_size, str(tmp_path / "photo")]]) == [list(working)]
    planes = np.fromfile(tmp_path / "photo.image", np.float32).reshape(3, *working).transpose(1, 2, 0)
    assert np.abs(planes * 255 - wanted).max() < 1.001
    assert (np.abs(planes * 255 - wanted) > 0.01).mean() < 0.01


def test_all_choose_the_same_size(reference, node, rng):
    shapes = [[1, 1], [3, 20000], [20000, 3], [1080, 1920], [3000, 4000]]
    shapes += rng.integers(1, 5000, (40, 2)).tolist()
    rows = [[height, width, size] for height, width in shapes for size in (320, 480, 500)]
    contract = open_engine(resolve("nano"), "onnx", "cpu").contract
    wanted = [list(contract.working_size_for(*row)) for row in rows]
    assert [list(reference.working_size(*row, 32)) for row in rows] == wanted
    assert node(rows) == wanted


def test_the_reference_knows_fit_and_prior(reference, photo, tmp_path):
    model = red_detector(prior=True)
    set_metadata(model, "fit", "stretch")
    onnx.save(model, tmp_path / "square.onnx")
    image = at(photo, (90, 250))
    image[20:70, 100:180] = (255, 0, 0)
    session = onnxruntime.InferenceSession(tmp_path / "square.onnx", providers=["CPUExecutionProvider"])
    found = reference.alpha(session, session.get_modelmeta().custom_metadata_map, image)
    wanted = Matter(open_engine(tmp_path / "square.onnx", "onnx", "cpu"))(image).alpha
    assert wanted.max() > 0.9
    # Logits of 40 times a colour make a level of it a sixth of a logit.
    assert np.abs(found - wanted).max() <= 0.05
    assert np.abs(found - wanted).mean() <= 1e-3
