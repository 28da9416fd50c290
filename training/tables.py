"""Tables of recipes, checked by pydantic against the dataclasses they fill; what is wrong is one line."""

import dataclasses
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated
from pydantic_core import ErrorDetails

from stylematte.errors import InputError
from training.data.layouts import LAYOUTS
from training.recipe_files import RecipeError

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def one_of(what: str, known: Collection[str]) -> Callable[[str], str]:
    """A validator that refuses words other than the known ones."""

    def check(word: str) -> str:
        if word not in known:
            raise ValueError(f"{what} {word!r} is not one of {', '.join(known)}")
        return word

    return check


def _check_held_out(every: int) -> int:
    if every < 0 or every == 1:
        raise ValueError("held_out_every must be 2 or more, or 0 to hold nothing out")
    return every


# Types of fields: their bounds are checked, and said, by `build_table`.
LayoutName = Annotated[str, AfterValidator(one_of("layout", LAYOUTS))]
HeldOutEvery = Annotated[int, AfterValidator(_check_held_out)]
Seed = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def build_table(kind: type, row: dict[str, Any], where: str, named: str = "") -> Any:
    """Make a dataclass of a table, every key and value checked against its fields.

    Numbers stay as they are written: a run folder knows its recipe by the text, and 1 is not 1.0 there.

    Args:
        kind: A dataclass. Bounds are in the annotations of its fields.
        row: The table; its lists become tuples.
        where: The file and the table in it, before a message.
        named: The file and the row's own name, before a message about a value out of bounds.

    Raises:
        RecipeError: A key is unknown or missing, or a value of the wrong kind or out of bounds.
    """
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
    try:
        _validator(kind)(**values)
    except ValidationError as error:
        line = _explain(error.errors(include_url=False), kind, values, where, named or where)
        raise RecipeError(line) from None
    except InputError as error:  # what the class itself refuses, such as a size that no network has
        raise RecipeError(f"{where}: {error}") from None
    return kind(**values)


def build_rows(kind: type, table: dict[str, Any], key: str, path: Path) -> tuple[Any, ...]:
    """Make dataclasses of the tables under [[key]]; none where there are none.

    Raises:
        RecipeError: As for `build_table`, or there is something else than tables.
    """
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecipeError(f"{path}: {key} must be tables, each under [[{key}]]")
    where = f"{path}: [[{key}]]"
    return tuple(build_table(kind, r, where, f"{path}: {r.get('name', r.get('folder'))}") for r in rows)


@cache
def _validator(kind: type) -> Any:
    return validated(kind, frozen=True, config=_CONFIG)


def _explain(found: list[ErrorDetails], kind: type, values: dict[str, Any], where: str, named: str) -> str:
    """The first of several mistakes; a key that is unknown comes first, being why another one is missing."""
    order = {"unexpected_keyword_argument": 0, "missing": 1}
    error = min(found, key=lambda one: order.get(one["type"], 2))
    key = str(error["loc"][0]) if error["loc"] else ""
    hint = get_type_hints(kind).get(key)
    if error["type"] == "unexpected_keyword_argument":
        known = ", ".join(field.name for field in dataclasses.fields(kind))
        return f"{where}: unknown key {key}; known are {known}"
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return f"{where}: {key} is missing"
    if error["type"] == "value_error":
        return f"{named}: {error['ctx']['error']}"
    if error["type"] == "literal_error":
        return f"{named}: {key} {error['input']!r} is not one of {', '.join(get_args(hint))}"
    if error["type"] in _RANGES:
        return f"{named}: {key} must be {_range(_validator(kind).__pydantic_fields__[key].metadata)}"
    if error["type"] == "finite_number":
        return f"{where}: {key} = {values[key]!r} is not a finite number"
    return f"{where}: {key} = {values[key]!r} is not of type {getattr(hint, '__name__', hint)}"


def _range(bounds: list[Any]) -> str:
    """What annotations such as Ge(0) and Lt(1) allow, in words."""
    ge, gt, le, lt = (
        next((getattr(bound, name) for bound in bounds if hasattr(bound, name)), None)
        for name in ("ge", "gt", "le", "lt")
    )
    if ge is None and gt is None:
        return f"{le} or less" if lt is None else f"below {lt}"
    if le is None and lt is None:
        return f"above {gt}" if ge is None else f"{ge} or more"
    low = f"above {gt} and" if ge is None else f"from {ge} to"
    return f"{low} below {lt}" if le is None else f"{low} {le}" if ge is not None else f"{low} at most {le}"
