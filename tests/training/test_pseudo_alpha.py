"""Mattes made from masks, on images whose alpha is known."""

import shutil

import cv2
import numpy as np
import pytest
from scipy import ndimage

from tests.training import drawn
from training.data.label_cleanup import clean_mask, unlabelled_skin
from training.data.pseudo_alpha import (
    cached_paths,
    make_pseudo_alpha,
    make_trimap,
    prepare,
)
from training.data.readers import DataError, read_grey, read_rgb, read_set


@pytest.fixture(scope="module")
def solved():
    """A disc with a soft edge on ground of another colour: image, alpha, matte and foreground colours."""
    rng = np.random.default_rng(4)
    alpha = drawn.soft_disc((128, 144), (63.5, 70.2), 42, 4)
    foreground = drawn.texture(rng, alpha.shape, np.array([215, 120, 50]), 6)
    background = drawn.texture(rng, alpha.shape, np.array([40, 90, 190]), 6)
    image = np.round(alpha[..., None] * foreground + (1 - alpha[..., None]) * background).astype(np.uint8)
    return image, alpha, make_pseudo_alpha(image, alpha > 0.5, "fur"), foreground


def test_the_band_is_nearer_to_the_truth_than_the_mask_is(solved):
    _, truth, matte, _ = solved
    band = matte.trimap == 128
    soft = (truth > 0) & (truth < 1)
    assert (soft & ~band).sum() == 0
    of_mask = np.abs((truth > 0.5) - truth)[band].mean()
    of_matte = np.abs(matte.alpha - truth)[band].mean()
    assert of_matte < 0.2 * of_mask


def test_outside_the_band_the_mask_holds(solved):
    matte = solved[2]
    assert (matte.alpha[matte.trimap == 255] == 1).all()
    assert (matte.alpha[matte.trimap == 0] == 0).all()
    assert (matte.weight[matte.trimap != 128] == 1).all()
    assert matte.alpha.dtype == matte.weight.dtype == np.float32
    assert (matte.weight >= 0.1 - 1e-6).all()
    assert matte.weight.max() <= 1


def test_the_foreground_has_lost_the_old_background(solved):
    image, truth, matte, colours = solved
    soft = (truth > 0.2) & (truth < 0.8)
    before = np.abs(image[soft] - colours[soft]).mean()
    after = np.abs(matte.foreground[soft] - colours[soft]).mean()
    assert after < 0.3 * before


def test_trimap_band_widths():
    mask = drawn.soft_disc((400, 400), (199.5, 199.5), 140, 1e-6) > 0.5
    size = np.sqrt(mask.sum())
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    for band, reach_in, reach_out in (("narrow", 0.010, 0.010), ("fur", 0.04, 0.06)):
        trimap = make_trimap(mask, band)
        assert trimap.dtype == np.uint8
        assert set(np.unique(trimap)) == {0, 128, 255}
        assert (trimap[inside > size * reach_in + 2] == 255).all()
        assert (trimap[outside > size * reach_out + 2] == 0).all()
        near = ((inside > 0) & (inside < size * reach_in - 1)) | (
            (outside > 0) & (outside < size * reach_out - 1)
        )
        assert near.any()
        assert (trimap[near] == 128).all()


def test_hair_band_is_wide_beside_hair_alone():
    mask = drawn.soft_disc((400, 400), (199.5, 199.5), 140, 1e-6) > 0.5
    hair = mask.copy()
    hair[200:] = False
    trimap = make_trimap(mask, "hair", hair)
    narrow, wide = make_trimap(mask, "narrow"), make_trimap(mask, "fur")
    np.testing.assert_array_equal(trimap[240:], narrow[240:])
    # Bands start at the outline, which is two pixels thick: so they agree to a pixel or two.
    assert (trimap[:160] != wide[:160]).mean() < 0.02
    assert (trimap[:160] == 128).sum() > 3 * (narrow[:160] == 128).sum()
    np.testing.assert_array_equal(make_trimap(mask, "hair", np.zeros_like(mask)), narrow)


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_border_is_taken_as_it_is(value):
    image = np.full((40, 50, 3), 99, np.uint8)
    matte = make_pseudo_alpha(image, np.full((40, 50), value), "narrow")
    assert (matte.alpha == value).all()


def test_clean_mask_fills_specks_and_drops_islands():
    mask = np.zeros((200, 200), bool)
    mask[40:160, 40:160] = True
    wanted = mask.copy()
    mask[100:103, 100:103] = False  # a hole of 9 pixels where 20 are the least
    mask[10:13, 10:14] = True  # an island of 12
    mask[60:150, 80] = False  # a seam
    mask[180:190, 180:190] = wanted[180:190, 180:190] = True  # large enough to stay
    mask[120:140, 60:75] = wanted[120:140, 60:75] = False  # an armpit, likewise
    wrong = clean_mask(mask) != wanted
    assert wrong.sum() <= 4  # closing seams may round the corners of the armpit
    assert not wrong[:119].any()


