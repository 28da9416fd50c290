from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from scipy.ndimage import map_coordinates
from scipy.special import expit

from stylematte.engines import open_engine
from stylematte.imaging import guided_filter
from stylematte.imaging.geometry import resize_to_working, to_dtype, to_float
from stylematte.imaging.guided_filter import apply_coefficients

WEIGHTS, OFFSET = (1.4, 1.5, 1.6), -2.0


def smooth_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A float image whose colours change slowly enough that alphas between 0 and 1 come up."""
    noise = cv2.GaussianBlur(rng.random((height, width, 3), dtype=np.float32), (0, 0), 3).reshape(
        height, width, 3
    )
    return (noise - noise.min()) / (np.ptp(noise) + 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("size", [(33, 57), (1, 1), (1, 300), (300, 1), (3, 2000), (241, 379)])
def test_gives_the_alpha_that_the_model_file_gives(
    red_model: Path, rng: np.random.Generator, size: tuple[int, int], dtype: type
) -> None:
    picture = to_dtype(smooth_image(rng, *size), dtype)
    engine = open_engine(red_model, device="cpu")
    contract = engine.contract
    image = resize_to_working(picture, contract.working_size_for(*size))[None]
    session = onnxruntime.InferenceSession(red_model, providers=["CPUExecutionProvider"])
    guide = to_float(picture).transpose(2, 0, 1)[None]
    (expected,) = session.run(["alpha"], {"image": image, "guide": guide})

    coefficients = engine.coefficients(image)[0]
    alpha = apply_coefficients(coefficients, picture, contract.grey_weights, contract.grey_offset)
    assert alpha.shape == size
    np.testing.assert_allclose(alpha, expected[0, 0], atol=1e-5)


def reference(coefficients: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The formula of the contract's page in float64, with SciPy's bilinear interpolation."""
    axes = [np.linspace(0, coarse - 1, fine) if fine > 1 else np.zeros(1)
            for coarse, fine in zip(coefficients.shape[1:], image.shape[:2], strict=True)]  # fmt: skip
    grid = np.meshgrid(*axes, indexing="ij")
    A, b = (
        map_coordinates(plane.astype(np.float64), grid, order=1, mode="nearest") for plane in coefficients
    )
    return expit(A * (image.astype(np.float64) @ np.array(WEIGHTS) + OFFSET) + b)


@pytest.mark.parametrize("size", [(50, 70), (16, 24), (5, 7), (300, 20), (1, 9), (640, 480)])
def test_matches_float64_arithmetic(rng: np.random.Generator, size: tuple[int, int]) -> None:
    coefficients = rng.normal(0, 2, (2, 16, 24)).astype(np.float32)
    image = rng.random((*size, 3), dtype=np.float32)
    alpha = apply_coefficients(coefficients, image, WEIGHTS, OFFSET)
    assert alpha.dtype == np.float32
    np.testing.assert_allclose(alpha, reference(coefficients, image), atol=2e-6)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integer_alpha_is_the_float_alpha_rounded(rng: np.random.Generator, dtype: type, white: int) -> None:
    coefficients = rng.normal(0, 5, (2, 8, 8)).astype(np.float32)
    image = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    alpha = apply_coefficients(coefficients, image, WEIGHTS, OFFSET)
    levels = apply_coefficients(coefficients, image, WEIGHTS, OFFSET, dtype)
    assert levels.dtype == dtype
    assert np.abs(levels.astype(np.float64) - alpha.astype(np.float64) * white).max() < 0.51


@pytest.mark.filterwarnings("error")
def test_saturates_without_warning() -> None:
    coefficients = np.zeros((2, 4, 4), np.float32)
    coefficients[1, :, :2], coefficients[1, :, 2:] = -1e4, 1e4
    for dtype in (np.float32, np.uint8, np.uint16):
        alpha = apply_coefficients(coefficients, np.zeros((4, 4, 3), np.uint8), WEIGHTS, OFFSET, dtype)
        white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
        np.testing.assert_array_equal(alpha, np.tile([0, 0, white, white], (4, 1)))


def test_strips_leave_no_seam(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    coefficients = rng.normal(size=(2, 9, 11)).astype(np.float32)
    image = rng.integers(0, 256, (90, 100, 3), dtype=np.uint8)
    whole = apply_coefficients(coefficients, image, WEIGHTS, OFFSET)
    monkeypatch.setattr(guided_filter, "STRIP_PX", 300)
    np.testing.assert_array_equal(apply_coefficients(coefficients, image, WEIGHTS, OFFSET), whole)


def test_takes_views_that_opencv_does_not(rng: np.random.Generator) -> None:
    coefficients = rng.normal(size=(2, 4, 4)).astype(np.float32)
    bgr = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    flipped = bgr[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(
        apply_coefficients(coefficients, flipped, WEIGHTS, OFFSET),
        apply_coefficients(coefficients, flipped.copy(), WEIGHTS, OFFSET),
    )
