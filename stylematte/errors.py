"""Errors that a user can act on, with their exit codes."""

from collections.abc import Sequence

INTERRUPTED = 130  # exit code after Ctrl-C, which is not an error


class StyleMatteError(Exception):
    """An error that the user can act on: a line with the problem and its place, and one with the remedy.

    Args:
        message: What happened, with the file, option or value concerned.
        hint: What to do next; printed after the message. Empty if the message says it.
        details: Lines printed below, if there are several remedies.
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
    """An invalid option or argument."""

    exit_code = 2


class InputError(StyleMatteError):
    """An input file or data set that cannot be used."""

    exit_code = 3


class MissingError(StyleMatteError):
    """A package, a device or weights that are not available."""

    exit_code = 4


class EngineError(StyleMatteError):
    """A failure with valid input: of a model run, a training step, an export or a check of its result."""

    exit_code = 5
