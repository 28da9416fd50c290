"""Import a third-party network: recognise or describe it, wrap it, and check its parity."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from export.foreign.families import FAMILIES, KNOWN_FILES, Activation, Family, Fit, Processing, Triple
from export.foreign.proof import Proof, bare_network, own_size_photos, prove, reference_alpha
from export.foreign.reading import Seen, ends_in_sigmoid, read_foreign, recognise
from export.foreign.wrapping import Facts, wrap
from stylematte.engines.base import Contract
from stylematte.errors import EngineError, InputError, UsageError
from stylematte.files import sha256_of
from stylematte.licences import commercial_use


@dataclass(frozen=True)
class Description:
    """What the user states about a file; None or empty for what is not stated.

    Attributes:
        family: Name in `FAMILIES`.
        output: Name of the output that is alpha.
        mean: As in `Processing`.
        std: Likewise.
        size: Likewise.
        fit: Likewise.
        activation: Likewise.
        licence: Licence of the weights.
    """

    family: str = ""
    output: str = ""
    mean: Triple | None = None
    std: Triple | None = None
    size: int | None = None
    fit: Fit | None = None
    activation: Activation | None = None
    licence: str = ""


@dataclass(frozen=True)
class Imported:
    """A network wrapped under the model contract.

    Attributes:
        model: The model, with its metadata.
        family: Family, recognised or stated; None for other networks.
        is_recognised: Whether the family was recognised by its architecture.
        processing: Processing that the model contains.
        proof: Parity with the bare network.
        licence: Licence of the weights, as stated by the user or the publisher; empty if unknown.
        provenance: Origin of the weights, as in the metadata.
    """

    model: onnx.ModelProto
    family: Family | None
    is_recognised: bool
    processing: Processing
    proof: Proof
    licence: str
    provenance: dict[str, Any]


def import_network(path: Path, said: Description, name: str, tool_version: str) -> Imported:
    """Wrap a trimap-free network, and compare it with the original in its authors' processing.

    Args:
        path: ONNX file.
        said: What the architecture does not show.
        name: Name of the model.
        tool_version: Version of this program.

    Raises:
        InputError: The file cannot be wrapped; or it is not recognised, and its description is incomplete.
        UsageError: The description is invalid or contradicts the file.
        EngineError: The wrapped network's alphas differ from the original's.
    """
    seen = read_foreign(path)
    recognised = recognise(seen)
    family = _family(said.family or recognised)
    output = _output(path, seen, said.output)
    side = _fixed_side(seen)
    processing = _processing(path, seen, family, said, side)
    if processing.activation.startswith("sigmoid") and ends_in_sigmoid(seen.model, output):
        left: Activation = "minmax" if processing.activation.endswith("minmax") else "none"
        processing = dataclasses.replace(processing, activation=left)
    sha256 = sha256_of(path)
    known = KNOWN_FILES.get(sha256)
    licence = said.licence or (known.licence if known else "")
    provenance = {
        "network": family.title if family else "not told",
        "imported_from": path.name,
        "imported_sha256": sha256,
        "source": known.source if known else "not told",
        "commercial_use": commercial_use(licence),
        "preprocessing": family.source if family else "as told by who imported it",
        "processing": dataclasses.asdict(processing),
    }
    facts = Facts(name, sha256, tool_version, licence, provenance)
    model, proof = _proven(path, seen, output, processing, side, facts)
    for entry in model.metadata_props:
        if entry.key == "stylematte.parity":
            entry.value = json.dumps(proof.as_dict())
    return Imported(
        model,
        family,
        family is not None and family.name == recognised,
        processing,
        proof,
        licence,
        provenance,
    )


def _proven(
    path: Path, seen: Seen, output: str, processing: Processing, side: tuple[int, int] | None, facts: Facts
) -> tuple[onnx.ModelProto, Proof]:
    """Wrap with a dynamic batch size, or with batch size 1 if the network does not support it."""
    model = wrap(seen, output, processing, side, True, facts)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    images = own_size_photos(Contract.from_metadata(metadata, str(path)))
    run = bare_network(path, seen, output)
    expected = [reference_alpha(run, processing, image, str(path)) for image in images]
    del run
    try:
        return model, prove(model, images, expected, str(path))
    except EngineError:
        model = wrap(seen, output, processing, side, False, facts)
        return model, prove(model, images, expected, str(path))


def _family(name: str) -> Family | None:
    if not name:
        return None
    if name not in FAMILIES:
        raise UsageError(f"--as {name} is not a known family", f"Choose from {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _output(path: Path, seen: Seen, asked: str) -> str:
    names = [port.name for port in seen.outputs]
    if asked and asked not in names:
        raise UsageError(
            f"--output {asked}: {path} has no output of that name", f"Choose from {', '.join(names)}"
        )
    name = asked or names[0]
    port = next(port for port in seen.outputs if port.name == name)
    if port.kind not in ("float", "float16"):
        raise InputError(
            f"{path}: no alpha: {port}", "Choose another output with --output NAME", seen.lines()
        )
    if port.shape is not None and len(port.shape) == 4 and port.shape[1] not in (1, None):
        raise InputError(
            f"{path}: {port.shape[1]} channels, but an alpha has one: {port}",
            "Choose another output with --output NAME; networks for classes cannot be imported",
            seen.lines(),
        )
    return name


def _fixed_side(seen: Seen) -> tuple[int, int] | None:
    shape = seen.inputs[0].shape
    assert shape is not None  # `read_foreign` checks it
    height, width = shape[2:]
    return None if height is None or width is None else (height, width)


def _processing(
    path: Path, seen: Seen, family: Family | None, said: Description, side: tuple[int, int] | None
) -> Processing:
    """Return the documented processing with the user's changes; the file's own size overrides both."""
    if family is None:
        processing = _described(path, seen, said, side)
    else:
        told = {key: getattr(said, key) for key in ("mean", "std", "size", "fit", "activation")}
        given = {key: value for key, value in told.items() if value is not None}
        processing = dataclasses.replace(family.processing, **given)
    if side is not None:
        own = side[0] if side[0] == side[1] else round((side[0] * side[1]) ** 0.5)
        if said.size not in (None, own):
            raise UsageError(f"--size {said.size}: the file only takes {side[0]}x{side[1]}", "Leave it out")
        return dataclasses.replace(processing, size=own, fit="stretch")
    if processing.size % processing.stride:
        raise UsageError(f"--size {processing.size} is not a multiple of {processing.stride}")
    return processing


def _described(path: Path, seen: Seen, said: Description, side: tuple[int, int] | None) -> Processing:
    """Return the processing of a network of no family: the user has to state all of it."""
    needed = {
        "--mean R,G,B": said.mean is None,
        "--std R,G,B": said.std is None,
        "--activation none|sigmoid|minmax|sigmoid+minmax": said.activation is None,
        "--size PX": side is None and said.size is None,
        "--fit stretch|keep": side is None and said.fit is None,
    }
    lacking = [option for option, is_lacking in needed.items() if is_lacking]
    if lacking:
        raise InputError(
            f"{path}: not recognised",
            f"Name its family with --as {'|'.join(FAMILIES)}; or describe its preprocessing: "
            f"{' '.join(lacking)}; and with --output NAME which output is alpha, if it is not the first",
            seen.lines(),
        )
    assert said.mean is not None
    assert said.std is not None
    size = said.size or 0 if side is None else side[0]
    return Processing(said.mean, said.std, size, said.fit or "stretch", said.activation or "none")
