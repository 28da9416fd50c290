"""Families of third-party networks: pre- and post-processing as their authors document it."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["none", "sigmoid", "minmax", "sigmoid+minmax"]
Fit = Literal["keep", "stretch"]
Triple = tuple[float, float, float]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF, _ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Processing:
    """Pre- and post-processing of a network.

    Attributes:
        mean: Subtracted from the colours, RGB in [0, 1].
        std: Divisor of the colours, after the subtraction.
        divides_by_max: Whether the colours are divided by their maximum first.
        size: Side of the square input, or of a square with as many pixels as the input.
        fit: `stretch` resizes every image to a square; `keep` keeps the image's aspect ratio.
        activation: Maps the output to alpha. `minmax` stretches each image's output to [0, 1]. The sigmoid is
            omitted if the network ends in one.
        stride: Dynamic sides are multiples of this.
    """

    mean: Triple
    std: Triple
    size: int
    fit: Fit = "stretch"
    activation: Activation = "none"
    divides_by_max: bool = False
    stride: int = 32


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
        name: Value of `--as`.
        title: Name for users.
        processing: Documented processing.
        source: Where the processing is documented.
        authors_licence: Licence that the authors state for their own weights; a file may have other weights.
        is_tried: Whether a real file of the family was imported and compared.
    """

    name: str
    title: str
    processing: Processing
    source: str
    authors_licence: str
    is_tried: bool = False


_REMBG = "github.com/danielgatis/rembg"
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "u2net",
            "U²-Net, U²-NetP, human_seg, silueta",
            Processing(_IMAGENET_MEAN, _IMAGENET_STD, 320, activation="minmax", divides_by_max=True),
            f"{_REMBG}, sessions/base.py and u2net.py; after github.com/xuebinqin/U-2-Net, u2net_test.py",
            "Apache-2.0",
            is_tried=True,
        ),
        Family(
            "isnet",
            "IS-Net of DIS",
            Processing(_HALF, _ONE, 1024, activation="minmax"),
            "github.com/xuebinqin/DIS, IS-Net/Inference.py",
            "Apache-2.0",
        ),
        Family(
            "imgly",
            "IS-Net as IMG.LY ships it",
            # The source computes (value - 128) / 256 for values from 0 to 255.
            Processing((128 / 255,) * 3, (256 / 255,) * 3, 1024),
            "github.com/imgly/background-removal-js, packages/web/src/utils.ts and inference.ts",
            "AGPL-3.0-only",
            is_tried=True,
        ),
        Family(
            "birefnet",
            "BiRefNet",
            Processing(_IMAGENET_MEAN, _IMAGENET_STD, 1024, activation="sigmoid"),
            "github.com/ZhengPeng7/BiRefNet, README.md",
            "MIT",
        ),
        Family(
            "rmbg-1.4",
            "RMBG 1.4 of BRIA",
            Processing(_HALF, _ONE, 1024, activation="minmax"),
            "huggingface.co/briaai/RMBG-1.4, README.md and utilities.py",
            "bria-rmbg-1.4 (non-commercial)",
        ),
        Family(
            "rmbg-2.0",
            "RMBG 2.0 of BRIA",
            Processing(_IMAGENET_MEAN, _IMAGENET_STD, 1024, activation="sigmoid"),
            f"huggingface.co/briaai/RMBG-2.0, README.md; {_REMBG}, sessions/bria_rmbg.py",
            "CC-BY-NC-4.0",
        ),
        Family(
            "ben2",
            "BEN2 Base",
            Processing(_IMAGENET_MEAN, _IMAGENET_STD, 1024, activation="minmax"),
            "github.com/PramaLLC/BEN2, src/ben2/modeling_ben2.py",
            "MIT",
        ),
        Family(
            "modnet",
            "MODNet",
            Processing(_HALF, _HALF, 512, fit="keep"),
            "github.com/ZHKKKe/MODNet, onnx/inference_onnx.py",
            "Apache-2.0",
        ),
        Family(
            "inspyrenet",
            "InSPyReNet",
            Processing(_IMAGENET_MEAN, _IMAGENET_STD, 1024, activation="sigmoid"),
            "github.com/plemeri/transparent-background, transparent_background/Remover.py",
            "MIT",
        ),
        Family(
            "ormbg",
            "Open RMBG",
            Processing((0.0, 0.0, 0.0), _ONE, 1024, activation="minmax"),
            "github.com/schirrmacher/ormbg, ormbg/inference.py",
            "Apache-2.0",
        ),
    )
}


@dataclass(frozen=True)
class KnownFile:
    """Licence and source of a file with known bytes, as its publisher states them."""

    licence: str
    source: str


# By SHA-256: only files that were examined, with the licences that their packages state.
KNOWN_FILES = {
    "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8": KnownFile(
        "Apache-2.0", "U²-NetP of github.com/xuebinqin/U-2-Net, as rembg publishes it"
    ),
    "b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb": KnownFile(
        "AGPL-3.0-only",
        "npm @imgly/background-removal-data 1.4.5, /models/medium; IS-Net itself is Apache-2.0",
    ),
    "7001d60734fdc112dd9c062635fb59cd401fb82a9d4213134bce4dbd655c803a": KnownFile(
        "AGPL-3.0-only",
        "npm @imgly/background-removal-data 1.4.5, /models/small; IS-Net itself is Apache-2.0",
    ),
}
