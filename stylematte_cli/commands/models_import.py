"""`stylematte models import`: networks of others, and released weights, become weights of ours."""

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
            help="A network as an .onnx file; or stylematte_pure.pth, stylematte_synth.pth, humans.pkl or "
            "animals.pkl, as released.",
        ),
    ],
    family: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FAMILY",
            help=f"What an .onnx file is, where its architecture does not tell: {FAMILY_NAMES}.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option("--name", help="What to call it; the file's own name if not given.")
    ] = "",
    licence: Annotated[
        str, typer.Option("--licence", metavar="SPDX", help="Licence of the weights, as you know it.")
    ] = "",
    output: Annotated[
        str, typer.Option("--output", metavar="NAME", help="Output that is alpha; the first if not given.")
    ] = "",
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Taken off the colours, which are in [0, 1]."),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="What the colours are then divided by.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=32,
            max=4096,
            metavar="PX",
            help="Side that the network wants, where its file is free.",
        ),
    ] = None,
    fit: Annotated[
        Literal["stretch", "keep"] | None,
        typer.Option("--fit", help="stretch: photos become squares; keep: they keep their shape."),
    ] = None,
    activation: Annotated[
        Literal["none", "sigmoid", "minmax", "sigmoid+minmax"] | None,
        typer.Option("--activation", help="What makes alpha of the output."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import a network of others, or StyleMatte's released weights.

    An .onnx file that sees the photo alone (U²-Net, IS-Net, BiRefNet, RMBG, BEN2, MODNet, InSPyReNet ...)
    becomes a model that every command takes: normalisation, resizing, the guided filter and alpha are put
    around it, and the result is compared with the bare network. U²-Net and IS-Net are recognised. It is kept
    as <name>.onnx with its card in the folder of your own weights.

    Released checkpoints are read strictly and without running code from the file, and kept as
    <name>.safetensors: `stylematte export` makes a model of a matting network, and `stylematte synth` draws
    with a generator.
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
            raise UsageError(f"{', '.join(asked)}: for .onnx files, and {file.name} is none")
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
    how = "as told"
    if family is not None:
        how = f"{'recognised as' if imported.is_recognised else 'taken for'} {family.title}: {family.source}"
    shape = "squeezed to" if processing.fit == "stretch" else "of about"
    size = f"{processing.size}x{processing.size}"
    differs = f"by at most {proof.max_difference:.1e}, in the mean by {proof.mean_difference:.1e}"
    use = imported.provenance["commercial_use"]
    return [
        f"{target}: {megabytes(target.stat().st_size)}",
        how,
        f"sees photos {shape} {size}; alpha differs from the bare network's {differs}, "
        f"over {proof.images} photos",
        f"licence {imported.licence or 'not stated'}; commercial use: {use}",
        f"next: stylematte matte ./photos --out ./alphas --weights {shlex.quote(target.stem)}",
    ]


def _warn(imported: "Imported") -> None:
    family = imported.family
    if family is not None and not family.is_tried:
        log.warning(
            "%s: written after its documentation, and not tried with a real file; look at the first mattes",
            family.title,
        )
    if not imported.licence and family is not None:
        log.warning(
            "no licence is stated; the authors state %s for theirs: if these are they, add --licence",
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
