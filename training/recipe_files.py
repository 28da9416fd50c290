"""Recipe files: where they are, what they extend, and values that the command line puts in their place."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylematte.errors import InputError

RECIPES = Path(__file__).parent / "recipes"
GENERATORS = "gan"  # recipes of this name and in this folder train generators


class RecipeError(InputError):
    """A recipe that cannot be used; the message names the file and the key."""


def find_recipe(name_or_path: str, beside: Path | None = None) -> Path:
    """The file of a recipe.

    Args:
        name_or_path: A name in `training/recipes`, or the path of a .toml file.
        beside: Folder that a path starts from; the working folder if None.

    Raises:
        RecipeError: There is none.
    """
    if Path(name_or_path).suffix == ".toml":
        path = (beside or Path()) / name_or_path
    else:
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        names = ", ".join(recipe_names() + recipe_names(generators=True))
        raise RecipeError(f"no recipe {name_or_path}; there are {names}, or give a .toml file")
    return path


def read_recipe(path: Path, overrides: Sequence[str] = (), children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The table of a file, on top of those that it extends, with values from the command line in their place.

    Raises:
        RecipeError: It is no TOML, extends what is not there or itself, or has no place for an override.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if "extends" in table:
        table = _extended(table, path, children)
    for text in overrides:
        override(table, text)
    return table


def _extended(table: dict[str, Any], path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    parent = table.pop("extends")
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: extends must be the name of a recipe")
    try:
        parent_path = find_recipe(parent, path.parent)
    except RecipeError as error:
        raise RecipeError(f"{path}: extends {parent}: {error}") from None
    if parent_path.resolve() in {one.resolve() for one in (path, *children)}:
        raise RecipeError(f"{path}: extends {parent}, which extends this one")
    base = read_recipe(parent_path, (), (path, *children))
    networks = [t.get("network", {}) for t in (base, table)]
    if any(networks) and all(isinstance(n, dict) for n in networks):
        table["network"] = networks[0] | networks[1]
    return base | table


def override(table: dict[str, Any], text: str) -> None:
    """Put one value into a recipe's table, in place; what it may be is checked with the recipe's own.

    Args:
        table: Of `read_recipe`.
        text: `key=value`. Keys are joined by dots; a stage goes by its name, a set by its folder:
            `stages.matting.steps=100`. A value is written as in TOML; what is none is taken for a word.

    Raises:
        RecipeError: No key or no value, or a stage or set that is not there.
    """
    key, equals, value = text.partition("=")
    keys = [part.strip() for part in key.split(".")]
    if not equals or not all(keys):
        raise RecipeError(f"--set {text}: give key=value, as in stages.matting.steps=100")
    *above, last = keys
    for row in _rows(table, above, text):
        row[last] = _value(value)
        # A stage is as long as one of the two says; the one given now counts.
        if above[:1] == ["stages"] and last in ("steps", "epochs"):
            row.pop("epochs" if last == "steps" else "steps", None)


def _rows(node: Any, keys: list[str], text: str) -> list[dict[str, Any]]:
    """The tables that the keys lead to; several where one folder stands twice in a list."""
    if not keys:
        if not isinstance(node, dict):
            raise RecipeError(f"--set {text}: names a list of tables; say which, as in stages.matting.steps")
        return [node]
    key, *rest = keys
    if isinstance(node, list):
        found = [row for row in node if key in (row.get("name"), row.get("folder"))]
        if not found:
            there = ", ".join(dict.fromkeys(str(row.get("name") or row.get("folder")) for row in node))
            raise RecipeError(f"--set {text}: no {key}; there are {there}")
        return [row for one in found for row in _rows(one, rest, text)]
    if not isinstance(node, dict) or not isinstance(node.get(key, {}), dict | list):
        raise RecipeError(f"--set {text}: {key} is no table")
    return _rows(node.setdefault(key, {}), rest, text)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def recipe_names(generators: bool = False) -> list[str]:
    """Names of the recipes that come with the package: of matting networks, or of generators."""
    names = sorted(p.relative_to(RECIPES).with_suffix("").as_posix() for p in RECIPES.rglob("*.toml"))
    return [name for name in names if (name.partition("/")[0] == GENERATORS) == generators]


def trains_generator(name_or_path: str) -> bool:
    """Whether a recipe is one of `training.gan.config`: it has a table [generator].

    Raises:
        RecipeError: It is not there, or no TOML.
    """
    return "generator" in read_recipe(find_recipe(name_or_path))
