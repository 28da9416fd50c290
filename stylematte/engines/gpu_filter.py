"""Full-size alpha on the GPU: an 8-bit image is uploaded and its alpha downloaded, 4 bytes per pixel in all.

The kernels of `stylematte.engines.guided_filter` are passed in, so that tests can replace them.
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
    """The interface of `stylematte.engines.guided_filter.launch.GuidedFilter`."""

    def apply(self, coefficients: Any, guide: Any, out: Any, stream: int) -> None:
        """Write alpha to `out`; arrays have `__cuda_array_interface__`."""
        ...


class GpuGuidedFilter:
    """The second half of the guided filter, on one GPU.

    Args:
        gpu: The GPU.
        kernels: Kernels with the parameters of the model's contract.
    """

    def __init__(self, gpu: Cuda, kernels: Kernels) -> None:
        self.gpu = gpu
        self._kernels = kernels

    def alpha(self, coefficients: "GpuArray", image: ImageArray, dtype: DTypeLike) -> NDArray[Any]:
        """Apply coefficients to an image.

        Args:
            coefficients: (1, 2, h, w) float32 on the GPU.
            image: (H, W, 3) RGB uint8, uint16 or float32.
            dtype: Dtype of the result: uint8, uint16 or float32.

        Returns:
            (H, W) opacity.

        Raises:
            EngineError: The GPU has too little memory, or the kernel failed.
        """
        picture = np.ascontiguousarray(image if image.dtype == np.uint8 else to_float(image))
        height, width = picture.shape[:2]
        shape = (1, height, width, 3)
        if (height, width) == (3, 3):  # the kernels would take it for planar RGB
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
    """An array on the GPU; its memory is freed when the object is garbage-collected.

    Args:
        gpu: The GPU.
        shape: Shape in elements.
        dtype: uint8 or float32.
        address: Address of memory that `owner` keeps; None allocates memory.
        owner: Object to keep alive as long as the array.
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
    """Coefficients of one image that stay on the GPU, where its alpha is computed."""

    def __init__(self, array: GpuArray, gpu_filter: GpuGuidedFilter) -> None:
        self._array = array
        self._filter = gpu_filter

    def alpha_as(self, image: ImageArray, dtype: DTypeLike) -> NDArray[Any]:
        """Compute the (H, W) opacity of the image; see `GpuGuidedFilter.alpha`."""
        return self._filter.alpha(self._array, image, dtype)
