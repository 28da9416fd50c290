"""The `stylematte` command: its subcommands, and the handling of errors as one line and an exit code."""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import typer

from stylematte.errors import INTERRUPTED, InputError, MissingError, StyleMatteError, UsageError
from stylematte_cli.commands import toolkit
from stylematte_cli.commands.options import print_json
from stylematte_cli.commands.verbs import lazy_app

# Module and attribute of each command, in the order of the help. Only the module of the command that runs is
# imported, and none may import anything heavy at the top.
COMMANDS = {
    "matte": "matte:matte",
    "train": "train:command",
    "synth": "synth:synth",
    "cycle": "cycle:cycle",
    "export": "export:export",
    "evaluate": "evaluate:evaluate",
    "fid": "fid:fid",
    "compare": "compare:compare",
    "models": "models:app",
    "doctor": "doctor:doctor",
    "bench": "bench:bench",
}

app = lazy_app(
    COMMANDS,
    help="Image matting: photos in, soft alphas out.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from stylematte import __version__

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
    _open_closed_streams()
    with _second_interrupt_ends():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(given: list[str]) -> int:
    toolkit.enable()
    as_json = "--json" in given  # read before parsing, so that usage errors are also printed as JSON
    try:
        code = app(given, prog_name="stylematte", standalone_mode=False)
    except StyleMatteError as error:
        return _fail(error.message, error.hint, error.exit_code, as_json, error.details)
    except (typer.Abort, KeyboardInterrupt) as interrupt:
        code = _fail("interrupted", "", INTERRUPTED, as_json)
        _let_go(interrupt)
        return code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", *toolkit.TOOLKITS, "stylematte", "stylematte_cli"):  # a bug of this project
            raise
        hint = 'pip install "stylematte[train]"'
        return _fail(f"{package} is not installed", hint, MissingError.exit_code, as_json)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", "", InputError.exit_code, as_json)
    except Exception as error:
        # Typer's usage errors have no common public base class across the supported versions.
        if hasattr(error, "format_message"):
            context = getattr(error, "ctx", None)
            verb = "stylematte" if context is None else context.command_path
            return _fail(error.format_message(), f"See `{verb} --help`", UsageError.exit_code, as_json)
        raise
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """Redirect closed streams (`2>&-`) to nowhere: otherwise the next opened file would replace them."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                if nowhere != number:
                    os.dup2(nowhere, number)
                    os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


@contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """Let the first Ctrl-C stop the work in progress, and the second end the process at once.

    No result is lost: files get their names when complete, and the next run removes incomplete ones.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def second(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError, ValueError):  # bypass Python's buffer, which may be in use
            os.write(sys.stderr.fileno(), b"stylematte: error: interrupted again, stopped at once\n")
        os._exit(INTERRUPTED)

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, second)  # also while the interpreter exits and waits for threads
        # The interpreter exits without handlers: a third Ctrl-C would change the exit code.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _let_go(interrupt: BaseException) -> None:
    """Free the objects of an interrupted command.

    Half-built objects, such as torch's loaders, may raise errors meanwhile; these are suppressed.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        cause: BaseException | None = interrupt
        while cause is not None:
            cause.__traceback__ = None
            cause = cause.__context__
        gc.collect()
    finally:
        sys.unraisablehook = hook


def _fail(message: str, hint: str, code: int, as_json: bool, details: Sequence[str] = ()) -> int:
    """Print an error as one line on stderr, and with --json also as an object on stdout."""
    if as_json:
        error = {"exit_code": code, "message": message, "hint": hint, "details": list(details)}
        print_json({"error": error})
    if hint and message[-1:] not in ".!?":
        message += "."
    line = " ".join(f"{message} {hint}".split())
    print(f"stylematte: error: {line}", file=sys.stderr)
    for line in details:
        print(f"  {line}", file=sys.stderr)
    logging.getLogger("stylematte").debug("where it came from:", exc_info=True)
    return code
