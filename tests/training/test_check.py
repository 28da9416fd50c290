"""The check before a run: each thing that is wrong with a data set is found and named, and nothing else."""

import dataclasses
import json
import shutil
import struct

import cv2
import numpy as np
import pytest

from tests.images import png_that_says
from tests.training import drawn
from training.config import DataSet, Recipe, Stage, Validation
from training.data.check import DataReport, check_data
from training.data.headers import read_size
from training.data.readers import DataError, is_held_out, read_grey, read_plane, read_rgb

SET = "P3M-10k"
MATTES = DataSet(SET, "mattes", 1.0, layout="p3m-10k")
BACKGROUNDS = DataSet("backgrounds", "backgrounds", 0.1)
SCORED = Validation(SET, "p3m-500-p", photos=2)
STAGE = Stage("matting", 10, 2, (64, 64), 1e-3, fine={"l2": 1.0})
PLAN = Recipe("test", (MATTES, BACKGROUNDS), (STAGE,), 0, 4, validation=(SCORED,))
TRAIN, VALID = f"{SET}/train", f"{SET}/validation/P3M-500-P"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Data with nothing wrong about it."""
    root = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(4)
    for number in range(9):
        base = TRAIN if number < 6 else VALID
        # Large shapes of their own, or the looks of these small images would all be twins.
        image = cv2.resize(
            rng.integers(0, 256, (9, 12, 3), np.uint8), (120, 90), interpolation=cv2.INTER_CUBIC
        )
        alpha = np.round(drawn.soft_disc((90, 120), (45, 60), 25, 9) * 255).astype(np.uint8)
        drawn.save(root / base / f"blurred_image/p_{number}.jpg", image)
        drawn.save(root / base / f"mask/p_{number}.png", alpha)
        if base == VALID:
            unknown = (alpha > 0) & (alpha < 255)
            drawn.save(root / base / f"trimap/p_{number}.png", np.where(unknown, 128, alpha).astype(np.uint8))
    for number in range(4):
        drawn.save(root / f"backgrounds/{number}.png", image)
    return root


@pytest.fixture
def root(sound, tmp_path):
    """A copy that may be broken."""
    return shutil.copytree(sound, tmp_path / "data")


def all_of(report: DataReport, what: str) -> list[str]:
    return [line for one in report.sets for line in getattr(one, what)]


@pytest.mark.parametrize("full", [False, True])
def test_sound_data(sound, full):
    report = check_data(PLAN, sound, full, quiet=True)
    assert (report.errors, report.warnings) == (0, 0)
    train, ground, scored = report.sets
    assert (train.pictures, train.labels, train.looked_into) == (6, {"alpha": 6}, 6)
    assert (ground.pictures, ground.labels) == (4, {})
    assert (scored.pictures, scored.labels, scored.held_out) == (3, {"alpha": 3, "trimap": 3}, 2)
    assert train.megapixels == pytest.approx(90 * 120 / 1e6)
    assert train.twins == (0 if full else None)
    lines = report.lines()
    assert lines[0].startswith(f"{SET} (mattes, layout p3m-10k): 6 images with 0.01 megapixels, 6 with alpha")
    assert lines[-2].startswith("full check" if full else "quick check")
    assert lines[-1] == "0 errors, 0 warnings"
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["errors"] == 0
    assert plain["sets"][2]["kind"] == "validation"


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def other(path):
    path.write_bytes(b"no image at all, whatever its name says")


def larger(path):
    drawn.save(path, np.full((91, 120), 128, np.uint8))


def bomb(path):
    path.write_bytes(png_that_says(20000, 20000))


def beyond_opencv(path):
    path.write_bytes(png_that_says(50000, 60000))


def without(path):
    path.unlink()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (f"{TRAIN}/blurred_image/p_1.jpg", cut_off, "p_1.jpg: truncated"),
        (f"{TRAIN}/blurred_image/p_1.jpg", empty, "p_1.jpg: empty, 0 bytes"),
        (f"{TRAIN}/mask/p_2.png", cut_off, "p_2.png: truncated"),
        (f"{TRAIN}/mask/p_2.png", other, "p_2.png: not a readable label"),
        (f"{TRAIN}/mask/p_2.png", larger, "p_2.png: size (91, 120), but its image has (90, 120)"),
        (f"{TRAIN}/blurred_image/p_1.jpg", bomb, "p_1.jpg: 20000x20000 (height x width) is too large"),
        (f"{TRAIN}/mask/p_2.png", beyond_opencv, "p_2.png: 50000x60000 (height x width) is too large"),
        (f"{TRAIN}/mask/p_2.png", without, "1 images without alpha: p_2.jpg"),
        (f"{VALID}/trimap/p_7.png", larger, "trimap/p_7.png: size (91, 120), but its image has (90, 120)"),
        ("backgrounds/3.png", other, "3.png: not a readable label"),
    ],
)
def test_errors_of_single_files(root, file, damage, message, full):
    damage(root / file)
    report = check_data(PLAN, root, full, quiet=True)
    assert report.errors == 1
    assert message in all_of(report, "errors")[0]
    assert any(message in line for line in report.lines())


@pytest.mark.parametrize("read", [read_rgb, read_grey, read_plane])
def test_what_opencv_does_not_read_is_an_error_of_the_data(tmp_path, read):
    beyond_opencv(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"wide\.png: this (image|label) is too large to read"):
        read(tmp_path / "wide.png")


def test_only_the_full_pass_finds_what_its_frame_hides(root):
    path = root / TRAIN / "mask/p_4.png"
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    assert check_data(PLAN, root, full=True, quiet=True).errors == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "1 labels that are 0 everywhere: P3M-10k/p_2"),
        (255, "1 labels that are 255 everywhere: P3M-10k/p_2"),
    ],
)
def test_hollow_alphas(root, value, message):
    drawn.save(root / TRAIN / "mask/p_2.png", np.full((90, 120), value, np.uint8))
    report = check_data(PLAN, root, quiet=True)
    assert message in report.sets[0].warnings
    assert report.errors == 0


def test_masks_where_soft_mattes_are_wanted(root):
    for number in (0, 3):
        path = root / TRAIN / f"mask/p_{number}.png"
        drawn.save(path, np.where(cv2.imread(str(path), 0) > 127, 255, 0).astype(np.uint8))
    (warning,) = check_data(PLAN, root, quiet=True).sets[0].warnings
    assert warning.startswith("2 of 6 inspected alphas (33 %) contain only 0 and 255")


def test_trimaps_whose_unknown_is_not_128(root):
    path = root / VALID / "trimap/p_8.png"
    trimap = cv2.imread(str(path), 0)
    trimap[trimap == 128] = 127
    drawn.save(path, trimap)
    (warning,) = check_data(PLAN, root, quiet=True).sets[2].warnings
    assert warning.startswith("1 trimaps with values other than 0, 128 and 255 (127)")
    assert warning.endswith("P3M-10k/p_8")


def test_labels_without_an_image(root):
    (root / TRAIN / "blurred_image/p_0.jpg").unlink()
    report = check_data(PLAN, root, quiet=True)
    assert all_of(report, "warnings") == ["1 files in alpha without an image: p_0.png"]
    assert report.errors == 0


def test_names_that_the_recipe_has_and_the_set_has_not(root):
    named = dataclasses.replace(MATTES, wrong=("p_0", "p_o"), incomplete=("p_1", "q_1"))
    report = check_data(dataclasses.replace(PLAN, sets=(named, BACKGROUNDS)), root, quiet=True)
    assert report.errors == 0
    assert all_of(report, "warnings") == [
        "2 listed by the recipe as wrong or incomplete, but missing: p_o, q_1"
    ]


def test_names_are_few_and_the_rest_is_counted(root):
    for number in range(5):
        (root / TRAIN / f"mask/p_{number}.png").unlink()
    assert check_data(PLAN, root, quiet=True).sets[0].errors == [
        "5 images without alpha: p_0.jpg, p_1.jpg, p_2.jpg and 2 more"
    ]


def test_two_images_of_one_name(root):
    shutil.copy(root / "backgrounds/1.png", root / "backgrounds/1.bmp")
    assert all_of(check_data(PLAN, root, quiet=True), "errors") == [
        "1 names shared by two images: backgrounds/1"
    ]


def test_twins_of_scored_images(root):
    number = next(i for i in range(6) if not is_held_out(f"{SET}/p_{i}", PLAN.held_out_every))
    twin = cv2.imread(str(root / TRAIN / f"blurred_image/p_{number}.jpg"))[:, ::-1]
    cv2.imwrite(str(root / VALID / "blurred_image/p_6.jpg"), twin)
    report = check_data(PLAN, root, full=True, quiet=True)
    assert report.sets[2].twins == 1
    assert report.sets[2].warnings == [
        "1 of 3 images have a near duplicate in the training part; scores on them are too good"
    ]


def test_a_set_that_is_not_there(root):
    shutil.rmtree(root / "backgrounds")
    assert all_of(check_data(PLAN, root, quiet=True), "errors") == [
        f"{root / 'backgrounds'}: no such data set folder"
    ]
    optional = dataclasses.replace(PLAN, stages=(dataclasses.replace(STAGE, optional=True),))
    report = check_data(optional, root, quiet=True)
    assert report.errors == 0
    assert report.sets[1].warnings == ["missing; these stages are skipped: matting"]
    shutil.rmtree(root / VALID)
    assert "does not have the layout p3m-500-p" in check_data(PLAN, root, quiet=True).sets[2].errors[0]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (dataclasses.replace(PLAN, sets=(DataSet("backgrounds", "mattes", 1.0),)), "needs a folder alpha/"),
        (dataclasses.replace(PLAN, sets=(DataSet("backgrounds", "cutouts", 1.0),)), "not an RGBA cut-out"),
        (dataclasses.replace(PLAN, validation=(Validation("backgrounds"),)), "a validation set needs alphas"),
    ],
)
def test_sets_of_the_wrong_kind(sound, plan, message):
    assert message in all_of(check_data(plan, sound, quiet=True), "errors")[0]


def test_a_folder_without_images_and_one_that_is_held_out_whole(root):
    shutil.rmtree(root / "backgrounds")
    (root / "backgrounds").mkdir()
    assert "backgrounds: no images in it" in all_of(check_data(PLAN, root, quiet=True), "errors")[0]
    alone = next(i for i in range(99) if is_held_out(f"backgrounds/{i}", PLAN.held_out_every))
    drawn.save(root / f"backgrounds/{alone}.png", np.zeros((8, 8, 3), np.uint8))
    assert "all of its images are held out" in all_of(check_data(PLAN, root, quiet=True), "errors")[0]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_size_from_the_header(tmp_path, suffix, rng):
    path = tmp_path / f"x.{suffix}"
    cv2.imwrite(str(path), rng.integers(0, 256, (33, 57, 3), np.uint8))
    assert read_size(path) == (33, 57)
    path.write_bytes(path.read_bytes() + b"a preview that some phones write behind")
    assert read_size(path) == (33, 57)
    for length in (30, 20, 10):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"^(broken|truncated)"):
            read_size(path)


def test_a_jpeg_header_that_leads_nowhere(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\0" + bytes(50))
    with pytest.raises(ValueError, match="broken: no size"):
        read_size(tmp_path / "x.jpg")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_has_the_size_that_decoders_show(tmp_path, order, orientation):
    encoded = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + encoded[2:])
    assert read_size(path) == cv2.imread(str(path)).shape[:2]


def test_other_formats_are_left_to_the_decoder(tmp_path):
    cv2.imwrite(str(tmp_path / "x.bmp"), np.zeros((5, 6), np.uint8))
    assert read_size(tmp_path / "x.bmp") is None
