"""Every public layout, drawn as it is unpacked, with the traps that each of them has."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.drawn import save
from training.data.layouts import LAYOUTS
from training.data.readers import DataError, has_set, read_label, read_set

PHOTO = np.full((6, 8, 3), 90, np.uint8)
ALPHA = np.tile(np.linspace(0, 255, 8).astype(np.uint8), (6, 1))

TREES = {
    # layout: (folder of the set, files, {key: {label: file}})
    "p3m-10k": (
        "P3M-10k",
        ["train/blurred_image/p_1.jpg", "train/mask/p_1.png", "train/facemask/p_1.png"],
        {"p_1": {"alpha": "train/mask/p_1.png"}},
    ),
    "p3m-500-p": (
        "P3M-10k",
        [f"validation/P3M-500-P/{x}" for x in ("blurred_image/p_2.jpg", "mask/p_2.png", "trimap/p_2.png")],
        {
            "p_2": {
                k: f"validation/P3M-500-P/{f}/p_2.png" for k, f in (("alpha", "mask"), ("trimap", "trimap"))
            }
        },
    ),
    "p3m-500-np": (
        "P3M-10k",
        [f"validation/P3M-500-NP/{x}" for x in ("original_image/p_3.jpg", "mask/p_3.png", "trimap/p_3.png")],
        {
            "p_3": {
                k: f"validation/P3M-500-NP/{f}/p_3.png" for k, f in (("alpha", "mask"), ("trimap", "trimap"))
            }
        },
    ),
    "am-2k": (
        "AM-2k",
        ["train/original/m_1.jpg", "train/mask/m_1.png", "train/fg/m_1.png"],
        {"m_1": {"alpha": "train/mask/m_1.png"}},
    ),
    "am-2k-validation": (
        "AM-2k",
        ["validation/original/m_2.jpg", "validation/mask/m_2.png", "validation/trimap/m_2.png"],
        {"m_2": {"alpha": "validation/mask/m_2.png", "trimap": "validation/trimap/m_2.png"}},
    ),
    "bg-20k": ("BG-20k", ["train/h_1.jpg", "testval/h_2.jpg"], {"h_1": {}}),
    "bg-20k-testval": ("BG-20k", ["train/h_1.jpg", "testval/h_2.jpg"], {"h_2": {}}),
    "aim-500": (
        "AIM-500",
        ["original/o_1.jpg", "mask/o_1.png", "trimap/o_1.png", "usr/o_1.png"],
        {"o_1": {"alpha": "mask/o_1.png", "trimap": "trimap/o_1.png"}},
    ),
    "ppm-100": (
        "PPM-100",
        ["image/14299313536_ea3e61076c_o.jpg", "matte/14299313536_ea3e61076c_o.jpg"],
        {"14299313536_ea3e61076c_o": {"alpha": "matte/14299313536_ea3e61076c_o.jpg"}},
    ),
    "composition-1k": (
        "Adobe",
        [
            f"Combined_Dataset/Training_set/{part}/{kind}/{name}"
            for part, name in (("Adobe-licensed images", "a.jpg"), ("Other", "a.jpg"), ("Other", "b.png"))
            for kind in ("fg", "alpha")
        ],
        {
            "Adobe-licensed images/a": {
                "alpha": "Combined_Dataset/Training_set/Adobe-licensed images/alpha/a.jpg"
            },
            "Other/a": {"alpha": "Combined_Dataset/Training_set/Other/alpha/a.jpg"},
            "Other/b": {"alpha": "Combined_Dataset/Training_set/Other/alpha/b.png"},
        },
    ),
    "composition-1k-test": (
        "Adobe",
        [
            "Test_set/merged/girl_1_0.png",
            "Test_set/merged/girl_1_1.png",
            "Test_set/Adobe-licensed images/alpha/girl_1.png",
            "Test_set/trimaps/girl_1_0.png",
            "Test_set/trimaps/girl_1_1.png",
        ],
        {
            f"girl_1_{k}": {
                "alpha": "Test_set/Adobe-licensed images/alpha/girl_1.png",
                "trimap": f"Test_set/trimaps/girl_1_{k}.png",
            }
            for k in (0, 1)
        },
    ),
    "rwp-636": ("RWP", ["image/r_1.jpg", "alpha/r_1.png"], {"r_1": {"alpha": "alpha/r_1.png"}}),
    "ffhq": (
        "FFHQ",
        [
            "images1024x1024/00000/00000.png",
            "images1024x1024/01000/01000.png",
            "thumbnails128x128/00000/00000.png",
        ],
        {"00000/00000": {}, "01000/01000": {}},
    ),
    "photos": ("holidays", ["a.jpg", "day 2/a.JPG", "day 2/notes.txt"], {"a": {}, "day 2/a": {}}),
    "plain": (
        "own",
        ["image/x.png", "alpha/x.png", "trimap/x.png"],
        {"x": {"alpha": "alpha/x.png", "trimap": "trimap/x.png"}},
    ),
}


def unpack(base: Path, files: list[str]) -> None:
    for name in files:
        path = base / name
        if path.suffix == ".txt":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("no picture")
        else:
            is_label = path.parent.name in ("mask", "alpha", "trimap", "trimaps", "matte")
            save(path, ALPHA if is_label else PHOTO)


def read(root: Path, name: str, layout: str) -> dict[str, dict[str, str]]:
    samples = read_set(root, name, layout)
    return {
        s.key.removeprefix(f"{name}/"): {
            kind: p.relative_to(root / name).as_posix() for kind, p in s.labels.items()
        }
        for s in samples
    }


def test_every_layout_is_drawn_here():
    assert set(TREES) == set(LAYOUTS)


@pytest.mark.parametrize("layout", TREES)
def test_as_unpacked(tmp_path, layout):
    name, files, expected = TREES[layout]
    unpack(tmp_path / name, files)
    assert read(tmp_path, name, layout) == expected
    assert has_set(tmp_path, name, layout)


@pytest.mark.parametrize(
    ("layout", "name", "files"),
    [
        ("p3m-500-p", "P3M-500-P", ["blurred_image/p.jpg", "mask/p.png", "trimap/p.png"]),
        ("p3m-500-np", "P3M-10k", ["P3M-500-NP/original_image/p.jpg", "P3M-500-NP/matte/p.png"]),
        ("p3m-10k", "train", ["original_image/p.jpeg", "pha/p.PNG"]),
        ("am-2k", "AM-2k", ["train/image/m.png", "train/alpha/m.png"]),
        (
            "aim-500",
            "AIM-500",
            ["validation/original/o.jpg", "validation/mask/o.png", "validation/trimaps/o.png"],
        ),
        ("bg-20k", "data", ["background/train/h.jpg"]),
        ("ppm-100", "PPM", ["image_train/i.jpg", "matte_train/i.jpg"]),
        ("ppm-100", "PPM", ["train/fg/i.jpg", "train/alpha/i.jpg"]),
        (
            "composition-1k",
            "Combined_Dataset",
            ["Training_set/Other/fg/a.png", "Training_set/Other/alpha/a.png"],
        ),
        ("ffhq", "FFHQ", ["00000.png"]),
    ],
)
def test_other_trees_that_are_seen(tmp_path, layout, name, files):
    unpack(tmp_path / name, files)
    (sample,) = read_set(tmp_path, name, layout)
    assert sample.image == tmp_path / name / files[0]
    expected = {"alpha": files[1]} if len(files) > 1 else {}
    assert {k: p.relative_to(tmp_path / name).as_posix() for k, p in sample.labels.items()} == expected | (
        {"trimap": files[2]} if len(files) > 2 else {}
    )


@pytest.mark.parametrize(
    ("layout", "folder"), [("p3m-500-p", "blurred_image"), ("p3m-500-np", "original_image")]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_old_p3m_trees_tell_the_halves_apart_by_the_folder_of_the_images(tmp_path, layout, folder, swapped):
    halves = ["blurred_image", "original_image"][:: -1 if swapped else 1]
    for number, images in enumerate(halves, 1):
        unpack(tmp_path / f"P3M-10k/validation{number}", [f"{images}/{images}.jpg", f"mask/{images}.png"])
    assert list(read(tmp_path, "P3M-10k", layout)) == [folder]


def test_p3m_500_beside_the_training_part(tmp_path):
    unpack(tmp_path / "P3M-10k", TREES["p3m-10k"][1])
    unpack(tmp_path / "P3M-500-P", ["blurred_image/p_9.jpg", "mask/p_9.png"])
    assert [s.key for s in read_set(tmp_path, "P3M-10k", "p3m-500-p")] == ["P3M-10k/p_9"]
    assert not has_set(tmp_path, "P3M-10k", "p3m-500-np")


def test_both_parts_of_a_ppm_repack_are_read(tmp_path):
    unpack(
        tmp_path / "PPM", [f"{part}/{kind}/i.jpg" for part in ("train", "val") for kind in ("fg", "alpha")]
    )
    assert read(tmp_path, "PPM", "ppm-100") == {
        "train/i": {"alpha": "train/alpha/i.jpg"},
        "val/i": {"alpha": "val/alpha/i.jpg"},
    }


def test_a_list_of_foregrounds_says_which_count(tmp_path):
    name, files, _ = TREES["composition-1k"]
    unpack(tmp_path / name, files)
    names = tmp_path / name / "Combined_Dataset/Training_set/training_fg_names.txt"
    names.write_text("b.jpg\n\n")  # converted to PNG since
    assert list(read(tmp_path, name, "composition-1k")) == ["Other/b"]
    names.write_text("b.jpg\nc.jpg\n")
    with pytest.raises(DataError, match=r"1 images of training_fg_names\.txt are missing, first c"):
        read_set(tmp_path, name, "composition-1k")


def test_an_alpha_of_its_own_comes_before_that_of_the_foreground(tmp_path):
    unpack(tmp_path / "T", ["merged/a_3.png", "alpha_copy/a_3.png", "alpha_copy/a.png"])
    assert read(tmp_path, "T", "composition-1k-test") == {"a_3": {"alpha": "alpha_copy/a_3.png"}}


def test_files_of_a_mac_are_passed_over(tmp_path):
    unpack(tmp_path / "P", ["a.jpg"])
    (tmp_path / "P" / "._a.jpg").write_bytes(b"\0\5\26\7")
    (tmp_path / "P" / ".thumbnails").mkdir()
    save(tmp_path / "P" / ".thumbnails" / "b.jpg", PHOTO)
    assert list(read(tmp_path, "P", "photos")) == ["a"]


@pytest.mark.parametrize(
    ("layout", "files", "message"),
    [
        (
            "p3m-10k",
            ["image.txt"],
            "set: does not have the layout p3m-10k: it has none of train/blurred_image",
        ),
        ("p3m-10k", ["train/blurred_image/x.txt", "train/mask/p.png"], "blurred_image: no images in it"),
        (
            "p3m-10k",
            ["train/blurred_image/p.jpg"],
            "blurred_image: no alpha beside it; .* mask, alpha, matte",
        ),
        (
            "am-2k",
            ["train/original/a.jpg", "train/original/b.jpg", "train/mask/a.png"],
            r"set: 1 images have no alpha, first b\.jpg",
        ),
        ("photos", ["notes.txt"], "set: no images"),
    ],
)
def test_trees_that_do_not_fit_are_named(tmp_path, layout, files, message):
    unpack(tmp_path / "set", files)
    with pytest.raises(DataError, match=message):
        read_set(tmp_path, "set", layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_is_not_there(tmp_path, layout):
    with pytest.raises(DataError, match="nowhere: no such data set folder"):
        read_set(tmp_path, "nowhere", layout)
    assert not has_set(tmp_path, "nowhere", layout)


def test_labels_are_their_channel_0(tmp_path):
    odd = np.dstack([ALPHA, ALPHA // 2, np.zeros_like(ALPHA)])
    for name, label in (("grey", ALPHA), ("rgb", odd), ("rgba", np.dstack([odd, ALPHA // 3]))):
        save(tmp_path / f"{name}.png", label)
        np.testing.assert_array_equal(read_label(tmp_path / f"{name}.png"), ALPHA)
    with pytest.raises(DataError, match=r"none\.png: not a readable label"):
        read_label(tmp_path / "none.png")
