"""Command classes: help that starts with an example, and access to the typed command line."""

import importlib
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

# One example per command, by its path.
EXAMPLES = {
    "": "stylematte matte ./photos --out ./alphas",
    "matte": "stylematte matte ./photos --out ./alphas",
    "train": "stylematte train",
    "train gan": "stylematte train gan/faces-256 --data ./portraits --out ./runs/faces",
    "synth": "stylematte synth --n 10000 --truncation 0.7",
    "cycle": "stylematte cycle --data ./data --out ./runs/cycle",
    "export": "stylematte export --fp16",
    "evaluate": "stylematte evaluate ./alphas ./truth",
    "fid": "stylematte fid ./photos ./synthetic",
    "compare": "stylematte compare nano u2netp ./photos",
    "models": "stylematte models list",
    "models list": "stylematte models list --json",
    "models show": "stylematte models show nano",
    "models import": "stylematte models import ~/.u2net/u2net.onnx",
    "models remove": "stylematte models remove u2netp",
    "models pack": "stylematte models pack nano u2netp --out weights.zip",
    "models unpack": "stylematte models unpack weights.zip",
    "doctor": "stylematte doctor",
    "bench": "stylematte bench --weights nano",
}
TYPED = "stylematte.typed"  # key of a context's `meta`


def example_of(path: str) -> str:
    """Return the example of a command, given its path: "stylematte models show"."""
    return EXAMPLES[path.partition(" ")[2]]


def typed_line(context: typer.Context) -> str:
    """Return the typed command line, quoted for a shell."""
    return str(context.meta[TYPED])


class Verb(TyperCommand):
    """A command whose help starts with its example."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _write_example(ctx, formatter)
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and record them as typed."""
        ctx.meta[TYPED] = shlex.join([*ctx.command_path.split(), *args])
        return super().parse_args(ctx, args)


def new_app(**settings: Any) -> typer.Typer:
    """Make an app with the shared settings: plain help loads in half the time and works in pipes."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, **settings)


def command_of(function: Callable[..., Any], name: str, cls: type[Verb] = Verb) -> Any:
    """Build the command that runs a function."""
    app = new_app()
    app.command(name, cls=cls)(function)
    return typer.main.get_command(app)


class LazyCommands(Mapping[str, Any]):
    """Commands by name; each is imported when it is asked for.

    Args:
        places: Name → "module:attribute" of `stylematte_cli.commands`: a function, a command, or an app.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places
        self._commands: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._commands:
            module, _, attribute = self._places[name].partition(":")
            found = getattr(importlib.import_module(f"stylematte_cli.commands.{module}"), attribute)
            if isinstance(found, typer.Typer):
                found = typer.main.get_command(found)
            elif not isinstance(found, TyperCommand):
                found = command_of(found, name)
            self._commands[name] = found
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Verbs(TyperGroup):
    """A group of commands, listed with one example each."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option --help, with the default False.

        Typer's default is None, which it then passes to pydantic: that would take 0.1 s before any help.
        """
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def invoke(self, ctx: Any) -> Any:
        """Run a command; report Ctrl-C, which Typer would turn into a silent exit."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _write_example(ctx, formatter)
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a line and an example for each command."""
        names = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
        start = max(map(len, names)) + 4
        with formatter.section("Commands"):
            for name in names:
                about = self.commands[name].get_short_help_str(limit=10 * formatter.width)
                first, *more = textwrap.wrap(about, formatter.width - start)
                lines = [f"  {name}".ljust(start) + first, *(" " * start + line for line in more)]
                lines.append(" " * start + f"$ {example_of(f'{ctx.command_path} {name}')}")
                formatter.write("".join(f"{line}\n" for line in lines))


def _write_example(ctx: Any, formatter: Any) -> None:
    formatter.write(f"Example: {example_of(ctx.command_path)}\n\n")


def lazy_app(places: dict[str, str], **settings: Any) -> typer.Typer:
    """Make an app whose commands are imported when they are asked for, see `LazyCommands`."""

    class LazyVerbs(Verbs):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = LazyCommands(places)  # type: ignore[assignment]

    return new_app(cls=LazyVerbs, **settings)
