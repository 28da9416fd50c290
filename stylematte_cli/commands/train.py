"""`stylematte train`: a recipe and data sets become weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylematte_cli.commands.options import Device, Quiet
from stylematte_cli.commands.toolkit import require, translated_errors
from stylematte_cli.errors import InputError, MissingError, UsageError

if TYPE_CHECKING:
    from training.config import Recipe
    from training.data.readers import Sample


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE]", help="A recipe of the package, or a .toml file; without one, lists them."
        ),
    ] = "",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder that holds the data sets.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Run folder.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out; without it a folder in use is refused."),
    ] = False,
    backbone_weights: Annotated[
        str, typer.Option("--backbone-weights", metavar="FILE|none", help="Pretrained encoder, or none.")
    ] = "none",
    mattes: Annotated[
        Path | None,
        typer.Option(
            "--mattes", metavar="DIR", help="Prepared mattes, shared by runs; OUT/mattes if not given."
        ),
    ] = None,
    device: Device = "cpu",
    precision: Annotated[
        str,
        typer.Option(
            "--precision", metavar="fp32|bf16", help="bf16: about twice as fast where the processor has it."
        ),
    ] = "fp32",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that prepare pictures.")] = 2,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Steps between scores, previews and saved states.")
    ] = 500,
    quiet: Quiet = False,
) -> None:
    """Train a network by a recipe.

    First makes mattes from the masks of the data sets, then runs the recipe's stages. The run folder gets the
    weights (best.safetensors, last.safetensors), log.csv, TensorBoard files and preview pictures. Stop it at
    any time: the same command with --resume goes on exactly where the last saved state was.
    """
    require("torch", "pymatting", "tensorboard", extra="train")
    with translated_errors():
        from training.config import load_recipe, recipe_names

        if not recipe:
            _explain(recipe_names())
            return
        plan = load_recipe(recipe)
        if data is None or out is None:
            raise UsageError("--data and --out are needed", "See stylematte train --help")
        backbone = None if backbone_weights == "none" else Path(backbone_weights)
        _check_usage(out, resume, precision, backbone)
        device = _usable_device(device)

        from training.backbone import load_backbone
        from training.loop import RunOptions
        from training.loop import train as run

        mattes = mattes or out / "mattes"
        _prepare_mattes(plan, data, mattes, max(1, workers), quiet)
        options = RunOptions(out, mattes, device, precision, workers, every)
        run(
            plan,
            data,
            options,
            initialise=None if backbone is None else lambda model: load_backbone(model, backbone, plan, data),
            report=(lambda line: None) if quiet else typer.echo,
        )
    if not quiet:
        best = out / "best.safetensors"
        typer.echo(f"weights: {best}; next: stylematte export --weights {best} --out DIR")


def _check_usage(out: Path, resume: bool, precision: str, backbone: Path | None) -> None:
    if (out / "state.pt").exists() and not resume:
        raise InputError(f"{out} holds a run already", "Give --resume to go on with it, or another --out")
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"--precision {precision} is not known", "fp32 or bf16")
    if backbone is not None and not backbone.is_file():
        raise MissingError(
            f"--backbone-weights: {backbone} is not there", "Give a .safetensors file, or none"
        )


def _prepare_mattes(plan: "Recipe", data: Path, mattes: Path, workers: int, quiet: bool) -> None:
    from training.data.pseudo_alpha import prepare
    from training.data.readers import read_set

    samples = {s.folder: read_set(data, s.folder) for s in plan.sets}  # all of it, before hours are spent
    if not quiet:
        _warn_of_twins(plan, samples)
    for data_set in plan.sets:
        if data_set.kind == "photos":
            prepare(samples[data_set.folder], data_set.band, mattes, workers)


def _warn_of_twins(plan: "Recipe", samples: "dict[str, list[Sample]]") -> None:
    from training.data.readers import split
    from training.data.twins import find_twins

    for folder in (s.folder for s in plan.sets if s.kind == "photos"):
        trained, held_out = split(samples[folder], plan.held_out_every)
        if count := sum(find_twins(held_out, trained)):
            typer.echo(
                f"{folder}: {count} of {len(held_out)} held-out photos have a near copy in the trained part; "
                "scores on them flatter",
                err=True,
            )


def _explain(names: list[str]) -> None:
    from training.config import load_recipe

    for name in names:
        recipe = load_recipe(name)
        typer.echo(f"{name}: network {recipe.preset}")
        for stage in recipe.stages:
            losses = ", ".join([*(f"fine {n}" for n in stage.fine), *(f"coarse {n}" for n in stage.coarse)])
            low, high = stage.side
            typer.echo(
                f"  {stage.name}: {stage.steps} steps of {stage.batch_size} photos, {low}-{high} px; {losses}"
            )
        typer.echo(f"  data sets below --data: {', '.join(s.folder for s in recipe.sets)}")
    typer.echo("\nrun one with: stylematte train RECIPE --data DIR --out DIR")


def _usable_device(device: str) -> str:
    import torch

    there_are = {"cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))}
    if device in ("auto", "cuda"):
        device = "cuda:0" if device == "cuda" or len(there_are) > 1 else "cpu"
    if device not in there_are:
        raise MissingError(f"--device {device}: torch has no such device here", "Use --device cpu")
    return device
