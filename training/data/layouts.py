"""Layouts of the public data sets on disk, once unpacked; see `training.data.readers`."""

from collections.abc import Iterable
from dataclasses import dataclass, field

ALPHA = ("mask", "alpha", "matte", "pha")  # in the public sets, a folder mask/ contains soft alphas
TRIMAP = ("trimap", "trimaps")
NO_PHOTOS = (
    *ALPHA,
    *TRIMAP,
    "hair",
    "weight",
    "facemask",
    "usr",
)  # folders that are skipped when searching for photos


def _each(places: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{place}/{name}" for name in names for place in places)


@dataclass(frozen=True)
class Layout:
    """Where the files of a set are.

    Attributes:
        about: Description of the published set.
        images: Patterns of the folders with its images, below the set's own folder; all folders that match
            the first matching pattern are used. "." is the set's own folder.
        labels: Label → possible names of its folder beside the images; the first that exists is used.
        needs: Labels that the set must have.
        beside: Patterns like `images`, below the data root, for sets that are unpacked there.
        nested: Images are in nested folders; folders in `NO_PHOTOS` are skipped.
        listed: Text file beside the images' folder, or one level up, that names the images to use.
        numbered: Images are named stem_k; a label of the same name takes precedence over one named stem.
    """

    about: str
    images: tuple[str, ...]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    nested: bool = False
    listed: str = ""
    numbered: bool = False


_BLURRED = ("blurred_image", "image")
_ORIGINAL = ("original_image", "original", "image")
_COMPOSITION = ("Combined_Dataset", ".")

LAYOUTS: dict[str, Layout] = {
    "plain": Layout(
        "image/ beside mask/ (binary, to be solved), hair/, alpha/ (and weight/, its confidence) or trimap/; "
        "or a flat folder of images",
        ("image", "."),
        {name: (name,) for name in ("mask", "hair", "alpha", "weight", "trimap")},
    ),
    "photos": Layout("any folder of images, including subfolders", (".",), nested=True),
    "p3m-10k": Layout(
        "P3M-10k, train: 9421 people with blurred faces",
        _each(("train", "."), (*_BLURRED, "original_image")),
        {"alpha": ALPHA},
        ("alpha",),
    ),
    "p3m-500-p": Layout(
        "P3M-500-P: 500 people with blurred faces",
        # In the first release only the name of the images' folder tells the two halves apart.
        (
            *_each(("validation/P3M-500-P", "P3M-500-P", "."), _BLURRED),
            *_each(("validation1", "validation2"), ("blurred_image",)),
        ),
        {"alpha": ALPHA, "trimap": TRIMAP},
        ("alpha",),
        beside=_each(("P3M-500-P",), _BLURRED),
    ),
    "p3m-500-np": Layout(
        "P3M-500-NP: 500 people as they are",
        (
            *_each(("validation/P3M-500-NP", "P3M-500-NP", "."), _ORIGINAL),
            *_each(("validation1", "validation2"), ("original_image",)),
        ),
        {"alpha": ALPHA, "trimap": TRIMAP},
        ("alpha",),
        beside=_each(("P3M-500-NP",), _ORIGINAL),
    ),
    "am-2k": Layout(
        "AM-2k, train: 1800 animals",
        _each(("train", "."), _ORIGINAL),
        {"alpha": ALPHA},
        ("alpha",),
    ),
    "am-2k-validation": Layout(
        "AM-2k, validation: 200 animals",
        _each(("validation", "."), _ORIGINAL),
        {"alpha": ALPHA, "trimap": TRIMAP},
        ("alpha",),
    ),
    "bg-20k": Layout(
        "BG-20k, train: backgrounds", ("train", "background/train"), beside=("background/train",)
    ),
    "bg-20k-testval": Layout(
        "BG-20k, testval: backgrounds", ("testval", "background/testval"), beside=("background/testval",)
    ),
    "aim-500": Layout(
        "AIM-500: 500 subjects of every kind, some of them see-through",
        _each((".", "validation"), _ORIGINAL),
        {"alpha": ALPHA, "trimap": TRIMAP},
        ("alpha",),
    ),
    "ppm-100": Layout(
        "PPM-100: 100 people, 1080p to 4k",
        ("image", "image_train", "*/fg", "fg"),
        {"alpha": (*ALPHA, "matte_train")},
        ("alpha",),
    ),
    "composition-1k": Layout(
        "Composition-1k, train: 431 foregrounds with their alphas, as cut-outs",
        _each(_COMPOSITION, ("Training_set/*/fg", "Training_set/fg")),
        {"alpha": ALPHA},
        ("alpha",),
        listed="training_fg_names.txt",
    ),
    "composition-1k-test": Layout(
        "Composition-1k, test: 50 foregrounds on 20 backgrounds each, merged by the user",
        _each(_COMPOSITION, ("Test_set/Adobe-licensed images/merged", "Test_set/merged", "merged")),
        {
            "alpha": ("alpha_copy", "alpha", "Adobe-licensed images/alpha"),
            "trimap": (*TRIMAP, "Adobe-licensed images/trimaps"),
        },
        ("alpha",),
        numbered=True,
    ),
    "rwp-636": Layout("RWP-636: 636 portraits", ("image",), {"alpha": ALPHA}, ("alpha",)),
    "ffhq": Layout(
        "FFHQ: 70000 faces, in folders of 1000 or flat",
        ("images1024x1024", "."),
        beside=("images1024x1024",),
        nested=True,
    ),
}
