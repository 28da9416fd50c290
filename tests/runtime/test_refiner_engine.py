"""The refiner beside a model: found, checked, and at work in `Matter`."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import stylematte
from stylematte.engines import open_engine
from stylematte.engines.refiner import open_refiner
from stylematte.errors import InputError, MissingError, UsageError
from tests.refiners import native_red, red_strands, save_pair


def test_strands_that_no_guide_shows_are_found_and_the_rest_stays_to_the_bit(tmp_path: Path) -> None:
    model = save_pair(tmp_path)
    image, truth = red_strands(900, 1100)
    before = stylematte.load(model, device="cpu", detail="off")(image).alpha
    after = stylematte.load(model, device="cpu", detail="max")(image).alpha
    soft = (before > 0.05) & (before < 0.95)
    assert soft.mean() > 0.03
    assert np.abs(after - truth)[soft].mean() < 0.3 * np.abs(before - truth)[soft].mean()
    changed = after != before
    assert changed.mean() < 0.5
    certain = (before < 1e-3) | (before > 0.999)
    assert (certain & ~changed).sum() > 0.5 * certain.sum()
    assert np.array_equal(after[:100], before[:100])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_number_types_agree(tmp_path: Path, dtype: type) -> None:
    image, _ = red_strands(400, 500)
    matte = stylematte.load(save_pair(tmp_path), device="cpu", detail="max")(image)
    white = np.iinfo(dtype).max
    assert np.abs(matte.alpha_as(dtype) / white - matte.alpha).max() <= 1 / white + 1e-6


def test_off_is_what_a_model_without_refiner_gives(tmp_path: Path, red_model: Path) -> None:
    image, _ = red_strands(300, 300)
    plain = stylematte.load(red_model, device="cpu")(image).alpha
    off = stylematte.load(save_pair(tmp_path), device="cpu", detail="off")(image).alpha
    np.testing.assert_allclose(off, plain, atol=1e-6)
    small = stylematte.load(tmp_path / "red.onnx", device="cpu", detail="0.001")(image).alpha
    assert np.array_equal(small, off)  # not one tile fits the budget


def test_detail_by_name_needs_a_refiner(red_model: Path) -> None:
    assert stylematte.load(red_model, device="cpu", detail="auto").detail is None
    with pytest.raises(UsageError, match="model red-detector has no refiner"):
        stylematte.load(red_model, device="cpu", detail="max")
    with pytest.raises(UsageError, match="detail 'fine' is not known"):
        stylematte.load(red_model, device="cpu", detail="fine")


def test_a_refiner_that_is_not_the_models_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save_pair(tmp_path)
    contract = open_engine(model, device="cpu").contract
    refiner = tmp_path / contract.refiner
    onnx.save(native_red(tiles=3), refiner)
    with pytest.raises(
        InputError, match=r"red_refiner.onnx: not the refiner that red.onnx was exported with"
    ):
        open_refiner(model, contract, "cpu")
    refiner.unlink()
    with pytest.raises(MissingError, match="does not exist"):
        open_refiner(model, contract, "cpu")
    with pytest.raises(MissingError, match="does not exist"):
        stylematte.load(model, device="cpu", detail="max")
    assert stylematte.load(model, device="cpu", detail="off").detail is None
    assert "does not exist" not in caplog.text
    with caplog.at_level("DEBUG", "stylematte"):
        assert stylematte.load(model, device="cpu").detail is None
    (told,) = (record for record in caplog.records if "looked at again" in record.message)
    assert told.levelname == "DEBUG"  # nobody asked for detail: -v alone says it
    assert "red_refiner.onnx: the refiner that red.onnx names does not exist" in caplog.text


def test_a_file_that_is_no_refiner_is_refused(tmp_path: Path) -> None:
    model = save_pair(tmp_path, native_red(version="7"))
    with pytest.raises(InputError, match="refiner contract 7, this tool reads 1"):
        stylematte.load(model, device="cpu")
    dynamic = native_red()
    for port in dynamic.graph.input:
        port.type.tensor_type.shape.dim[0].dim_param = "n"
    model = save_pair(tmp_path, dynamic)
    with pytest.raises(InputError, match="not a refiner with a fixed tile size"):
        stylematte.load(model, device="cpu")
