"""Labels from networks: which photos are believed, how far, and what is mended in a teacher's alpha."""

import cv2
import numpy as np
import pytest

from training.data.network_labels import (
    Doubtful,
    label_from_mask,
    label_from_networks,
    made_whole,
    points_inside,
)

SIZE = (120, 160)


def disc_at(row: int, column: int, radius: int, soft_px: float = 0) -> np.ndarray:
    plane = np.zeros(SIZE, np.float32)
    cv2.circle(plane, (column, row), radius, 1.0, -1)
    return cv2.GaussianBlur(plane, (0, 0), soft_px) if soft_px else plane


SUBJECT = disc_at(60, 60, 30)
ELSEWHERE = disc_at(60, 130, 20)
NOTHING = np.zeros(SIZE, np.float32)


def test_two_networks_that_agree_are_believed_whatever_the_student_sees():
    label = label_from_networks(SUBJECT, disc_at(60, 61, 30), NOTHING)
    np.testing.assert_array_equal(label.alpha, SUBJECT)
    assert (label.confidence == 1).all()


@pytest.mark.parametrize(
    ("second", "student", "points", "belief"),
    [
        (disc_at(60, 66, 30), NOTHING, None, 1.0),  # .78, and nothing is soft
        (disc_at(60, 75, 30), SUBJECT, None, 0.9),  # .53, and the student agrees
        (disc_at(60, 75, 30), NOTHING, None, 0.43),  # .53, nobody else, but decided
        (ELSEWHERE, SUBJECT, None, 0.9),
        (ELSEWHERE, NOTHING, [(60, 60), (40, 60), (80, 50)], 1.0),  # every joint is inside
    ],
)
def test_how_far_it_is_believed(second, student, points, belief):
    label = label_from_networks(SUBJECT, second, student, None if points is None else np.array(points, float))
    assert label.confidence[5, 5] == pytest.approx(belief)


def test_where_a_second_network_sees_something_else_little_is_believed():
    label = label_from_networks(SUBJECT, disc_at(60, 75, 30), SUBJECT)
    assert label.confidence[60, 100] == pytest.approx(0.9 / 4)
    assert label.confidence[60, 60] == pytest.approx(0.9)
    assert label.confidence[5, 5] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("teacher", "second", "student", "points", "reason"),
    [
        (NOTHING, NOTHING, NOTHING, None, "covers 0.0%"),
        (np.ones(SIZE, np.float32), NOTHING, NOTHING, None, "covers 100.0%"),
        (np.clip(SUBJECT * 0.6 + 0.1, 0, 1), SUBJECT, SUBJECT, None, "100% is half transparent"),
        (SUBJECT, SUBJECT, SUBJECT, [(60, 60), (130, 60)], "50% of the marked points lie outside"),
        (SUBJECT, ELSEWHERE, NOTHING, None, "different subjects"),
    ],
)
def test_what_is_left_out(teacher, second, student, points, reason):
    left_out = label_from_networks(
        teacher, second, student, None if points is None else np.array(points, float)
    )
    assert isinstance(left_out, Doubtful)
    assert reason in left_out.reason


def test_a_half_transparent_body_is_made_whole_and_its_edge_is_not():
    alpha = disc_at(60, 60, 30, soft_px=1.5)
    torn = np.where(disc_at(60, 60, 15) > 0, np.float32(0.5), alpha)
    np.testing.assert_array_equal(made_whole(torn)[50:70, 50:70], 1)
    edge = (alpha > 0.01) & (alpha < 0.3)
    np.testing.assert_array_equal(made_whole(torn)[edge], torn[edge])


def test_points_count_with_five_pixels_around_them_and_at_the_border():
    assert points_inside(SUBJECT, np.array([(60.0, 60.0), (92.0, 60.0), (94.0, 60.0), (500.0, -3.0)])) == 0.5


def test_the_mask_says_what_and_the_teacher_how_soft():
    mask = SUBJECT > 0.5
    band = (disc_at(60, 60, 34) > 0) & ~(disc_at(60, 60, 26) > 0)
    teacher = disc_at(60, 60, 30, soft_px=1.5)
    teacher[0:20, 120:150] = 1  # a poster on the wall
    label = label_from_mask(mask, teacher, band)
    np.testing.assert_array_equal(label.alpha[band], teacher[band])
    np.testing.assert_array_equal(label.alpha[~band], mask[~band])
    assert (label.confidence[~band] == 1).all()


def test_a_difference_that_reaches_the_edge_is_doubted_on_both_sides():
    mask = SUBJECT > 0.5
    band = (disc_at(60, 60, 34) > 0) & ~(disc_at(60, 60, 26) > 0)
    arm = np.zeros(SIZE, np.float32)
    arm[55:66, 85:120] = 1
    label = label_from_mask(mask, np.maximum(SUBJECT, arm), band)
    assert label.confidence[60, 92] == pytest.approx(0.16)
    assert label.confidence[60, 31] == 1


def test_of_another_subject_the_teacher_is_not_heard():
    mask = SUBJECT > 0.5
    band = (disc_at(60, 60, 34) > 0) & ~(disc_at(60, 60, 26) > 0)
    label = label_from_mask(mask, ELSEWHERE, band)
    np.testing.assert_array_equal(label.alpha, SUBJECT)
    np.testing.assert_allclose(label.confidence[band], 0.24)
