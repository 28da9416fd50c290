"""What verbs that train share: options, where they speak, and recipes that are listed or printed."""

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
    """How networks are trained, whichever they are: of train, train gan and cycle."""

    device: Device = "auto"
    backbone_weights: Annotated[
        str,
        typer.Option(
            "--backbone-weights",
            metavar="hub|FILE|none",
            help="Pretrained encoder; if not given, the hub's where the network has some there, else none.",
        ),
    ] = ""
    mattes: Annotated[
        Path | None,
        typer.Option(
            "--mattes",
            metavar="DIR",
            help="Mattes solved from masks, shared by runs; OUT/mattes if not given.",
        ),
    ] = None
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that prepare pictures.")] = 2
    every: Annotated[
        int | None,
        typer.Option(
            "--every",
            min=1,
            help="Steps between scores, previews and saved states; 500 if not given, or the recipe's.",
        ),
    ] = None

    @property
    def torch_device(self) -> str:
        """The device as torch calls it, looked for here.

        Raises:
            MissingError: There is none of that name.
        """
        from training.devices import usable_device

        return usable_device(self.device)


@dataclass(frozen=True)
class RunOfRecipe:
    """A recipe with its changes, the data it learns from, and the folder of the run."""

    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder that holds the data sets; ./data if not given."),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Run folder; goes on with the run in it. ./runs/RECIPE if not given.",
        ),
    ] = None
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Say what each recipe needs and gives, or one of them.")
    ] = False
    print_recipe: Annotated[
        bool, typer.Option("--print", help="Print the recipe with every key, as TOML, and stop.")
    ] = False
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another value in the recipe: stages.matting.steps=100; may be given again.",
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False
    policy: Policy = "any"
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Passes a step: so many times less memory.")
    ] = 1
    resume: Annotated[bool, typer.Option("--resume", help="Insist that --out holds a run to go on with.")] = (
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
        """The run folder."""
        return self.out or RUNS / (Path(recipe).stem if recipe.endswith(".toml") else recipe)

    def check_resume(self, folder: Path) -> None:
        """Refuse --resume where there is nothing to go on with.

        Raises:
            InputError: The folder holds no run.
        """
        if self.resume and not (folder / "state.pt").exists():
            raise InputError(f"{folder} holds no run to go on with", "Give its folder, or leave out --resume")


def is_first_process() -> bool:
    """Whether this process speaks for all that train together; accelerate and torchrun number them."""
    return os.environ.get("RANK", "0") == "0"


def speaker(output: Output) -> Callable[[str], None]:
    """Takes what there is to say: stdout, or stderr where stdout is for JSON."""
    if output.quiet or not is_first_process():
        return lambda line: None
    return lambda line: typer.echo(line, err=output.as_json)


def list_recipes(name: str, overrides: list[str], as_json: bool) -> None:
    """Say what each recipe needs and gives, or one of them."""
    if as_json:
        print_json(list_as_dict(name))
        return
    for line in explain_recipe(name, overrides) if name else explain_all():
        typer.echo(line)


def print_recipe(recipe: "Recipe | GanRecipe") -> None:
    """Print a recipe with every key."""
    from training.recipe_text import as_toml

    typer.echo(as_toml(recipe), nl=False)
