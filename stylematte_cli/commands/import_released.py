"""`stylematte models import`: the released checkpoints become weights of ours."""

from pathlib import Path
from typing import Annotated

import typer

from stylematte_cli.commands.options import Overwrite, Quiet
from stylematte_cli.commands.toolkit import require, translated_errors


def import_released(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="stylematte_pure.pth or stylematte_synth.pth, as released.")
    ],
    name: Annotated[
        str, typer.Option("--name", help="What to call them; the file's own name if not given.")
    ] = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, for their card.")] = "",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Import StyleMatte's released weights.

    Reads every tensor strictly and without running code from the file, and keeps <name>.safetensors and its
    card in the folder of your own weights. From there, `stylematte export --weights NAME` makes a model.
    """
    from stylematte_cli.weights import keep, new_path, sha256_of

    target = new_path(name or file.stem, overwrite)
    require("torch", "transformers", extra="train")
    with translated_errors():
        from models.checkpoints import save_weights
        from models.published import load_published

        model = load_published(file)
        provenance = {
            "network": "StyleMatte, Chicherin and Efremyan, arXiv 2305.02981",
            "imported_from": file.name,
            "imported_sha256": sha256_of(file),
        }
        card = {
            "licence": licence,
            "summary": "StyleMatte as its authors released it, for people; to be exported.",
            "provenance": provenance,
        }
        keep(target, card, lambda path: save_weights(model, path, provenance))
    if not quiet:
        typer.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
        typer.echo(f"next: stylematte export --weights {target.stem} --out {target.parent}")
