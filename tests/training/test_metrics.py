"""Every score against a second computation: SciPy, scikit-image, plain float64 loops, or a value by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import skimage.measure

from training import metrics


@pytest.fixture
def soft_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two blobs with soft rims, 8-bit values, islands and holes in the prediction: (61, 83) float32."""
    rows, columns = np.mgrid[:61, :83]
    distance = np.hypot(rows - 30, columns - 40)
    truth = np.clip((24 - distance) / 12 + 0.5, 0, 1)
    noise = scipy.ndimage.gaussian_filter(rng.normal(0, 1, truth.shape), 1.5) * 0.6
    prediction = np.clip(truth + noise, 0, 1)
    quantised = [np.round(a * 255).astype(np.uint8).astype(np.float32) / 255 for a in (prediction, truth)]
    return quantised[0], quantised[1]


def reference_conn(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The protocol as it is written down, one step a line, with scikit-image's labels."""
    connected_to = np.full(truth.shape, -1.0)
    for k in range(1, 11):
        # compared in float32, as the alphas are: 0.6 in a file is 0.6 here, too
        joint = (prediction >= np.float32(k / 10)) & (truth >= np.float32(k / 10))
        parts = skimage.measure.label(joint, connectivity=1)
        areas = np.bincount(parts.ravel())[1:]
        if len(areas) == 0:
            continue
        omega = parts == 1 + np.argmax(areas)
        connected_to[(connected_to == -1) & ~omega] = (k - 1) / 10
    connected_to[connected_to == -1] = 1
    phi = []
    for alpha in (prediction.astype(np.float64), truth.astype(np.float64)):
        excess = alpha - connected_to
        phi.append(1 - excess * (excess >= 0.15))
    return np.abs(phi[0] - phi[1]).sum() / 1000


def reference_grad(prediction: np.ndarray, truth: np.ndarray) -> float:
    magnitudes = []
    for alpha in (prediction.astype(np.float64), truth.astype(np.float64)):
        along_y = scipy.ndimage.gaussian_filter(alpha, sigma=1.4, order=[1, 0])
        along_x = scipy.ndimage.gaussian_filter(alpha, sigma=1.4, order=[0, 1])
        magnitudes.append(np.hypot(along_x, along_y))
    return ((magnitudes[0] - magnitudes[1]) ** 2).sum() / 10


def test_whole_image_by_hand():
    prediction = np.array([[1, 0.5], [0.25, 0]], np.float32)
    truth = np.array([[1, 1], [0, 0]], np.float32)
    assert metrics.sad(prediction, truth) == pytest.approx(0.75 / 1000)
    assert metrics.mad(prediction, truth) == pytest.approx(0.75 / 4)
    assert metrics.mse(prediction, truth) == pytest.approx((0.25 + 0.0625) / 4)
    assert metrics.iou(prediction, truth) == 1.0
    assert metrics.iou(np.float32([[1, 0], [1, 0]]), truth) == pytest.approx(1 / 3)


def test_there_is_no_iou_of_two_empty_alphas():
    assert np.isnan(metrics.iou(np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)))


def test_sad_of_a_large_image_keeps_its_digits():
    prediction = np.full((3000, 2000), 0.1, np.float32)
    assert metrics.sad(prediction, np.zeros_like(prediction)) == pytest.approx(600, rel=1e-6)


def test_grad_agrees_with_scipy(soft_pair):
    assert metrics.grad(*soft_pair) == pytest.approx(reference_grad(*soft_pair), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 5), (200, 4)])
def test_grad_agrees_with_scipy_where_the_kernel_is_wider_than_the_image(rng, shape):
    prediction, truth = rng.random((2, *shape), dtype=np.float32)
    assert metrics.grad(prediction, truth) == pytest.approx(
        reference_grad(prediction, truth), rel=1e-4, abs=1e-9
    )


def test_grad_of_equal_alphas_is_zero_and_of_a_softer_edge_is_not():
    step = np.zeros((40, 40), np.float32)
    step[:, 20:] = 1
    assert metrics.grad(step, step) == 0
    assert metrics.grad(scipy.ndimage.gaussian_filter(step, 3), step) > 0.1


def test_conn_agrees_with_scikit_image(soft_pair):
    expected = reference_conn(*soft_pair)
    assert expected > 0.05  # islands and holes are really there
    assert metrics.conn(*soft_pair) == pytest.approx(expected, rel=1e-5)


