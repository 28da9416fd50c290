import csv
import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from training.data.label_agreement import (
    LabelAgreement,
    believe,
    combine,
    confidence,
    measure,
    with_opaque_body,
)
from training.data.readers import read_set
from training.label_photos import Sources, label_photos

H, W = 120, 160
CLEAR = LabelAgreement(area=0.2, soft=0.02, second=0.95, third=0.9)


def disc(x=80, y=60, r=30):
    rows, columns = np.mgrid[:H, :W]
    distance = np.hypot(columns - x, rows - y)
    return np.clip(r + 0.5 - distance, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1.0),
        ({"second": 0.8}, 1.0),
        ({"second": 0.8, "soft": 0.1, "third": 0.3}, 0.7),
        ({"second": 0.6, "third": 0.85}, 0.9),
        ({"second": 0.6, "third": 0.3}, 0.6),
        ({"second": 0.6, "third": 0.3, "soft": 0.1}, 0.4),
        ({"second": 0.2, "third": 0.85}, 0.8),
        ({"second": 0.2, "third": 0.3}, 0.0),
        ({"second": 0.2, "third": 0.3, "marked": 1.0}, 1.0),
        ({"second": 0.2, "third": 0.3, "marked": 1.0, "area": 0.6}, 0.0),
        ({"marked": 0.65}, 0.0),
        ({"marked": 0.75}, 1.0),
        ({"area": 0.002}, 0.0),
        ({"area": 0.95}, 0.0),
        ({"soft": 0.15}, 0.0),
    ],
)
def test_confidence(change, expected):
    assert confidence(replace(CLEAR, **change)) == expected


def test_measure_against_counts():
    teacher, second = disc(), disc(x=90)
    both = ((teacher > 0.5) & (second > 0.5)).sum() / ((teacher > 0.5) | (second > 0.5)).sum()
    marked = np.zeros((H, W), bool)
    marked[60, 80] = marked[60, 108] = marked[10, 10] = marked[10, 12] = True
    seen = measure(teacher, second, teacher, marked)
    assert seen.area == pytest.approx(np.pi * 30**2 / (H * W), rel=0.02)
    assert seen.second == pytest.approx(both)
    assert seen.third == 1
    assert seen.marked == 0.5
    assert measure(teacher, second, teacher).marked is None


def test_what_two_networks_contradict_is_not_believed():
    teacher = np.maximum(disc(), disc(x=20, y=20, r=10))
    alpha, weight = believe(teacher, (disc(), disc(r=29)))
    np.testing.assert_array_equal(alpha, with_opaque_body(teacher))
    assert weight[20, 20] == 0
    assert weight[disc(r=33) > 0].min() == 1, "a pixel at the edge is no contradiction"
    assert believe(teacher, (disc(), teacher))[1].min() == 1, "one of two contradicts"


def test_a_missed_joint_belongs_to_the_subject_and_its_surroundings_are_unknown():
    joints = np.zeros((H, W), bool)
    joints[60, 80] = joints[60, 116] = True  # inside, and six pixels outside
    alpha, weight = believe(disc(), (disc(), disc()), joints)
    assert alpha[60, 116] == weight[60, 116] == 1
    unknown = np.argwhere(weight == 0)
    assert 50 < len(unknown) < 120
    assert np.hypot(*(unknown - (60, 116)).T).max() < 7
    assert (disc()[weight == 0] < 0.5).all(), "what the teacher sees holds"


def test_body_becomes_opaque_but_not_its_edge():
    faint = disc() * 0.6
    made = with_opaque_body(faint)
    assert made[60, 80] == 1
    assert made[disc() == 0].max() == 0
    edge = (faint > 0) & (disc(r=27) == 0)
    np.testing.assert_array_equal(made[edge], faint[edge])
    hole = faint.copy()
    hole[55:66, 75:86] = 0.1  # an arm's opening stays open
    assert with_opaque_body(hole)[60, 80] == np.float32(0.1)


def test_body_reaches_the_border_of_the_photo():
    assert with_opaque_body(np.full((H, W), 0.5, np.float32)).min() == 1


def test_mask_says_what_and_teacher_how_soft():
    mask = disc() > 0.5
    soft = np.asarray(cv2.GaussianBlur(disc(), (0, 0), 1), np.float32)
    teacher = np.maximum(soft, disc(x=20, y=20, r=10))  # keeps a second thing
    alpha, weight = combine(teacher, mask)
    assert alpha[20, 20] == 0
    assert weight.min() == 1
    edge = (disc(r=31) > 0) & (disc(r=29) == 0)
    np.testing.assert_array_equal(alpha[edge], soft[edge])


