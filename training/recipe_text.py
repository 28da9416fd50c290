"""Write recipes as TOML with every key, and the reference of all keys for the docs."""

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
    ImageSet,
    VisionAidedConfig,
)

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(recipe: Recipe | GanRecipe) -> str:
    """Return a recipe as TOML with every key; reading it gives the same recipe."""
    values = _values(recipe)
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lists = {k: v for k, v in values.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    plain = {k: v for k, v in values.items() if k not in tables and k not in lists}
    parts = [_lines(plain)]
    parts += [f"[{name}]\n{_lines(table)}" for name, table in tables.items()]
    parts += [f"[[{name}]]\n{_lines(row)}" for name, rows in lists.items() for row in rows]
    return "\n".join(parts)


def _values(recipe: Any) -> dict[str, Any]:
    """Return a dataclass's fields as TOML values, without empty ones."""
    values = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            value = _values(value)
        elif isinstance(value, tuple):
            value = [_values(v) if dataclasses.is_dataclass(v) else v for v in value]
        if value is not None and not (field.name in PLACES and not value):
            values[field.name] = value
    # A stage has either steps or epochs; the other is not written.
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
    ("Sets of a generator", "[[sets]] and [backgrounds]", ImageSet),
    ("Generator", "[generator]", GeneratorConfig),
    ("Discriminator", "[discriminator]", DiscriminatorConfig),
    ("Second discriminator", "[vision_aided]", VisionAidedConfig),
    ("Augmentation", "[augmentation]", Augmentation),
)


def key_reference() -> str:
    """Return the text of docs/recipes.md, whose tables come from the recipes' dataclasses."""
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
    """Return field → description in the docstring."""
    section = inspect.getdoc(kind).partition("Attributes:\n")[2]  # type: ignore[union-attr]
    found = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


_HEAD = """# Keys of a recipe

A recipe is a TOML file, either one from `training/recipes` or your own. `stylematte train --print RECIPE`
prints a recipe with every key. `--set` overrides a value, with the same checks as in a file; address a stage
by its name and a set by its folder:

```sh
stylematte train --print nano
stylematte train stylematte --set stages.matting.steps=100 --set seed=2
```

`extends = "NAME"` starts from another recipe, or from a .toml file in the same folder: keys in your file
replace keys of the same name, `[network]` is merged key by key, and `only_stages = ["NAME", ...]` keeps only
these stages.

These tables are generated from the code that checks recipes, with
`python -m training.recipe_text > docs/recipes.md`.
"""


if __name__ == "__main__":
    print(key_reference(), end="")