def test_conn_agrees_with_scikit_image_on_noise_with_many_equal_components(rng):
    prediction, truth = (rng.integers(0, 256, (2, 40, 50)).astype(np.float32)) / 255
    assert metrics.conn(prediction, truth) == pytest.approx(reference_conn(prediction, truth), rel=1e-5)


def test_conn_does_not_join_parts_that_touch_at_a_corner():
    truth = np.zeros((6, 6), np.float32)
    truth[:3, :3] = 1
    truth[3:, 3:] = 1
    prediction = truth.copy()
    prediction[5, 5] = 0  # the second square is not part of the source either way: 1 there against 0 is 1
    assert metrics.conn(prediction, truth) == pytest.approx(1 / 1000)
    assert metrics.conn(prediction, truth) == pytest.approx(reference_conn(prediction, truth))


def test_conn_of_an_empty_prediction_is_zero_as_published():
    truth = np.zeros((9, 9), np.float32)
    truth[3:6, 3:6] = 1
    empty = np.zeros_like(truth)
    assert metrics.conn(empty, truth) == 0 == reference_conn(empty, truth)


def test_trimap_scores_by_hand():
    prediction = np.array([[0.9, 0.5, 0.2, 0.1]], np.float32)
    truth = np.array([[1.0, 0.7, 0.0, 0.0]], np.float32)
    trimap = np.array([[255, 128, 128, 0]], np.uint8)
    scores = metrics.trimap_scores(prediction, truth, trimap)
    assert scores == pytest.approx(
        {
            "SAD-tri": 0.4 / 1000,  # |0.5 - 0.7| + |0.2 - 0|; the known pixels are taken as right
            "MSE-tri": 0.08 / 2,
            "MAD-tri": 0.4 / 2,
            "SAD-FG": 0.1 / 1000,
            "SAD-BG": 0.1 / 1000,
        }
    )


def test_truth_that_contradicts_the_trimap_counts_in_the_band_scores():
    zeros = np.zeros((1, 4), np.float32)
    trimap = np.array([[255, 128, 128, 0]], np.uint8)
    scores = metrics.trimap_scores(zeros, zeros, trimap)
    assert scores["SAD-tri"] == pytest.approx(1 / 1000)
    assert scores["MSE-tri"] == pytest.approx(1 / 2)


def test_an_unknown_band_of_127_scores_like_one_of_128(soft_pair):
    trimap = metrics.trimap_from_alpha(soft_pair[1], 3)
    off_by_one = np.where(trimap == 128, 127, trimap).astype(np.uint8)
    assert metrics.trimap_scores(*soft_pair, off_by_one) == metrics.trimap_scores(*soft_pair, trimap)


def test_a_trimap_without_unknown_pixels_has_no_band_mean():
    ones = np.ones((2, 2), np.float32)
    scores = metrics.trimap_scores(ones, ones, np.full((2, 2), 255, np.uint8))
    assert math.isnan(scores["MSE-tri"])
    assert math.isnan(scores["MAD-tri"])
    assert scores["SAD-tri"] == 0


@pytest.mark.parametrize("radius_px", [0, 1, 4])
def test_trimap_from_alpha_is_the_true_regions_eroded_by_a_disc(soft_pair, radius_px):
    alpha = soft_pair[1]
    rows, columns = np.mgrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
    disc = rows**2 + columns**2 <= radius_px**2
    erode = scipy.ndimage.binary_erosion
    expected = np.full(alpha.shape, 128)
    expected[erode(alpha == 1, disc, border_value=1)] = 255
    expected[erode(alpha == 0, disc, border_value=1)] = 0
    np.testing.assert_array_equal(metrics.trimap_from_alpha(alpha, radius_px), expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_trimap_from_a_flat_alpha_has_no_band(value):
    trimap = metrics.trimap_from_alpha(np.full((5, 7), value, np.float32), 3)
    assert np.unique(trimap).tolist() == [int(255 * value)]


def test_measure_names_every_score_and_its_convention(soft_pair):
    whole = metrics.measure(*soft_pair)
    full = metrics.measure(*soft_pair, metrics.trimap_from_alpha(soft_pair[1], 2))
    assert tuple(whole) == metrics.WHOLE_IMAGE
    assert tuple(full) == metrics.WHOLE_IMAGE + metrics.WITH_TRIMAP
    assert tuple(metrics.CONVENTIONS) == (*full, *metrics.OF_CLIPS)
    assert full["SAD"] == whole["SAD"] == metrics.sad(*soft_pair)


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        metrics.measure(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))


def test_metrics_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import training.metrics"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