def test_prepare_writes_what_readers_expect(data_root, mattes):
    for sample in read_set(data_root, drawn.PEOPLE):
        paths = cached_paths(sample, mattes)
        image = read_rgb(sample.image)
        for kind in ("alpha", "weight", "trimap"):
            assert read_grey(paths[kind]).shape == image.shape[:2]
        assert set(np.unique(read_grey(paths["trimap"]))) == {0, 128, 255}
        assert read_rgb(paths["foreground"]).shape == image.shape


def test_prepare_goes_on_where_it_stopped(data_root, mattes, tmp_path):
    cache = shutil.copytree(mattes, tmp_path / "mattes")
    samples = read_set(data_root, drawn.PEOPLE)
    assert prepare(samples, "hair", cache, workers=1) == 0
    lost, kept = (cached_paths(samples[i], cache)["foreground"] for i in (4, 5))
    lost.unlink()
    kept.write_bytes(b"not made again")
    assert prepare(samples, "hair", cache, workers=1) == 1
    assert lost.is_file()
    assert kept.read_bytes() == b"not made again"
    assert not list(cache.rglob("*.part*"))


def test_prepare_names_a_mask_of_another_size_and_stops(data_root, tmp_path):
    root = shutil.copytree(data_root, tmp_path / "data")
    drawn.save(root / drawn.PEOPLE / "mask" / "photo_0.png", np.zeros((7, 9), np.uint8))
    with pytest.raises(DataError, match=r"mask/photo_0\.png: size \(7, 9\), but its image has \("):
        prepare(read_set(root, drawn.PEOPLE)[:1], "hair", tmp_path / "cache", workers=1)


def test_prepare_wants_masks(data_root, tmp_path):
    with pytest.raises(DataError, match="needs a folder mask/"):
        prepare(read_set(data_root, drawn.CUTOUTS), "hair", tmp_path)


def test_reading_gives_rgb_and_names_what_it_cannot_read(tmp_path):
    drawn.save(tmp_path / "a.png", np.full((2, 3, 3), (255, 10, 0), np.uint8))
    assert read_rgb(tmp_path / "a.png")[0, 0].tolist() == [255, 10, 0]
    assert cv2.imread(str(tmp_path / "a.png"))[0, 0].tolist() == [0, 10, 255]
    (tmp_path / "b.png").write_text("no picture")
    for read in (read_rgb, read_grey):
        with pytest.raises(DataError, match=r"b\.png: not a"):
            read(tmp_path / "b.png")


def portrait(shoulder_colour: tuple[int, int, int]):
    """A drawn head on grey whose mask lacks the shoulders: image, mask, hair, what is left out."""
    image = np.full((240, 200, 3), (120, 130, 140), np.uint8)
    layers = [np.zeros((240, 200), np.uint8) for _ in range(4)]
    shoulders, hair, head, neck = layers
    cv2.ellipse(shoulders, (100, 240), (80, 50), 0, 0, 360, 1, -1)
    cv2.ellipse(hair, (100, 80), (55, 60), 0, 0, 360, 1, -1)
    cv2.ellipse(head, (100, 100), (42, 60), 0, 0, 360, 1, -1)
    cv2.rectangle(neck, (82, 140), (118, 200), 1, -1)
    skin = (200, 150, 125)
    for layer, colour in ((shoulders, shoulder_colour), (hair, (60, 40, 30)), (head, skin), (neck, skin)):
        image[layer > 0] = colour
    mask = (hair | head | neck) > 0
    return image, mask, (hair > 0) & (head == 0), (shoulders > 0) & ~mask


def test_skin_that_a_portrait_mask_leaves_out_joins_the_subject():
    image, mask, hair, shoulders = portrait((200, 150, 125))
    skin, doubtful = unlabelled_skin(image, mask, hair)
    assert skin[shoulders].mean() > 0.95
    assert (skin & ~shoulders).mean() < 0.005
    assert not (skin & mask).any()
    assert not doubtful.any()
    assert make_pseudo_alpha(image, mask, "hair", hair).alpha[230, 60] > 0.95


def test_a_wall_of_the_colour_of_skin_is_neither_believed_nor_made_subject():
    image, mask, hair, _ = portrait((30, 40, 160))
    image[:, :50][~mask[:, :50]] = (198, 150, 128)
    image[190:210, 50:82] = (198, 150, 128)  # reaches the neck
    skin, doubtful = unlabelled_skin(image, mask, hair)
    assert not skin.any()
    assert doubtful[200, 10]
    weight = make_pseudo_alpha(image, mask, "hair", hair).weight
    assert (weight[doubtful] == 0).all()
    assert (weight[~doubtful] > 0).all()


def test_clothes_that_a_portrait_mask_leaves_out_are_no_skin():
    image, mask, hair, _ = portrait((30, 40, 160))
    skin, doubtful = unlabelled_skin(image, mask, hair)
    assert not skin.any()
    assert not doubtful.any()


def test_a_mask_of_hair_alone_has_no_face_to_learn_skin_from():
    image, _, hair, _ = portrait((200, 150, 125))
    skin, doubtful = unlabelled_skin(image, hair, hair)
    assert not skin.any()
    assert not doubtful.any()
