"""Agreement of two alphas, and its histogram, by hand."""

import numpy as np
import pytest

from training.synthesis.agreement import agreement, bars, histogram


def test_agreement_by_hand():
    generated = np.array([[0, 1, 0.5, 0]], np.float32)
    matted = np.array([[0, 1, 0.75, 0.25]], np.float32)
    found = agreement(generated, matted)
    assert found.difference == pytest.approx((0.25 + 0.25) / 4)
    assert found.band == pytest.approx(0.25)


def test_hard_alphas_have_no_band():
    hard = np.array([[0, 1]], np.float32)
    found = agreement(hard, 1 - hard)
    assert (found.difference, found.band) == (1.0, None)


def test_sizes_must_be_equal():
    with pytest.raises(ValueError, match="alphas of"):
        agreement(np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32))


def test_histogram_has_the_threshold_between_bins():
    counted = histogram([0, 0.001, 0.0499, 0.05, 0.0501, 0.3], 0.05)
    assert sum(count for _, count in counted) == 6
    assert sum(count for edge, count in counted if edge < 0.05) == 4  # the threshold itself is kept
    assert counted[10] == (0.05, 1)
    assert counted[-1][1] == 1
    lines = bars(counted, 0.05)
    assert len(lines) == 21
    assert "threshold" in lines[10]
    assert lines[0].count("#") == 40
