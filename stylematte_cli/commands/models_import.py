"""`stylematte models import`: import third-party networks and released weights."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands.import_released import import_released
from stylematte_cli.commands.model_card import megabytes
from stylematte_cli.commands.options import Json, Overwrite, Quiet, print_json, start_log
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from export.foreign.importing import Imported

log = logging.getLogger("stylematte")

FAMILY_NAMES = "birefnet, rmbg-1.4, rmbg-2.0, ben2, modnet, inspyrenet, ormbg, u2net, isnet, imgly"


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An .onnx file of a network; or one of the released files stylematte_pure.pth, "
            "stylematte_synth.pth, humans.pkl and animals.pkl.",
        ),
    ],
    family: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FAMILY",
            help=f"Family of the .onnx file, if it is not recognised by its architecture: {FAMILY_NAMES}.",
        ),
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Name of the model (default: the file's name).")] = "",
    licence: Annotated[str, typer.Option("--licence", metavar="SPDX", help="Licence of the weights.")] = "",
    output: Annotated[
        str,
        typer.Option(
            "--output", metavar="NAME", help="Name of the alpha output (default: the first output)."
        ),
    ] = "",
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Mean to subtract from RGB in [0, 1]."),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="Standard deviation to divide by.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=32,
            max=4096,
            metavar="PX",
            help="Input side of the network, if its file does not fix it.",
        ),
    ] = None,
    fit: Annotated[
        Literal["stretch", "keep"] | None,
        typer.Option("--fit", help="Stretch photos to squares, or keep their shape."),
    ] = None,
    activation: Annotated[
        Literal["none", "sigmoid", "minmax", "sigmoid+minmax"] | None,
        typer.Option("--activation", help="Function that converts the output to alpha."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import a third-party network, or StyleMatte's released weights.

    An .onnx file of a network whose only input is the photo (U²-Net, IS-Net, BiRefNet, RMBG, BEN2, MODNet,
    InSPyReNet ...) becomes a model for every command: the import adds normalisation, resizing, the guided
    filter and alpha, and compares the result with the bare network. U²-Net and IS-Net are recognised
    automatically. The model is stored as <name>.onnx with its card in the folder of your own weights.

    Released checkpoints are read strictly, without running code from the file, and stored as
    <name>.safetensors, for `stylematte export` (matting networks) or `stylematte synth` (generators).
    """
    start_log(quiet=quiet or as_json)
    given = {
        "--as": family,
        "--output": output,
        "--mean": mean,
        "--std": std,
        "--size": size,
        "--fit": fit,
        "--activation": activation,
    }
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if file.suffix.lower() != ".onnx":
        if asked := [option for option, value in given.items() if value]:
            raise UsageError(f"{', '.join(asked)}: only for .onnx files, which {file.name} is not")
        import_released(file, name, licence, overwrite, quiet)
        return
    from stylematte import __version__
    from stylematte.files import write_bytes
    from stylematte.weights import MODEL, keep, new_path

    target = new_path(name or file.stem, overwrite, MODEL)
    require("onnx", extra="networks")
    require("onnxruntime", extra="cpu")
    from export.foreign.importing import Description, import_network

    said = Description(
        family, output, _triple("--mean", mean), _triple("--std", std), size, fit, activation, licence
    )
    imported = import_network(file, said, target.stem, __version__)
    card = {
        "licence": imported.licence,
        "summary": f"{imported.family.title if imported.family else 'A network'}, imported from {file.name}.",
        "provenance": imported.provenance,
    }
    keep(target, card, lambda path: write_bytes(path, imported.model.SerializeToString()))
    if as_json:
        proof = imported.proof.as_dict()
        print_json({"file": str(target), "recognised": imported.is_recognised, **card, "parity": proof})
    elif not quiet:
        typer.echo("\n".join(_lines(target, imported)))
    _warn(imported)


def _lines(target: Path, imported: "Imported") -> list[str]:
    proof, processing = imported.proof, imported.processing
    family = imported.family
    how = "described by the given options"
    if family is not None:
        how = f"{'recognised as' if imported.is_recognised else 'taken for'} {family.title}: {family.source}"
    shape = "stretched to" if processing.fit == "stretch" else "resized to about"
    size = f"{processing.size}x{processing.size}"
    differs = f"by at most {proof.max_difference:.1e}, on average by {proof.mean_difference:.1e}"
    use = imported.provenance["commercial_use"]
    return [
        f"{target}: {megabytes(target.stat().st_size)}",
        how,
        f"photos are {shape} {size}; alpha differs from the bare network's {differs}, "
        f"over {proof.images} photos",
        f"licence {imported.licence or 'not stated'}; commercial use: {use}",
        f"next: stylematte matte ./photos --out ./alphas --weights {shlex.quote(target.stem)}",
    ]


def _warn(imported: "Imported") -> None:
    family = imported.family
    if family is not None and not family.is_tried:
        log.warning(
            "%s: implemented from its documentation and not tested with a real file; check the first mattes",
            family.title,
        )
    if not imported.licence and family is not None:
        log.warning(
            "no licence is stated; the authors' weights are licensed %s: add --licence if these are theirs",
            family.authors_licence,
        )


def _triple(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or (option == "--std" and min(values) <= 0):
        raise UsageError(f"{option} {text!r} is not three numbers", f"For example {option} 0.485,0.456,0.406")
    return values[0], values[1], values[2]
