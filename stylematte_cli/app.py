"""The `stylematte` command: its table of verbs, and how a failure becomes one line and an exit code."""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stylematte_cli.commands import (
    bench,
    cycle,
    doctor,
    evaluate,
    export,
    fid,
    import_released,
    matte,
    models,
    synth,
    train,
)
from stylematte_cli.errors import INTERRUPTED, StyleMatteError


class _Verbs(TyperGroup):
    """Lets Ctrl-C be told of, in whatever command: Typer makes a silent exit of it."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    cls=_Verbs,
    help="Image matting: photos in, soft alphas out.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help loads in half the time and pipes well
    pretty_exceptions_enable=False,
    add_completion=False,
)

# One line a verb, in the order of the help. A command module imports nothing heavy at its top.
app.command("matte")(matte.matte)
app.command("train")(train.train)
app.command("synth")(synth.synth)
app.command("cycle")(cycle.cycle)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("fid")(fid.fid)
models.app.command("import")(import_released.import_released)
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        from stylematte_cli import __version__

        typer.echo(f"stylematte {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _stylematte(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows `stylematte`; the process's own arguments when None.

    Returns:
        The exit code: 0 all done, 1 some inputs failed, 2 usage, 3 bad input, 4 something missing,
        5 engine failure, 130 interrupted.
    """
    try:
        code = app(
            None if arguments is None else list(arguments), prog_name="stylematte", standalone_mode=False
        )
    except StyleMatteError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", "", INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", "", 3)
    except Exception as error:
        # Typer's usage errors share no public base class over the versions we allow.
        if hasattr(error, "format_message"):
            return _fail(error.format_message(), "see `stylematte --help`, or --help after a command", 2)
        raise
    return code if isinstance(code, int) else 0


def _fail(message: str, hint: str, code: int) -> int:
    if hint and message[-1:] not in ".!?":
        message += "."
    line = " ".join(f"{message} {hint}".split())
    print(f"stylematte: error: {line}", file=sys.stderr)
    logging.getLogger("stylematte").debug("where it came from:", exc_info=True)
    return code
