"""Compile-time options and launch grids of the kernels in guided_filter.cu."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from stylematte.errors import InputError

THREADS = 256  # per block, for both kernels
SPAN_PX = 512  # part of a row that 32 threads of fgf_apply compute
SHARED_BYTES = 48 * 1024  # shared memory of a launch without opt-in
MOST_RADIUS_PX = 16
# Limit of the batch (the grid's z has no more) and of height and width (positions are 32-bit products).
MOST_SIZE = 65535

STORAGE = {"float32": "float", "float16": "Half", "uint8": "unsigned char"}
LAYOUTS = ("grey", "planar", "interleaved")

Cdiv = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Grey:
    """The conversion of RGB in [0, 1] to the grey guide: grey = Σ_c weights_c · colour_c + offset.

    Attributes:
        weights: Weights of red, green, blue.
        offset: Offset added to the weighted sum.
    """

    weights: tuple[float, float, float]
    offset: float

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Grey":
        """Return the channel mean of (colour − mean) / std, as defined in docs/model-contract.md."""
        red, green, blue = (1 / (3 * s) for s in std)
        return cls((red, green, blue), -sum(m / s for m, s in zip(mean, std, strict=True)) / 3)


@dataclass(frozen=True)
class CoefficientsKernel:
    """The kernel that computes A and b from the coarse guide and logits.

    Attributes:
        radius_px: Box radius in coarse pixels, 1 to 16.
        eps: Regulariser, in squared units of the guide.
        coarse: Storage type of guide and logits, float32 or float16.
        coefficients: Storage type of A and b, float32 or float16.

    Raises:
        InputError: A value is not supported.
    """

    name: ClassVar[str] = "fgf_coefficients"
    block: ClassVar[tuple[int, int, int]] = (THREADS, 1, 1)

    radius_px: int
    eps: float
    coarse: str = "float32"
    coefficients: str = "float32"

    def __post_init__(self) -> None:
        if not 1 <= self.radius_px <= MOST_RADIUS_PX:
            raise InputError(f"radius {self.radius_px} px: the kernel takes 1 to {MOST_RADIUS_PX}")
        if not self.eps > 0:
            raise InputError(f"eps {self.eps}: the kernel takes a positive number")
        _check_storage("coarse guide and logits", self.coarse, ("float32", "float16"))
        _check_storage("coefficients", self.coefficients, ("float32", "float16"))

    @property
    def tile_px(self) -> int:
        """Side of a block's output tile: 16, or 8 if 16 needs too much shared memory."""
        rows, side = 16 + 4 * self.radius_px, 16 + 2 * self.radius_px
        return 16 if 4 * 4 * rows * side <= SHARED_BYTES else 8

    def definitions(self) -> dict[str, str]:
        """Return the macros for the compiler."""
        return {
            "FGF_RADIUS": str(self.radius_px),
            "FGF_EPS": _literal(self.eps),
            "FGF_TILE": str(self.tile_px),
            "FGF_THREADS": str(THREADS),
            "FGF_COARSE": STORAGE[self.coarse],
            "FGF_COEFFICIENTS": STORAGE[self.coefficients],
        }

    def grid(self, batch: Any, height: Any, width: Any, cdiv: Cdiv) -> tuple[Any, Any, Any]:
        """Return the blocks in x, y, z for coarse planes of (height, width); `cdiv` divides and rounds up.

        The sizes are integers, or TensorRT expressions with TensorRT's `cdiv`.
        """
        return cdiv(width, self.tile_px), cdiv(height, self.tile_px), batch


@dataclass(frozen=True)
class ApplyKernel:
    """The kernel that computes alpha from A, b and the full-size guide.

    Attributes:
        layout: Layout of the guide: `grey` (N,1,H,W), `planar` RGB (N,3,H,W) or `interleaved` RGB (N,H,W,3).
        grey: Conversion of RGB to grey; None for the layout `grey`, required for the others.
        coefficients: Storage type of A and b, float32 or float16.
        guide: Storage type of the guide: float32 or float16, with RGB in [0, 1]; or uint8 for RGB.
        alpha: Storage type of alpha: float32 or float16 in [0, 1], or uint8 with 255 for 1.

    Raises:
        InputError: A value is not supported.
    """

    name: ClassVar[str] = "fgf_apply"
    block: ClassVar[tuple[int, int, int]] = (32, THREADS // 32, 1)

    layout: str = "grey"
    grey: Grey | None = None
    coefficients: str = "float32"
    guide: str = "float32"
    alpha: str = "float32"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"layout {self.layout!r}: the kernel takes {', '.join(LAYOUTS)}")
        if (self.layout == "grey") != (self.grey is None):
            raise InputError("an RGB guide needs its grey weights, and a grey guide has none")
        _check_storage("coefficients", self.coefficients, ("float32", "float16"))
        _check_storage(
            f"{self.layout} guide",
            self.guide,
            ("float32", "float16") if self.grey is None else tuple(STORAGE),
        )
        _check_storage("alpha", self.alpha, tuple(STORAGE))

    def definitions(self) -> dict[str, str]:
        """Return the macros for the compiler."""
        macros = {f"FGF_{name.upper()}": str(number) for number, name in enumerate(LAYOUTS)}
        macros |= {
            "FGF_LAYOUT": f"FGF_{self.layout.upper()}",
            "FGF_THREADS": str(THREADS),
            "FGF_SPAN": str(SPAN_PX),
            "FGF_COEFFICIENTS": STORAGE[self.coefficients],
            "FGF_GUIDE": STORAGE[self.guide],
            "FGF_ALPHA": STORAGE[self.alpha],
        }
        if self.grey is not None:
            white = 255 if self.guide == "uint8" else 1
            for name, weight in zip(("RED", "GREEN", "BLUE"), self.grey.weights, strict=True):
                macros[f"FGF_{name}"] = _literal(weight / white)
            macros["FGF_OFFSET"] = _literal(self.grey.offset)
        return macros

    def grid(self, batch: Any, height: Any, width: Any, cdiv: Cdiv) -> tuple[Any, Any, Any]:
        """Return the blocks in x, y, z for an image of (height, width); see `CoefficientsKernel.grid`."""
        # To align their stores, groups of four pixels may begin up to three pixels left of the row.
        return cdiv(width + 3, SPAN_PX), cdiv(height, self.block[1]), batch


Kernel = CoefficientsKernel | ApplyKernel


def _literal(value: float) -> str:
    # In parentheses, because a negative number may follow a sign in the source.
    return f"({float(value)!r}f)"


def _check_storage(what: str, storage: str, allowed: tuple[str, ...]) -> None:
    if storage not in allowed:
        raise InputError(f"{what} in {storage}: the kernel takes {', '.join(allowed)}")
