from pathlib import Path

import numpy as np
import pytest

from stylematte.engines.base import Contract
from stylematte.errors import InputError, UsageError
from tests.conftest import red_detector

METADATA = {prop.key: prop.value for prop in red_detector().metadata_props}


def contract(**changes: str) -> Contract:
    return Contract.from_metadata(METADATA | {f"stylematte.{k}": v for k, v in changes.items()}, "red.onnx")


def test_reads_every_value() -> None:
    read = contract(provenance='{"sets": {"portraits": 12}}')
    assert (read.preset, read.working_size, read.stride) == ("red-detector", 128, 32)
    assert (read.upsampler, read.radius_px, read.eps) == ("fast_gf", 1, 1e-4)
    assert read.provenance == {"sets": {"portraits": 12}}
    assert read.licence == "CC0-1.0"


def test_page_names_every_key_that_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "model-contract.md").read_text(encoding="utf-8")
    assert [key for key in METADATA if f"`{key}`" not in page] == []


def test_grey_is_mean_of_normalised_channels(rng: np.random.Generator) -> None:
    read = contract()
    colour = rng.random(3)
    normalised = (colour - np.array(read.mean)) / np.array(read.std)
    grey = float(np.dot(read.grey_weights, colour)) + read.grey_offset
    assert grey == pytest.approx(normalised.mean(), abs=1e-12)


def test_file_of_another_tool_is_refused() -> None:
    with pytest.raises(InputError, match=r"u2net\.onnx: not a StyleMatte model") as error:
        Contract.from_metadata({"author": "somebody"}, "u2net.onnx")
    assert "stylematte export" in error.value.hint


def test_unknown_version_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="version 3, but this tool reads 1 and 2") as error:
        contract(contract="3")
    assert "Update stylematte" in error.value.hint


def test_version_1_says_nothing_of_what_version_2_added() -> None:
    metadata = {prop.key: prop.value for prop in red_detector("1").metadata_props}
    read = Contract.from_metadata(metadata, "red.onnx")
    assert (read.fit, read.good_sizes, read.refiner) == ("keep", None, "")
    assert read.working_size_for(1000, 2000) == contract().working_size_for(1000, 2000)
    assert read.warning_for(4096) == ""


def test_version_2_says_what_is_new() -> None:
    read = contract(good_sizes="320,640", fit="stretch", refiner="hair.onnx", refiner_sha256="ab" * 32)
    assert (read.good_sizes, read.fit) == ((320, 640), "stretch")
    assert (read.refiner, read.refiner_sha256) == ("hair.onnx", "ab" * 32)
    assert contract(good_sizes="").good_sizes is None
    lacking = {key: value for key, value in METADATA.items() if key != "stylematte.fit"}
    with pytest.raises(InputError, match=r"lacks 'stylematte\.fit'"):
        Contract.from_metadata(lacking, "red.onnx")


@pytest.mark.parametrize(
    ("size", "warning"),
    [
        (64, ""),
        (256, ""),
        (None, ""),
        (257, "red-detector was trained at sizes from 64 to 256; at 257 it loses subjects"),
        (32, "red-detector was trained at sizes from 64 to 256; at 32 it loses details"),
    ],
)
def test_sizes_that_the_network_is_not_good_at(size: int | None, warning: str) -> None:
    assert contract().warning_for(size) == warning
    assert contract(good_sizes="").warning_for(size) == ""


@pytest.mark.parametrize("image", [(1000, 1000), (600, 1800), (3, 4000)])
def test_a_stretched_image_is_a_square_whatever_its_shape(image: tuple[int, int]) -> None:
    read = contract(fit="stretch", working_size="320")
    assert read.working_size_for(*image) == (320, 320)
    assert read.working_size_for(*image, size=200) == (192, 192)
    fixed = contract(fit="stretch", working_size="1024", working_sizes="1024x1024")
    assert fixed.working_size_for(*image) == fixed.working_size_for(*image, size=512) == (1024, 1024)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stride", "many"),
        ("stride", "0"),
        ("mean", "0.5"),
        ("std", "0,1,1"),
        ("parity", "[]"),
        ("parity", "{"),
        ("working_sizes", "64x64,96"),
        ("std", "nan,1,1"),
        ("mean", "inf,1,1"),
        ("eps", "nan"),
        ("good_sizes", "512"),
        ("good_sizes", "640,320"),
        ("good_sizes", "0,320"),
        ("fit", "crop"),
    ],
)
def test_damaged_value_is_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match="damaged"):
        contract(**{key: value})


def test_lacking_key_is_named() -> None:
    metadata = {key: value for key, value in METADATA.items() if key != "stylematte.eps"}
    with pytest.raises(InputError, match=r"lacks 'stylematte\.eps'"):
        Contract.from_metadata(metadata, "red.onnx")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((3000, 4000), (480, 640)),
        ((2000, 3000), (448, 672)),
        ((900, 900), (512, 512)),
        ((4000, 3000), (640, 480)),
    ],
)
def test_usual_shapes_are_kept_exactly(image: tuple[int, int], expected: tuple[int, int]) -> None:
    assert contract(working_size="512").working_size_for(*image) == expected


@pytest.mark.parametrize("size", [128, 256, 512, 768])
def test_every_shape_up_to_four_to_one_is_nearly_kept(size: int) -> None:
    read = contract()
    for ratio in np.linspace(1, 4, 60):
        for height, width in ((1000, round(1000 * ratio)), (round(1000 * ratio), 1000)):
            h, w = read.working_size_for(height, width, size)
            assert h % 32 == w % 32 == 0
            # No rounding to multiples of 32 does better than half a step of the shorter side.
            assert abs(np.log((w / h) / (width / height))) < np.log(1 + 16 / min(h, w))
            assert 0.4 < h * w / size**2 < 2


def test_wide_screen_loses_less_than_two_percent_of_its_shape() -> None:
    h, w = contract().working_size_for(1080, 1920, 512)
    assert abs((w / h) / (1920 / 1080) - 1) < 0.02


def test_strips_end_at_twice_the_size() -> None:
    assert contract().working_size_for(3, 20000, 512) == (32, 1024)
    assert contract().working_size_for(20000, 3, 512) == (1024, 32)
    assert contract().working_size_for(1, 1, 500) == (512, 512)


def test_size_below_the_stride_is_refused() -> None:
    with pytest.raises(UsageError, match="size 16: model red-detector needs at least 32"):
        contract().working_size_for(100, 100, 16)


def test_a_file_of_fixed_sizes_sees_every_image_at_the_nearest_of_them() -> None:
    read = contract(working_sizes="128x128,96x160,160x96")
    assert read.working_sizes == ((128, 128), (96, 160), (160, 96))
    assert read.working_size_for(1000, 1000) == (128, 128)
    assert read.working_size_for(1080, 1920) == (96, 160)
    assert read.working_size_for(4000, 1000, size=512) == (160, 96)


def test_files_from_before_precisions_are_float32_of_every_size() -> None:
    assert (contract().precision, contract().working_sizes) == ("fp32", ())
    assert contract(precision="int8").precision == "int8"
