"""Find and run the refiner beside a model file."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.engines.base import Contract
from stylematte.engines.onnx import _one_line, open_session
from stylematte.errors import EngineError, InputError, MissingError
from stylematte.files import sha256_of
from stylematte.imaging.refinement import Tiles

VERSION = "1"  # version of the metadata of refiners

log = logging.getLogger("stylematte")


class Refiner:
    """Runs a refiner's file; thread-safe.

    Attributes:
        sha256: Hex digest of the file.
        tiles: Batch size and side of its tiles.
        provider: Provider that the session uses.
    """

    def __init__(self, path: Path, session: Any, sha256: str) -> None:
        metadata = session.get_modelmeta().custom_metadata_map
        version = metadata.get("stylematte.refiner_contract")
        if version != VERSION:
            raise InputError(
                f"{path}: refiner contract {version or 'absent'}, this tool reads {VERSION}",
                "Update stylematte, or export the refiner again with this version",
            )
        ports = {port.name: port.shape for port in session.get_inputs()}
        shape = ports.get("image", [])
        if ports.keys() != {"image", "coarse"} or not all(isinstance(side, int) for side in shape):
            raise InputError(f"{path}: not a refiner with a fixed tile size", "Export the refiner again")
        self.sha256 = sha256
        self.metadata: Mapping[str, str] = metadata
        self.tiles = Tiles(shape[0], shape[2])
        self.provider: str = session.get_providers()[0]
        self._path = path
        self._session = session

    def __call__(self, images: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
        """Refine tiles.

        Args:
            images: (N, 3, t, t) float32 RGB in [0, 1], with N and t from `tiles`.
            coarse: (N, 1, t, t) float32 alpha in [0, 1].

        Returns:
            (N, 1, t, t) float32 alpha in [0, 1].

        Raises:
            EngineError: The runtime failed.
        """
        try:
            (alpha,) = self._session.run(["alpha"], {"image": images, "coarse": coarse})
        except Exception as error:  # ORT's exceptions have no common base class
            raise EngineError(f"{self._path}: ONNX Runtime failed: {_one_line(error)}") from error
        return np.asarray(alpha, np.float32)


def open_refiner(
    model: Path, contract: Contract, device: str = "auto", threads: int | None = None, lanes: int = 1
) -> Refiner | None:
    """Open the refiner that a model names.

    Args:
        model: File of the model; the refiner is in the same folder.
        contract: Contract of the model.
        device: Device of the model.
        threads: CPU threads of the model.
        lanes: Lanes of the model.

    Returns:
        The refiner; None if the model names none.

    Raises:
        MissingError: The refiner's file is missing.
        InputError: The file is not the refiner that the model was exported with, or is damaged.
    """
    if not contract.refiner:
        return None
    if Path(contract.refiner).name != contract.refiner:
        raise InputError(f"{model}: its refiner {contract.refiner!r} is not a file name", "Export again")
    path = model.parent / contract.refiner
    hint = "Put it there, export the model again, or use --detail off"
    if not path.is_file():
        raise MissingError(f"{path}: the refiner that {model.name} names does not exist", hint)
    sha256 = sha256_of(path)
    if sha256 != contract.refiner_sha256:
        raise InputError(f"{path}: not the refiner that {model.name} was exported with", hint)
    session, why = open_session(path, device, threads, lanes)
    refiner = Refiner(path, session, sha256)
    log.info("refiner %s, %s (%s)", path.name, refiner.provider, why)
    return refiner
