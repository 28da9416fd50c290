import cv2
import numpy as np
import pytest
from pymatting import estimate_foreground_ml

from stylematte.imaging import foreground as module
from stylematte.imaging.foreground import estimate_foreground
from stylematte.imaging.geometry import convert, to_dtype, to_float


def texture(
    rng: np.random.Generator, size: tuple[int, int], grain_px: int, base: tuple[float, ...]
) -> np.ndarray:
    """Smooth colour noise around a colour, (height, width, 3) float32."""
    noise = rng.random((size[0] // grain_px + 2, size[1] // grain_px + 2, 3), dtype=np.float32)
    noise = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(np.array(base, np.float32) + (noise - 0.5) * 0.4, 0, 1)


def hairy_alpha(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A solid disc with 300 thin strands around it, (height, width) float32."""
    height, width = size
    centre, radius = np.array([width / 2, height / 2]), min(size) / 4
    alpha = np.zeros(size, np.uint8)
    cv2.circle(alpha, (width // 2, height // 2), round(radius), 255, -1, cv2.LINE_AA)
    for angle in rng.uniform(0, 2 * np.pi, 300):
        direction = np.array([np.cos(angle), np.sin(angle)])
        tip = centre + (direction * 1.7 + rng.normal(0, 0.2, 2)) * radius
        ends = [tuple(int(v) for v in np.round(point)) for point in (centre + direction * radius * 0.95, tip)]
        cv2.line(alpha, *ends, int(rng.uniform(80, 255)), 1, cv2.LINE_AA)
    return cv2.GaussianBlur(alpha, (0, 0), 0.8).astype(np.float32) / 255


@pytest.mark.parametrize("size", [(180, 240), (700, 900)])  # below and above the size of the coarse pass
def test_nearer_to_the_truth_than_pymatting(rng: np.random.Generator, size: tuple[int, int]) -> None:
    truth = texture(rng, size, 30, (0.4, 0.25, 0.15))
    behind = texture(rng, size, 20, (0.2, 0.7, 0.3))
    alpha = hairy_alpha(rng, size)
    image = to_dtype(truth * alpha[..., None] + behind * (1 - alpha[..., None]), np.uint8)
    band = (alpha > 0.02) & (alpha < 0.98)

    def error(found: np.ndarray) -> float:
        return float(np.abs(found - truth)[band].mean())

    ours = error(to_float(estimate_foreground(image, alpha)))
    theirs = error(estimate_foreground_ml(to_float(image).astype(np.float64), alpha.astype(np.float64)))
    assert ours < 1.1 * theirs
    assert ours < 0.5 * error(to_float(image))  # doing nothing


def test_opaque_pixels_keep_their_bits(rng: np.random.Generator) -> None:
    image = rng.integers(0, 65536, (200, 300, 3), dtype=np.uint16)
    alpha = convert(hairy_alpha(rng, (200, 300)), np.uint8)
    opaque = alpha == 255
    assert opaque.any()
    assert not opaque.all()
    result = estimate_foreground(image, alpha)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result[opaque], image[opaque])


def test_clear_pixels_beside_the_subject_get_its_colour() -> None:
    image = np.full((400, 400, 3), (0, 0, 255), np.uint8)
    image[100:300, 100:300] = (255, 0, 0)
    alpha = np.zeros((400, 400), np.float32)
    alpha[100:300, 100:300] = 1
    result = estimate_foreground(image, alpha)
    assert result[95, 200, 0] > 200
    assert result[95, 200, 2] < 50


def test_alpha_may_have_any_depth(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    alpha = convert(hairy_alpha(rng, (90, 110)), np.uint8)
    expected = estimate_foreground(image, alpha).astype(int)
    for dtype in (np.uint16, np.float32):
        assert np.abs(estimate_foreground(image, convert(alpha, dtype)).astype(int) - expected).max() <= 1


def test_tiles_leave_no_seam(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (300, 410)
    image = to_dtype(texture(rng, size, 9, (0.5, 0.5, 0.5)), np.uint8)
    alpha = np.clip(texture(rng, size, 40, (0.5, 0.5, 0.5))[..., 0], 0.01, 0.99)  # soft everywhere
    monkeypatch.setattr(module, "COARSE_PX", 20000)
    tiled = estimate_foreground(image, alpha)
    monkeypatch.setattr(module, "TILE", 1000)
    # warpAffine places its grid in 1/32 pixel, so the start may round otherwise from tile to tile.
    assert np.abs(tiled.astype(int) - estimate_foreground(image, alpha)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (3, 9000)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_small_and_thin_images(size: tuple[int, int], value: float) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    result = estimate_foreground(image, np.full(size, value, np.float32))
    np.testing.assert_allclose(result.astype(int), 90, atol=1)


def test_arguments_are_left_alone(rng: np.random.Generator) -> None:
    image, alpha = rng.random((40, 50, 3), dtype=np.float32), rng.random((40, 50), dtype=np.float32)
    copies = image.copy(), alpha.copy()
    estimate_foreground(image, alpha)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(alpha, copies[1])
