"""Alpha at full size on the GPU: the photo goes up as it is, the alpha comes down, 4 bytes a pixel in all.

The kernels, of `stylematte.engines.guided_filter`, are handed in: tests hand in others.
"""

import logging
import weakref
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.engines.cuda import Cuda
from stylematte.errors import EngineError, StyleMatteError
from stylematte.imaging.geometry import ImageArray, to_dtype, to_float

TYPES = {np.dtype(np.uint8): "|u1", np.dtype(np.float32): "<f4"}

log = logging.getLogger("stylematte")


class Kernels(Protocol):
    """What `stylematte.engines.guided_filter.launch.GuidedFilter` offers."""

    def apply(self, coefficients: Any, guide: Any, out: Any, stream: int) -> None:
        """Write alpha; arrays by `__cuda_array_interface__`."""
        ...


class GpuGuidedFilter:
    """The guided filter's second half on one GPU.

    Args:
        gpu: Memory and streams.
        kernels: With the numbers of the model's contract.
    """

    def __init__(self, gpu: Cuda, kernels: Kernels) -> None:
        self.gpu = gpu
        self._kernels = kernels

    def alpha(self, coefficients: "GpuArray", image: ImageArray, dtype: DTypeLike) -> NDArray[Any]:
        """Apply coefficients to a photo.

        Args:
            coefficients: (1, 2, h, w) float32 on the GPU.
            image: (H, W, 3) RGB uint8, uint16 or float32.
            dtype: Of the result: uint8, uint16 or float32.

        Returns:
            (H, W) opacity.

        Raises:
            EngineError: The GPU has not the memory, or the kernel failed.
        """
        picture = np.ascontiguousarray(image if image.dtype == np.uint8 else to_float(image))
        height, width = picture.shape[:2]
        shape = (1, height, width, 3)
        if (height, width) == (3, 3):  # the kernels would take the rows for the colours
            picture, shape = np.ascontiguousarray(picture.transpose(2, 0, 1)), (1, 3, height, width)
        result = np.empty((height, width), np.uint8 if np.dtype(dtype) == np.uint8 else np.float32)
        stream = self.gpu.stream()
        guide = GpuArray(self.gpu, shape, picture.dtype)
        alpha = GpuArray(self.gpu, (1, 1, height, width), result.dtype)
        try:
            self.gpu.upload(picture, guide.address, stream)
            try:
                self._kernels.apply(coefficients, guide, alpha, stream)
            except StyleMatteError as error:
                raise EngineError(f"the guided filter failed on the GPU: {error}") from error
            self.gpu.download(alpha.address, result, stream)
        finally:
            self.gpu.end_stream(stream)
        return result if np.dtype(dtype) == result.dtype else to_dtype(result, dtype)


class GpuArray:
    """An array on the GPU; its memory is given back when nobody holds it any more.

    Args:
        gpu: Where.
        shape: In elements.
        dtype: uint8 or float32.
        address: Of memory that `owner` keeps; allocated when None.
        owner: Held as long as the array is.
    """

    def __init__(
        self,
        gpu: Cuda,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        address: int | None = None,
        owner: Any = None,
    ) -> None:
        kind = np.dtype(dtype)
        self.address = gpu.allocate(int(np.prod(shape)) * kind.itemsize) if address is None else address
        if address is None:
            weakref.finalize(self, gpu.free, self.address)
        self._owner = owner
        self.__cuda_array_interface__ = {
            "data": (self.address, False),
            "shape": tuple(shape),
            "typestr": TYPES[kind],
            "strides": None,
            "version": 3,
        }


class GpuCoefficients:
    """Coefficients of one photo that stay on the GPU until its alpha is made there."""

    def __init__(self, array: GpuArray, gpu_filter: GpuGuidedFilter) -> None:
        self._array = array
        self._filter = gpu_filter

    def alpha_as(self, image: ImageArray, dtype: DTypeLike) -> NDArray[Any]:
        """(H, W) opacity of the photo; see `GpuGuidedFilter.alpha`."""
        return self._filter.alpha(self._array, image, dtype)