def test_lost_limb_is_not_believed():
    mask = disc() > 0.5
    teacher = disc()
    teacher[:, :70] = 0
    alpha, weight = combine(teacher, mask)
    assert alpha[60, 60] == 1
    assert weight[60, 51] < 1  # on the outline, where the teacher sees nothing
    assert weight[60, 60] == 1
    assert combine(teacher, mask, trusts_mask=False)[1][60, 60] == 0


@pytest.fixture
def folders(tmp_path):
    """Three photos: one that all networks agree on, one without a subject, one that only the teacher sees."""
    teachers = {"sure": disc(), "empty": disc() * 0, "poster": disc(r=20)}
    seconds = {"sure": disc(r=30), "empty": disc() * 0, "poster": disc() * 0}
    rng = np.random.default_rng(3)
    for stem in teachers:
        planes = {"teacher": teachers[stem], "second": seconds[stem], "third": seconds[stem]}
        for name, plane in planes.items():
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{stem}.png"), (plane * 255 + 0.5).astype(np.uint8))
        (tmp_path / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "photos" / f"{stem}.png"), rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
    return tmp_path


def run(folders, *options):
    command = [sys.executable, "-m", "training.label_photos", str(folders / "photos")]
    command += ["--teacher", str(folders / "teacher"), "--out", str(folders / "set"), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_program_writes_a_data_set(folders):
    others = ["--second", str(folders / "second"), "--third", str(folders / "third")]
    made = run(folders, *others, "--side", "80")
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip().endswith("2 left out, 1 sure")
    samples = read_set(folders, "set")
    assert [sample.image.stem for sample in samples] == ["sure"]
    assert set(samples[0].labels) == {"alpha", "weight"}
    alpha = cv2.imread(str(samples[0].labels["alpha"]), cv2.IMREAD_UNCHANGED)
    assert alpha.shape == (60, 80)
    assert alpha[30, 40] == 255
    rows = list(csv.DictReader((folders / "set" / "report.csv").open()))
    assert {row["photo"]: float(row["confidence"]) for row in rows} == {"sure": 1, "empty": 0, "poster": 0}


def test_joints_save_a_small_subject(folders):
    joints = folders / "joints.json"
    joints.write_text(json.dumps({"poster": {"points": [[80, 60], [85, 65]]}}))
    others = ["--second", str(folders / "second"), "--third", str(folders / "third")]
    made = run(folders, *others, "--joints", str(joints))
    assert "2 sure" in made.stdout
    assert (folders / "set" / "alpha" / "poster.png").exists()


def test_masks_and_parts(folders):
    (folders / "masks").mkdir()
    for stem in ("sure", "empty", "poster"):
        cv2.imwrite(str(folders / "masks" / f"{stem}.png"), (disc() > 0.5).astype(np.uint8))  # 0 and 1
    sources = Sources(folders / "photos", folders / "teacher", masks=folders / "masks")
    outcomes = {outcome.stem: outcome for outcome in label_photos(sources, folders / "set", 448)}
    assert all(outcome.seen is None for outcome in outcomes.values())
    assert cv2.imread(str(folders / "set" / "alpha" / "empty.png"), 0)[60, 80] == 255
    others = (folders / "second", folders / "third")
    sources = Sources(folders / "photos", folders / "teacher", others, parts=folders / "masks")
    seen = {o.stem: o.seen.marked for o in label_photos(sources, folders / "other", 448)}
    assert seen["sure"] == 1
    assert seen["empty"] == 0
    assert 0.4 < seen["poster"] < 0.7  # a disc of two thirds of the radius, and five pixels around


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "second" / "sure.png").unlink(), "no alpha for sure.png"),
        (
            lambda f: cv2.imwrite(str(f / "third" / "sure.png"), np.zeros((H, W + 1), np.uint8)),
            f"size ({H}, {W + 1})",
        ),
        (lambda f: [p.unlink() for p in (f / "photos").iterdir()], "no photos in it"),
        (lambda f: (f / "joints.json").write_text("[1]"), "not a file of joints"),
    ],
)
def test_bad_input_is_one_line(folders, spoil, says):
    spoil(folders)
    options = ["--second", str(folders / "second"), "--third", str(folders / "third")]
    options += ["--joints", str(folders / "joints.json")] if (folders / "joints.json").exists() else []
    made = run(folders, *options)
    assert made.returncode == 3
    assert says in made.stderr
    assert "Traceback" not in made.stderr


def test_usage(folders):
    assert run(folders).returncode == 2
