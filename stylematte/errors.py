"""What can go wrong for a user, and the exit code that says so."""

from collections.abc import Sequence

INTERRUPTED = 130  # exit code after Ctrl-C, which is no error of this tool


class StyleMatteError(Exception):
    """A failure the user can act on: one line of what and where, one of what to do.

    Args:
        message: What happened, with the file, option or value it happened to.
        hint: What to do next; printed after the message. Empty when the message says it.
        details: Lines below it, where there are several ways on.
    """

    exit_code = 5

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(StyleMatteError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class InputError(StyleMatteError):
    """An input file or data set that cannot be used."""

    exit_code = 3


class MissingError(StyleMatteError):
    """A package, a device or weights that are not here."""

    exit_code = 4


class EngineError(StyleMatteError):
    """Work that failed though its input was good: a model run, a training step, an export, a proof."""

    exit_code = 5
