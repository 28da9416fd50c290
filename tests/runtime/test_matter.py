from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

import stylematte
from export.precision import set_metadata
from stylematte.engines import open_engine
from stylematte.errors import InputError, UsageError
from stylematte.imaging.geometry import convert
from stylematte.matter import Matter
from tests.conftest import red_detector

GREY = (128, 128, 128)


@pytest.fixture
def matter(red_model: Path) -> Matter:
    return Matter(open_engine(red_model, device="cpu"))


def red_disc(size: tuple[int, int], radius_px: float, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A red disc on grey; `centre` as a share of the height and of the width."""
    y, x = np.mgrid[: size[0], : size[1]]
    inside = np.hypot(y + 0.5 - centre[0] * size[0], x + 0.5 - centre[1] * size[1]) < radius_px
    return np.where(inside[..., None], (255, 0, 0), GREY).astype(np.uint8)


@pytest.mark.parametrize("size", [(240, 240), (180, 540), (600, 200), (333, 499), (719, 1279)])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.4, 0.6)])
def test_alpha_lies_where_the_subject_is(
    matter: Matter, size: tuple[int, int], centre: tuple[float, float]
) -> None:
    """The disc comes back as a disc in its place: nothing stretched, squashed or shifted."""
    radius = min(size) * 0.3
    alpha = matter(red_disc(size, radius, centre)).alpha
    assert alpha.shape == size
    truth = red_disc(size, radius, centre)[..., 0] == 255
    # The network sees 128² pixels' worth; be strict but for one of its pixels either side of the edge.
    coarse_px = (size[0] * size[1]) ** 0.5 / 128 * 4
    assert alpha[red_disc(size, radius - coarse_px, centre)[..., 0] == 255].min() > 0.9
    assert alpha[red_disc(size, radius + coarse_px, centre)[..., 0] != 255].max() < 0.1
    y, x = np.mgrid[: size[0], : size[1]]
    for axis in (y, x):
        assert np.average(axis, weights=alpha) == pytest.approx(axis[truth].mean(), abs=0.3 * coarse_px)
        spread = np.sqrt(np.cov(axis.ravel(), aweights=alpha.ravel()))
        assert spread == pytest.approx(axis[truth].std(), rel=0.05)


@pytest.mark.parametrize("size", [(200, 300), (97, 61)])
def test_image_and_its_enlarged_copy_agree(matter: Matter, size: tuple[int, int]) -> None:
    image = cv2.GaussianBlur(red_disc(size, min(size) * 0.3), (0, 0), 2)
    alpha = matter(image).alpha
    larger = matter(cv2.resize(image, (2 * size[1], 2 * size[0]), interpolation=cv2.INTER_CUBIC)).alpha
    back = cv2.resize(larger, size[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(back - alpha)
    assert difference.mean() < 0.003
    assert np.quantile(difference, 0.99) < 0.1


def test_image_without_subject_gives_an_empty_matte(matter: Matter, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (300, 400, 1), dtype=np.uint8).repeat(3, axis=2)
    assert matter(image).alpha.max() < 0.01
    assert matter.batch([np.full((50, 60, 3), (0, 0, 255), np.uint8)])[0].alpha_as(np.uint8).max() == 0


def test_batch_keeps_order_and_shares_passes(red_model: Path) -> None:
    engine = open_engine(red_model, device="cpu")
    calls: list[int] = []

    class Counting:
        contract, name, provider, lanes = engine.contract, engine.name, engine.provider, engine.lanes

        def coefficients(self, images: np.ndarray) -> np.ndarray:
            calls.append(len(images))
            return engine.coefficients(images)

    matter = Matter(Counting())
    sizes = [(120, 160), (90, 90), (240, 320), (60, 60), (33, 44)]
    images = [red_disc(size, 20 + i) for i, size in enumerate(sizes)]
    together = matter.batch(images, copy=False)
    assert calls == [3, 2]
    for image, matte in zip(images, together, strict=True):
        assert matte.image is image or np.shares_memory(matte.image, image)
        np.testing.assert_allclose(matte.alpha, matter(image).alpha, atol=1e-5)
    assert matter.batch([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (41, 1), (2, 5000), (3, 3)])
def test_smallest_and_thinnest_images(matter: Matter, size: tuple[int, int]) -> None:
    for colour, expected in (((255, 0, 0), 1), (GREY, 0)):
        matte = matter(np.full((*size, 3), colour, np.uint8))
        np.testing.assert_allclose(matte.alpha, np.full(size, expected), atol=0.01)
        assert matte.cutout().shape == (*size, 4)


def test_depths_agree(matter: Matter) -> None:
    image = cv2.GaussianBlur(red_disc((90, 120), 30), (0, 0), 1.5)
    expected = matter(image).alpha
    for dtype in (np.uint16, np.float32):
        # 8 bits round the image at working size to half a level.
        np.testing.assert_allclose(matter(convert(image, dtype)).alpha, expected, atol=0.03)


def test_grey_and_rgba_are_taken(matter: Matter) -> None:
    rgba = np.dstack([red_disc((60, 80), 20), np.zeros((60, 80), np.uint8)])
    np.testing.assert_array_equal(matter(rgba).alpha, matter(rgba[..., :3].copy()).alpha)
    grey = matter(rgba[..., 1])
    assert grey.image.shape == (60, 80, 3)
    assert grey.alpha.max() < 0.01


def test_a_prior_is_believed_where_it_is_given(tmp_path: Path) -> None:
    onnx.save(red_detector(prior=True), tmp_path / "believer.onnx")
    matter = Matter(open_engine(tmp_path / "believer.onnx", device="cpu"))
    image = np.full((120, 160, 3), GREY, np.uint8)
    disc = red_disc((120, 160), 40)[..., 0] == 255
    priors = [np.where(disc, white, 0).astype(kind) for kind, white in ((np.uint8, 255), (np.float32, 1))]
    inside, outside = (red_disc((120, 160), r)[..., 0] == 255 for r in (32, 48))
    for prior in (*priors, cv2.resize(priors[1], (320, 240))):
        alpha = matter(image, prior).alpha
        assert alpha[inside].min() > 0.9
        assert alpha[~outside].max() < 0.1
    nothing = matter(image).alpha
    assert nothing.max() < 0.01
    np.testing.assert_array_equal(matter(image, np.zeros((5, 5), np.float32)).alpha, nothing)
    mixed = matter.batch([image, image], [None, priors[1]])
    np.testing.assert_allclose(mixed[0].alpha, nothing, atol=1e-6)
    np.testing.assert_allclose(mixed[1].alpha, matter(image, priors[1]).alpha, atol=1e-5)


def test_priors_that_cannot_be_meant(matter: Matter, tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="model red-detector takes no prior"):
        matter(image, np.zeros((8, 8), np.float32))
    onnx.save(red_detector(prior=True), tmp_path / "believer.onnx")
    believer = Matter(open_engine(tmp_path / "believer.onnx", device="cpu"))
    with pytest.raises(InputError, match=r"an alpha of shape \(8, 8, 3\)"):
        believer(image, np.zeros((8, 8, 3), np.float32))
    for wrong in (np.full((8, 8), 2, np.float32), np.full((8, 8), np.nan, np.float32)):
        with pytest.raises(InputError, match="float alphas from"):
            believer(image, wrong)
    with pytest.raises(UsageError, match="1 priors for 2 images"):
        believer.batch([image, image], [None])


def test_a_size_that_the_model_is_not_good_at_is_told_in_one_line(
    red_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(red_model, device="cpu")
    with caplog.at_level("WARNING", "stylematte"):
        Matter(engine)
        Matter(engine, 256)
        Matter(engine, 1024)
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "red-detector was trained at sizes from 64 to 256; at 1024 it loses subjects"
    ]


def test_a_stretched_image_comes_back_in_its_own_shape(tmp_path: Path) -> None:
    model = red_detector()
    set_metadata(model, "fit", "stretch")
    onnx.save(model, tmp_path / "square.onnx")
    matter = Matter(open_engine(tmp_path / "square.onnx", device="cpu"))
    image = red_disc((200, 600), 60)
    matte = matter(image)
    assert matte.coefficients.shape == (2, 32, 32)
    assert matte.alpha[image[..., 1] == 0].mean() > 0.85  # a coarse pixel is 19 wide
    assert matte.alpha.shape == (200, 600)
    x = np.mgrid[:200, :600][1]
    assert np.average(x, weights=matte.alpha) == pytest.approx(299.5, abs=3)


def test_files_of_version_1_keep_running(red_model: Path, tmp_path: Path) -> None:
    onnx.save(red_detector("1"), tmp_path / "old.onnx")
    image = cv2.GaussianBlur(red_disc((150, 210), 50), (0, 0), 2)
    alphas = [Matter(open_engine(p, device="cpu"))(image).alpha for p in (red_model, tmp_path / "old.onnx")]
    np.testing.assert_allclose(*alphas, atol=1e-6)


def test_size_changes_what_the_network_sees(red_model: Path) -> None:
    engine = open_engine(red_model, device="cpu")
    matte = Matter(engine, size=256)(red_disc((300, 300), 80))
    assert matte.coefficients.shape == (2, 64, 64)
    with pytest.raises(UsageError, match="size 8"):
        Matter(engine, size=8)


def test_bad_image_is_refused(matter: Matter) -> None:
    with pytest.raises(InputError, match="float64"):
        matter(np.zeros((4, 4, 3)))


def test_cutout_foreground_and_composites(matter: Matter) -> None:
    image = cv2.GaussianBlur(red_disc((200, 260), 60), (0, 0), 2)
    matte = matter(image)
    cut = matte.cutout()
    np.testing.assert_array_equal(cut[..., :3], matte.foreground)
    np.testing.assert_array_equal(cut[..., 3], matte.alpha_as(np.uint8))
    assert matte.foreground is matte.foreground
    # The grey that the blur mixed into the disc's rim is taken out again.
    rim = (matte.alpha > 0.3) & (matte.alpha < 0.7)
    assert rim.any()
    assert matte.foreground[rim][:, 0].mean() > image[rim][:, 0].mean() + 10

    green = matte.composite("#00ff00")
    np.testing.assert_array_equal(green, matte.composite((0, 255, 0)))
    np.testing.assert_array_equal(green[0, 0], (0, 255, 0))
    np.testing.assert_array_equal(green[100, 130], image[100, 130])
    assert matte.composite(np.zeros((10, 10, 3), np.uint8))[0, 0].max() == 0
    assert np.abs(matte.composite("blur:10")[0, 0].astype(int) - GREY).max() <= 1
    with pytest.raises(UsageError, match="no-colour"):
        matte.composite("no-colour")


def test_load_opens_a_file_or_a_name(
    red_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path))
    (tmp_path / "red.onnx").write_bytes(red_model.read_bytes())
    image = red_disc((64, 64), 20)
    for weights in (red_model, str(red_model), "red"):
        matter = stylematte.load(weights, device="cpu", threads=1)
        assert isinstance(matter, stylematte.Matter)
        assert isinstance(matter(image), stylematte.Matte)


def test_what_is_no_image_is_one_clear_error(matter: Matter) -> None:
    for wrong in (None, "photo.jpg", [[1, 2], [3, 4]], 5):
        with pytest.raises(
            TypeError, match=f"an image is a NumPy array or a Pillow image, not {type(wrong).__name__}"
        ):
            matter(wrong)
    for dtype in (bool, np.int64, np.float64, np.float16):
        with pytest.raises(InputError, match="not supported"):
            matter(np.zeros((40, 60, 3), dtype))


def test_pillow_images_are_taken(matter: Matter, rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    expected = matter(array[:, :, :3]).alpha
    for image in (Image.fromarray(array[:, :, :3]), Image.fromarray(array)):
        np.testing.assert_array_equal(matter(image).alpha, expected)
    grey = Image.fromarray(array[:, :, 0])
    np.testing.assert_array_equal(matter(grey).alpha, matter(array[:, :, 0]).alpha)
    deep = Image.fromarray(array[:, :, 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(matter(deep).alpha, matter(array[:, :, 0].astype(np.uint16) * 257).alpha)


def test_an_array_that_changes_later_does_not_reach_the_matte(matter: Matter) -> None:
    frame = np.full((40, 60, 3), (255, 0, 0), np.uint8)
    matte = matter(frame)
    frame[:] = 0
    assert matte.cutout()[20, 30].tolist() == [255, 0, 0, 255]
