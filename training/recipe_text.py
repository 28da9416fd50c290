"""Recipes written out: as TOML with every key, and the reference of all keys for the docs."""

import dataclasses
import inspect
import json
import re
from typing import Any, get_type_hints

from models.presets import Preset
from training.config import PLACES, DataSet, Recipe, Stage, Validation
from training.gan.config import (
    Augmentation,
    DiscriminatorConfig,
    GanRecipe,
    GeneratorConfig,
    PictureSet,
    VisionCritic,
)

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(recipe: Recipe | GanRecipe) -> str:
    """A recipe as the text of a .toml file, with every key; read again it is the same recipe."""
    values = _values(recipe)
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lists = {k: v for k, v in values.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    plain = {k: v for k, v in values.items() if k not in tables and k not in lists}
    parts = [_lines(plain)]
    parts += [f"[{name}]\n{_lines(table)}" for name, table in tables.items()]
    parts += [f"[[{name}]]\n{_lines(row)}" for name, rows in lists.items() for row in rows]
    return "\n".join(parts)


def _values(recipe: Any) -> dict[str, Any]:
    """The fields of a dataclass as TOML knows them, those left out that are nothing."""
    values = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            value = _values(value)
        elif isinstance(value, tuple):
            value = [_values(v) if dataclasses.is_dataclass(v) else v for v in value]
        if value is not None and not (field.name in PLACES and not value):
            values[field.name] = value
    # Of the two lengths of a stage one counts nothing, and is no key of a file.
    if isinstance(recipe, Stage):
        del values["steps" if recipe.epochs else "epochs"]
    return values


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_text(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(k)} = {_text(v)}" for k, v in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return repr(value)


_TABLES: tuple[tuple[str, str, type], ...] = (
    ("Recipes of matting networks", "", Recipe),
    ("Sets", "[[sets]]", DataSet),
    ("Stages", "[[stages]]", Stage),
    ("Validation", "[[validation]]", Validation),
    ("Network", "[network]", Preset),
    ("Recipes of generators", "", GanRecipe),
    ("Sets of a generator", "[[sets]] and [backgrounds]", PictureSet),
    ("Generator", "[generator]", GeneratorConfig),
    ("Discriminator", "[discriminator]", DiscriminatorConfig),
    ("Second discriminator", "[vision_aided]", VisionCritic),
    ("Augmentation", "[augmentation]", Augmentation),
)


def key_reference() -> str:
    """docs/recipes.md, its tables made of the dataclasses that check the recipes."""
    text = _HEAD
    for title, header, kind in _TABLES:
        text += f"\n## {title}\n\n"
        if header:
            text += f"`{header}`\n\n"
        text += "| key | type | default | |\n|---|---|---|---|\n"
        text += "".join(_rows(kind))
    return text


def _rows(kind: type) -> list[str]:
    hints, about = get_type_hints(kind), _attributes(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if kind is Preset and field.name == "name":
            continue  # the weights file names the preset that was changed
        default = "must be given"
        if field.default is not dataclasses.MISSING:
            default = f"`{_text(field.default)}`" if field.default is not None else "none"
        elif field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            default = "`{}`" if made == {} else "its defaults"
        cells = (f"`{field.name}`", _type_name(hints[field.name]), default, about[field.name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return rows


def _type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    name = re.sub(r"\b(?:typing|training\.(?:gan\.)?config|models\.\w+(?:\.\w+)?)\.", "", name)
    words = re.fullmatch(r"Literal\[(.*)\]", name)
    return " or ".join(f"`{word.strip()}`" for word in words[1].split(",")) if words else f"`{name}`"


def _attributes(kind: type) -> dict[str, str]:
    """Field → what the docstring says of it."""
    section = inspect.getdoc(kind).partition("Attributes:\n")[2]  # type: ignore[union-attr]
    found = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


_HEAD = """# Keys of a recipe

A recipe is one TOML file: those of `training/recipes`, or one of yours. `stylematte train --print RECIPE`
writes one out with every key, and `--set` puts a value in the place of another, checked like the file's own;
a stage goes by its name, a set by its folder:

```sh
stylematte train --print nano
stylematte train stylematte --set stages.matting.steps=100 --set seed=2
```

A file that says `extends = "NAME"` (a recipe, or a .toml file beside it) starts from that one: its own keys
replace those of the same name, `[network]` is joined key by key, and `only_stages = ["NAME", ...]` keeps some
of the stages.

The tables are made from the code that checks recipes: `python -m training.recipe_text > docs/recipes.md`.
"""


if __name__ == "__main__":
    print(key_reference(), end="")
