"""Recipe files: finding them, `extends`, and overrides from the command line."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylematte.errors import InputError

RECIPES = Path(__file__).parent / "recipes"
GENERATORS = "gan"  # the recipe of this name and those in this folder train generators


class RecipeError(InputError):
    """A recipe cannot be used; the message names the file and the key."""


def find_recipe(name_or_path: str, beside: Path | None = None) -> Path:
    """Find the file of a recipe.

    Args:
        name_or_path: A name in `training/recipes`, or the path of a .toml file.
        beside: Folder that a path is relative to; None: the working directory.

    Raises:
        RecipeError: There is no such recipe.
    """
    if Path(name_or_path).suffix == ".toml":
        path = (beside or Path()) / name_or_path
    else:
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        names = ", ".join(recipe_names() + recipe_names(generators=True))
        raise RecipeError(f"unknown recipe {name_or_path}; choose from {names}, or give a .toml file")
    return path


def read_recipe(path: Path, overrides: Sequence[str] = (), children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe's table, merged with the recipes it extends, with overrides from the command line.

    Raises:
        RecipeError: The file is not valid TOML, extends a missing recipe or itself, or an override has no
            place.
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
    """Override one value of a recipe's table, in place; it is validated later with the others.

    Args:
        table: Result of `read_recipe`.
        text: `key=value`. Keys are joined by dots; stages are addressed by name, sets by folder:
            `stages.matting.steps=100`. Values are written as in TOML; anything else is read as a string.

    Raises:
        RecipeError: The key or the value is missing, or the stage or set does not exist.
    """
    key, equals, value = text.partition("=")
    keys = [part.strip() for part in key.split(".")]
    if not equals or not all(keys):
        raise RecipeError(f"--set {text}: give key=value, as in stages.matting.steps=100")
    *above, last = keys
    for row in _rows(table, above, text):
        row[last] = _value(value)
        # A stage has either steps or epochs; the override replaces the other.
        if above[:1] == ["stages"] and last in ("steps", "epochs"):
            row.pop("epochs" if last == "steps" else "steps", None)


def _rows(node: Any, keys: list[str], text: str) -> list[dict[str, Any]]:
    """Return the tables that the keys address; several if a folder occurs twice in a list."""
    if not keys:
        if not isinstance(node, dict):
            raise RecipeError(f"--set {text}: this is a list of tables; name one, as in stages.matting.steps")
        return [node]
    key, *rest = keys
    if isinstance(node, list):
        found = [row for row in node if key in (row.get("name"), row.get("folder"))]
        if not found:
            there = ", ".join(dict.fromkeys(str(row.get("name") or row.get("folder")) for row in node))
            raise RecipeError(f"--set {text}: there is no {key}; choose from {there}")
        return [row for one in found for row in _rows(one, rest, text)]
    if not isinstance(node, dict) or not isinstance(node.get(key, {}), dict | list):
        raise RecipeError(f"--set {text}: {key} is not a table")
    return _rows(node.setdefault(key, {}), rest, text)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def recipe_names(generators: bool = False) -> list[str]:
    """Return the names of the bundled recipes, of matting networks or of generators."""
    names = sorted(p.relative_to(RECIPES).with_suffix("").as_posix() for p in RECIPES.rglob("*.toml"))
    return [name for name in names if (name.partition("/")[0] == GENERATORS) == generators]


def trains_generator(name_or_path: str) -> bool:
    """Tell whether a recipe trains a generator, that is, has a table [generator].

    Raises:
        RecipeError: The recipe does not exist, or is not valid TOML.
    """
    return "generator" in read_recipe(find_recipe(name_or_path))
