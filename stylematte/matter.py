"""Matter: image in, matte out. Joins preprocessing, engine and post-processing."""

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.engines.base import Contract, DeviceCoefficients, Engine
from stylematte.errors import MissingError, UsageError
from stylematte.imaging import compose
from stylematte.imaging.closer import (
    Closer,
    apply_closer,
    as_fractions,
    find_window,
    in_band,
    in_pixels,
    in_window,
    prior_of,
)
from stylematte.imaging.foreground import estimate_foreground
from stylematte.imaging.geometry import (
    ImageArray,
    Window,
    as_alpha,
    as_array,
    as_rgb,
    convert,
    resize,
    resize_to_working,
    to_float,
)
from stylematte.imaging.guided_filter import apply_coefficients
from stylematte.imaging.refinement import Patch, apply_patches, parse_detail, refine

if TYPE_CHECKING:
    from PIL.Image import Image

    from stylematte.engines.refiner import Refiner

log = logging.getLogger("stylematte")


@dataclass(eq=False)
class Matte:
    """The result for one image. Full-size arrays are computed at their first use.

    Attributes:
        image: (H, W, 3) RGB as given; uint8, uint16 or float32 in [0, 1].
        coefficients: (2, h', w') float32 coefficients of the guided filter, from the network; or an object
            that holds them on a GPU and computes the alpha there.
        contract: Contract of the model.
        given_alpha: (H, W) alpha that replaces the computed one, for example of a stabilised clip.
        detail: Refines the uncertain band; None keeps the coarse alpha.
        closer: The network's closer look at the subject.
    """

    image: ImageArray
    coefficients: NDArray[np.float32] | DeviceCoefficients
    contract: Contract
    given_alpha: NDArray[Any] | None = None
    detail: "Detail | None" = None
    closer: Closer | None = None

    @cached_property
    def alpha(self) -> NDArray[np.float32]:
        """(H, W) opacity, float32 in [0, 1]."""
        return np.asarray(self.alpha_as(np.float32), np.float32)

    def alpha_as(self, dtype: DTypeLike) -> NDArray[Any]:
        """Compute alpha in any dtype, without a full-size float array in between.

        Args:
            dtype: uint8 or uint16, with 255 or 65535 for 1; or float32.

        Returns:
            (H, W) opacity.
        """
        if self.given_alpha is not None:
            return convert(self.given_alpha, dtype)
        if not isinstance(self.coefficients, np.ndarray):
            return self.coefficients.alpha_as(self.image, dtype)
        return apply_patches(self._coarse(self.image, dtype=dtype), self._patches)

    def _coarse(
        self, image: ImageArray, window: Window | None = None, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """Compute the coarse alpha of the image at any size, or of a window of it."""
        assert isinstance(self.coefficients, np.ndarray)
        guide = self.contract.grey_weights, self.contract.grey_offset
        alpha = apply_coefficients(self.coefficients, image, *guide, dtype, window)
        return alpha if self.closer is None else apply_closer(alpha, image, self.closer, *guide, window)

    @cached_property
    def _patches(self) -> list[Patch]:
        """The refiner's patches, independent of the dtype of alpha."""
        refiner, budget_px, _ = self.detail or Detail(None, 0)
        if refiner is None:
            return []
        assert isinstance(self.coefficients, np.ndarray)
        grid = self.coefficients.shape[1], self.coefficients.shape[2]
        return refine(self.image, self._coarse, grid, refiner, refiner.tiles, budget_px)

    @cached_property
    def foreground(self) -> ImageArray:
        """(H, W, 3) un-premultiplied RGB, dtype of the image: the subject without the old background."""
        return estimate_foreground(self.image, self._alpha_like_image)

    def cutout(self) -> ImageArray:
        """Straight-alpha RGBA, (H, W, 4), dtype of the image."""
        return compose.cutout(self.foreground, self._alpha_like_image)

    def composite(self, background: compose.Color | compose.Blur | ImageArray | str) -> ImageArray:
        """Composite the foreground over a new background.

        Args:
            background: (r, g, b) in 0..255; or (h, w, 3) RGB of any size, scaled and cropped to cover the
                image; or `Blur(radius_px)`, the old background blurred; or text: `#rrggbb`, `r,g,b`, a basic
                CSS colour name, or `blur:R`.

        Returns:
            (H, W, 3) opaque RGB, dtype of the image.

        Raises:
            UsageError: The text is neither a colour nor a blur.
            InputError: The array is not an image.
        """
        if isinstance(background, str):
            background = compose.parse_background(background)
        alpha = self._alpha_like_image
        if isinstance(background, compose.Blur):
            background = compose.blur_background(self.image, alpha, background.radius_px)
        return compose.composite(self.foreground, alpha, background)

    @cached_property
    def _alpha_like_image(self) -> NDArray[Any]:
        """Alpha in the image's dtype, which is as precise as the result and saves memory."""
        return self.alpha if self.image.dtype == np.float32 else self.alpha_as(self.image.dtype)


class Detail(NamedTuple):
    """Settings for refining the uncertain band.

    Attributes:
        refiner: Refiner of the model; None if it has none.
        budget_px: Largest number of tile pixels for an image; see `imaging.refinement.parse_detail`.
        looks_closer: Show the network the subject again, enlarged, if it does not fill the image; only for
            models that take a prior. See `imaging.closer`.
    """

    refiner: "Refiner | None"
    budget_px: float
    looks_closer: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, as JSON values."""
        megapixels = "max" if self.budget_px == math.inf else self.budget_px / 1e6
        return {
            "detail": megapixels,
            "closer_look": self.looks_closer,
            "refiner_sha256": self.refiner and self.refiner.sha256,
        }


def open_detail(
    text: str, model: Path, engine: Engine, device: str = "auto", threads: int | None = None
) -> Detail | None:
    """Open the refiner of a model.

    Args:
        text: `auto`, `off`, `max`, or megapixels; see `imaging.refinement.parse_detail`.
        model: File that the engine was opened from.
        engine: Engine of the model.
        device: Device of the engine.
        threads: CPU threads of the engine.

    Returns:
        None for `off`. For `auto`, a missing file of a refiner is logged to `stylematte` at level `DEBUG`;
        without a refiner, models that take a prior still look closer, and the result is None for others.

    Raises:
        UsageError: The text is invalid; or detail was requested, and the model has no refiner.
        MissingError: Detail was requested, and the file of the model's refiner is missing.
        InputError: The refiner does not belong to the model, or is damaged.
    """
    budget_px = parse_detail(text)
    if not budget_px:
        return None
    from stylematte.engines.refiner import open_refiner  # ONNX Runtime is an extra

    refiner = None
    try:
        refiner = open_refiner(model, engine.contract, device, threads, engine.lanes)
    except MissingError as error:
        if text != "auto":
            raise
        log.debug("hair and fur are not looked at again: %s", error.message)
    if refiner is not None:
        return Detail(refiner, budget_px)
    if text != "auto":
        raise UsageError(
            f"detail {text}: model {engine.contract.preset} has no refiner", "Omit detail, or give off"
        )
    return Detail(None, 0) if engine.takes_prior else None


class Pass(NamedTuple):
    """The network's result for one image.

    Attributes:
        coefficients: (2, h', w') float32, or an object that holds them on a GPU.
        image: (3, h, w) float32 RGB in [0, 1] at working size.
    """

    coefficients: NDArray[np.float32] | DeviceCoefficients
    image: NDArray[np.float32]


class Matter:
    """Mattes images with one model.

    Args:
        engine: Result of `open_engine`.
        size: Working size in pixels: side of the square with as many pixels as the network's input. None: the
            model's own.
        detail: Refines the uncertain band at the image's own size; None: no refinement.

    A size at which the model was not trained is logged as a warning to `stylematte`.

    Raises:
        UsageError: `size` is too small for the model.
    """

    def __init__(self, engine: Engine, size: int | None = None, detail: Detail | None = None) -> None:
        engine.contract.working_size_for(1, 1, size)
        if warning := engine.contract.warning_for(size):
            log.warning("%s", warning)
        self.engine = engine
        self.size = size
        self.detail = detail

    def __call__(self, image: "ImageArray | Image", prior: NDArray[Any] | None = None) -> Matte:
        """Matte one image.

        Args:
            image: (H, W, 3) RGB, (H, W) grey or (H, W, 4), whose fourth channel is dropped; uint8, uint16, or
                float32 in [0, 1]. Or a Pillow image, upright and in sRGB. It is copied, so later changes to
                the array do not affect the matte.
            prior: (h, w) approximate alpha of the same image at any size, such as that of the previous frame
                or a drawn one; uint8, uint16, or float32 in [0, 1]. Only for a model that takes one.

        Raises:
            TypeError: The image is neither an array nor a Pillow image.
            InputError: Unsupported shape or dtype, or colours out of range.
            UsageError: A prior was given, and the model takes none.
            EngineError: The runtime failed.
        """
        return self.batch([image], [prior])[0]

    def batch(
        self,
        images: "Sequence[ImageArray | Image]",
        priors: Sequence[NDArray[Any] | None] | None = None,
        copy: bool = True,
    ) -> list[Matte]:
        """Matte several images; those of equal working size share one network pass.

        Args:
            images: Images as for `__call__`; their sizes may differ.
            priors: Priors as for `__call__`; None for images without one.
            copy: Copy the images. Otherwise they must not change while their mattes are in use.

        Returns:
            One matte for each image, in their order.

        Raises:
            TypeError: See `__call__`.
            InputError: See `__call__`.
            UsageError: See `__call__`; or the numbers of priors and images differ.
            EngineError: The runtime failed.
        """
        known = self._checked_priors(images, priors)
        arrays = [as_rgb(as_array(image)) for image in images]
        if copy:
            arrays = [np.array(array) for array in arrays]
        passes = self._run(arrays, known)
        closer_looks = self._look_closer(arrays, passes, known)
        return [
            Matte(array, found.coefficients, self.engine.contract, None, self.detail, closer_looks.get(index))
            for index, (array, found) in enumerate(zip(arrays, passes, strict=True))
        ]

    def _run(
        self, arrays: list[ImageArray], priors: dict[int, NDArray[Any]], mirrored: bool = False
    ) -> list["Pass"]:
        """Run the network on images, with the priors that there are; equal working sizes share a pass.

        If mirrored, only the network sees left and right swapped: the coefficients are the images' own.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, array in enumerate(arrays):
            height, width = array.shape[:2]
            groups[self.engine.contract.working_size_for(height, width, self.size)].append(index)
        passes: dict[int, Pass] = {}
        for working_size, indices in groups.items():
            inputs = np.stack([resize_to_working(arrays[index], working_size) for index in indices])
            believed = _stacked([priors.get(index) for index in indices], working_size)
            seen = [inputs] if believed is None else [inputs, believed]
            if mirrored:
                seen = [np.ascontiguousarray(x[..., ::-1]) for x in seen]
            found = self.engine.coefficients(*seen)
            if mirrored:
                assert isinstance(found, np.ndarray)  # images whose alpha is computed on a GPU are not
                found = np.ascontiguousarray(found[..., ::-1])
            for index, coefficients, image in zip(indices, found, inputs, strict=True):
                passes[index] = Pass(coefficients, image)
        return [passes[index] for index in range(len(arrays))]

    def _look_closer(
        self, arrays: list[ImageArray], passes: list["Pass"], priors: dict[int, NDArray[Any]]
    ) -> dict[int, Closer]:
        """Look again at the subjects that do not fill their image; return index of an image → closer look."""
        if self.detail is None or not self.detail.looks_closer or not self.engine.takes_prior:
            return {}
        contract = self.engine.contract
        parts: list[ImageArray] = []
        hints: dict[int, NDArray[Any]] = {}
        places: list[tuple[int, tuple[float, float, float, float], NDArray[np.uint8]]] = []
        for index, (array, first) in enumerate(zip(arrays, passes, strict=True)):
            if not isinstance(first.coefficients, np.ndarray):  # alpha is computed on the GPU
                continue
            image = first.image.transpose(1, 2, 0)
            alpha = np.asarray(
                apply_coefficients(first.coefficients, image, contract.grey_weights, contract.grey_offset),
                np.float32,
            )
            window = find_window(alpha)
            if window is None:
                continue
            if index in priors and priors[index].any():  # a prior of zeros is none
                share = in_window(window, alpha.shape)
                alpha = prior_of(alpha, priors[index])
            else:
                share = in_band(alpha)
            where = as_fractions(window, alpha.shape)
            hints[len(parts)] = alpha[window]
            parts.append(array[in_pixels(where, array.shape[:2])])
            places.append((index, where, share))
        again = self._run(parts, hints, mirrored=True)
        return {
            index: Closer(where, second.coefficients, share)
            for (index, where, share), second in zip(places, again, strict=True)
            if isinstance(second.coefficients, np.ndarray)
        }

    def _checked_priors(
        self, images: Sequence[Any], priors: Sequence[NDArray[Any] | None] | None
    ) -> dict[int, NDArray[Any]]:
        """Return index of an image → its checked prior."""
        if priors is not None and len(priors) != len(images):
            raise UsageError(
                f"{len(priors)} priors for {len(images)} images", "Give None for images without a prior"
            )
        known = {index: as_alpha(prior) for index, prior in enumerate(priors or ()) if prior is not None}
        if known and not self.engine.takes_prior:
            raise UsageError(
                f"model {self.engine.contract.preset} takes no prior",
                "Omit the prior, or use a model that takes one",
            )
        return known


def _stacked(priors: list[NDArray[Any] | None], size: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the priors as (N, 1, h, w), with zeros for images without one; None if no image has one."""
    if not any(prior is not None for prior in priors):
        return None
    result = np.zeros((len(priors), 1, *size), np.float32)
    for plane, prior in zip(result, priors, strict=True):
        if prior is not None:
            plane[0] = np.clip(to_float(resize(prior, size)), 0, 1)
    return result
