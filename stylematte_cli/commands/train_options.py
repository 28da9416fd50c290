"""Shared by the commands that train: options, output, and listing and printing of recipes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylematte.errors import InputError
from stylematte_cli.commands.explain import explain_all, explain_recipe, list_as_dict
from stylematte_cli.commands.options import Device, Output, Policy, print_json

if TYPE_CHECKING:
    from training.config import Recipe
    from training.gan.config import GanRecipe

DATA, RUNS = Path("data"), Path("runs")


@dataclass(frozen=True)
class LoopOptions:
    """Options of training loops: for train, train gan and cycle."""

    device: Device = "auto"
    backbone_weights: Annotated[
        str,
        typer.Option(
            "--backbone-weights",
            metavar="hub|FILE|none",
            help="Pretrained encoder weights (default: hub if the network has any there, otherwise none).",
        ),
    ] = ""
    mattes: Annotated[
        Path | None,
        typer.Option(
            "--mattes",
            metavar="DIR",
            help="Folder for mattes solved from masks, which runs can share (default: OUT/mattes).",
        ),
    ] = None
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that prepare images.")] = 2
    every: Annotated[
        int | None,
        typer.Option(
            "--every",
            min=1,
            help="Steps between scores, previews and saved states (default: 500, or the recipe's).",
        ),
    ] = None

    @property
    def torch_device(self) -> str:
        """The torch device.

        Raises:
            MissingError: The device is not available.
        """
        from training.devices import usable_device

        return usable_device(self.device)


@dataclass(frozen=True)
class RunOfRecipe:
    """A recipe with changes, its data, and the run folder."""

    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder of the data sets (default: ./data)."),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Run folder; an existing run in it is resumed (default: ./runs/RECIPE).",
        ),
    ] = None
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Describe all recipes, or the named one, and stop.")
    ] = False
    print_recipe: Annotated[
        bool, typer.Option("--print", help="Print the recipe with every key, as TOML, and stop.")
    ] = False
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a value of the recipe, such as stages.matting.steps=100; may be repeated.",
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False
    policy: Policy = "any"
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", min=1, help="Passes per step (gradient accumulation), which divides the memory."
        ),
    ] = 1
    resume: Annotated[bool, typer.Option("--resume", help="Fail unless --out contains a run to resume.")] = (
        False
    )

    @property
    def root(self) -> Path:
        """Folder of the data sets."""
        return self.data or DATA

    @property
    def changes(self) -> list[str]:
        """Values of --set."""
        return self.overrides or []

    def folder(self, recipe: str) -> Path:
        """Return the run folder."""
        return self.out or RUNS / (Path(recipe).stem if recipe.endswith(".toml") else recipe)

    def check_resume(self, folder: Path) -> None:
        """Reject --resume if there is no run.

        Raises:
            InputError: The folder contains no run.
        """
        if self.resume and not (folder / "state.pt").exists():
            raise InputError(f"{folder} contains no run to resume", "Give its folder, or omit --resume")


def is_first_process() -> bool:
    """Tell whether this is the first of several training processes, which prints the output."""
    return os.environ.get("RANK", "0") == "0"


def speaker(output: Output) -> Callable[[str], None]:
    """Return a function that prints lines on stdout, or on stderr if stdout is for JSON."""
    if output.quiet or not is_first_process():
        return lambda line: None
    return lambda line: typer.echo(line, err=output.as_json)


def list_recipes(name: str, overrides: list[str], as_json: bool) -> None:
    """Describe all recipes, or the named one."""
    if as_json:
        print_json(list_as_dict(name))
        return
    for line in explain_recipe(name, overrides) if name else explain_all():
        typer.echo(line)


def print_recipe(recipe: "Recipe | GanRecipe") -> None:
    """Print a recipe with every key."""
    from training.recipe_text import as_toml

    typer.echo(as_toml(recipe), nl=False)
