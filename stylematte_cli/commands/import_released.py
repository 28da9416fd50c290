"""`stylematte models import`: import the released checkpoints."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from stylematte_cli.commands.options import Overwrite, Quiet
from stylematte_cli.commands.toolkit import require


def import_released(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Released file: stylematte_pure.pth, stylematte_synth.pth, humans.pkl or animals.pkl.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the weights (default: the file's name).")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, for their card.")] = "",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Import StyleMatte's released weights of the matting network or the generator.

    Reads every tensor strictly, without running code from the file, and stores <name>.safetensors and its
    card in the folder of your own weights. Then `stylematte export --weights NAME` exports a model, or
    `stylematte synth --weights NAME` generates images. Other StyleGAN3 generators (T and R) can be imported
    too.
    """
    from stylematte.files import sha256_of
    from stylematte.weights import keep, new_path

    target = new_path(name or file.stem, overwrite)
    require("torch", "transformers", extra="train")
    from models.gan.pickles import is_pickle

    source = {"imported_from": file.name, "imported_sha256": sha256_of(file)}
    if file.suffix == ".pkl" or is_pickle(file):
        write, facts = _generator(file, source)
        then = f"stylematte synth --weights {shlex.quote(target.stem)} --n 100 --out DIR"
    else:
        write, facts = _matting_network(file, source)
        words = ["--weights", target.stem, "--out", str(target.parent)]
        then = shlex.join(["stylematte", "export", *words])
    keep(target, {"licence": licence, **facts}, write)
    if not quiet:
        typer.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
        typer.echo(f"next: {then}")


def _matting_network(file: Path, source: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    from models.checkpoints import save_weights
    from models.released_checkpoints import load_published

    model = load_published(file)
    provenance = {"network": "StyleMatte, Chicherin and Efremyan, arXiv 2305.02981", **source}
    facts = {
        "summary": "StyleMatte as released by its authors, for people; export it before use.",
        "provenance": provenance,
    }
    return lambda path: save_weights(model, path, provenance), facts


def _generator(file: Path, source: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    from models.gan.checkpoints import save_generator
    from models.gan.pickles import load_pickled_generator

    generator = load_pickled_generator(file)
    config = generator.config
    provenance = {
        "network": "StyleGAN3, Karras et al., arXiv 2106.12423, the average of training (G_ema)",
        **source,
    }
    facts = {
        "summary": f"StyleGAN3-{config.kind.upper()} for images of {config.size_px} px with "
        f"{config.channels} channels; for `stylematte synth`.",
        "provenance": provenance,
    }
    return lambda path: save_generator(generator, path, provenance), facts
