"""The commands of `stylematte`. The Python API is the package `stylematte`."""

import warnings

import stylematte


def __getattr__(name: str) -> object:
    """Forward public names of version 0.1, with a warning; to be removed in the next version but one."""
    if name not in stylematte.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"stylematte_cli.{name} is deprecated: use stylematte.{name}", DeprecationWarning, stacklevel=2
    )
    return getattr(stylematte, name)
