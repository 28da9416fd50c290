"""Recipes: what a training run does, as TOML files that are checked before anything starts."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from models.presets import PRESETS
from training.data.layouts import LAYOUTS
from training.data.pseudo_alpha import Band
from training.losses import LOSSES

RECIPES = Path(__file__).parent / "recipes"
SetKind = Literal["photos", "mattes", "hair_only", "cutouts", "backgrounds", "unlabelled"]
Colours = Literal["estimated", "raw"]
Resolution = Literal["full", "half", "working"]
Augmentation = Literal["own", "published"]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class DataSet:
    """One folder below the data root.

    Attributes:
        folder: Its name.
        kind: "photos" with masks of the whole subject, "mattes" with an alpha of their own, "hair_only" with
            maps of nothing but hair, "cutouts" with a true alpha channel, "backgrounds" without subjects, or
            "unlabelled" photos, on which a teacher has the say.
        share: How often it is drawn, relative to the others. Backgrounds are drawn as empty pictures that
            often, besides standing behind cut-outs.
        layout: How the files lie, a name of `training.data.layouts.LAYOUTS`.
        band: Width of the unknown band for masks, see `training.data.pseudo_alpha.make_trimap`.
        belief: Factor on the weight of its labels, below 1 for sets with known slips.
        incomplete: Stems of photos that show a subject which their mask leaves out; used as cut-outs alone.
        colours: What covers a new background: the subject's "estimated" colours, or the "raw" photo's, in
            whose soft parts the old background shows.
    """

    folder: str
    kind: SetKind
    share: float
    layout: str = "plain"
    band: Band = "narrow"
    belief: float = 1.0
    incomplete: tuple[str, ...] = ()
    colours: Colours = "estimated"


@dataclass(frozen=True)
class Validation:
    """A set that is scored while training goes on, by the published protocol.

    Attributes:
        folder: Its name below the data root.
        layout: How the files lie, a name of `training.data.layouts.LAYOUTS`; with alphas.
        photos: How many of it, spread evenly.
        resolution: What the network sees: the "full" photo, "half" of each side, or its "working" size.
    """

    folder: str
    layout: str = "plain"
    photos: int = 50
    resolution: Resolution = "full"


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own sizes, losses and learning rate.

    Attributes:
        name: Shown in logs; the article's words where it has one.
        steps: Optimiser steps.
        batch_size: Pictures a step.
        side: Smallest and largest side of the square with as many pixels as a training picture.
        guide_scale: Size of the guide relative to the picture the network sees.
        learning_rate: Peak, for decoder and head.
        encoder_rate: Factor on it for the encoder.
        warmup_steps: Steps of linear rise before the cosine fall to a fiftieth.
        composite: Share of photos whose background is exchanged.
        shares: Folder → share, where a stage draws a set more or less often than the recipe's sets say.
        fine: Losses on the full-size logits, name → weight.
        coarse: Losses on the coarse logits.
        augmentation: How views are drawn, this project's "own" way or as "published" with StyleMatte.
        optional: Left out where a set that it draws is not below the data root.
    """

    name: str
    steps: int
    batch_size: int
    side: tuple[int, int]
    learning_rate: float
    guide_scale: float = 1.0
    encoder_rate: float = 0.3
    warmup_steps: int = 100
    composite: float = 0.3
    shares: dict[str, float] = field(default_factory=dict)
    fine: dict[str, float] = field(default_factory=dict)
    coarse: dict[str, float] = field(default_factory=dict)
    augmentation: Augmentation = "own"
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole run. See `training/recipes/nano.toml` for one with comments."""

    preset: str
    sets: tuple[DataSet, ...]
    stages: tuple[Stage, ...]
    seed: int = 0
    held_out_every: int = 10
    ema_decay: float = 0.998
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    validation: tuple[Validation, ...] = ()

    def digest(self) -> dict[str, Any]:
        """The recipe as plain values, to be saved beside what it made."""
        return dataclasses.asdict(self)


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by its name in `training/recipes` or by its path.

    Raises:
        RecipeError: No such recipe, or a key that is unknown, missing, or of the wrong kind.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name_or_path}; there are {', '.join(recipe_names())}, or give a .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from None
    for key in ("sets", "stages"):
        rows = table.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RecipeError(f"{path}: {key} must be tables, each under [[{key}]]")
    sets = tuple(_build(DataSet, row, f"{path}: [[sets]]") for row in table.pop("sets", []))
    stages = tuple(_build(Stage, row, f"{path}: [[stages]]") for row in table.pop("stages", []))
    recipe = _build(Recipe, table | {"sets": sets, "stages": stages}, str(path))
    _check(recipe, path)
    return recipe


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.stem for p in RECIPES.glob("*.toml"))


def _build(kind: type, row: dict[str, Any], where: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := set(row) - set(known):
        raise RecipeError(f"{where}: unknown key {sorted(unknown)[0]}; known are {', '.join(known)}")
    required = {
        n
        for n, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := required - set(row):
        raise RecipeError(f"{where}: {sorted(missing)[0]} is missing")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
    hints = get_type_hints(kind)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            wanted = getattr(hints[key], "__name__", hints[key])
            raise RecipeError(f"{where}: {key} = {value!r} is no {wanted}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a TOML value is of a field's type; choices among words are left to `_check`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if origin is tuple and Ellipsis in arguments:
        return isinstance(value, tuple) and (arguments[0] is not str or all(_fits(v, str) for v in value))
    if origin is tuple:
        same_length = isinstance(value, tuple) and len(value) == len(arguments)
        return same_length and all(map(_fits, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _check(recipe: Recipe, path: Path) -> None:
    if recipe.preset not in PRESETS:
        raise RecipeError(f"{path}: preset {recipe.preset!r} is none of {', '.join(PRESETS)}")
    if recipe.held_out_every < 2:
        raise RecipeError(f"{path}: held_out_every must be 2 or more, or nothing is left to train on")
    if recipe.seed < 0 or not 0 <= recipe.ema_decay < 1:
        raise RecipeError(f"{path}: seed must be 0 or more, ema_decay from 0 to below 1")
    for data_set in recipe.sets:
        if data_set.share < 0 or not 0 <= data_set.belief <= 1:
            raise RecipeError(f"{path}: {data_set.folder}: share must be 0 or more, belief from 0 to 1")
        for value, allowed in ((data_set.kind, get_args(SetKind)), (data_set.band, get_args(Band))):
            if value not in allowed:
                raise RecipeError(f"{path}: {data_set.folder}: {value!r} is none of {', '.join(allowed)}")
    layouts = [(s.folder, s.layout) for s in recipe.sets] + [(s.folder, s.layout) for s in recipe.validation]
    for folder, layout in layouts:
        if layout not in LAYOUTS:
            raise RecipeError(f"{path}: {folder}: layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if not any(s.kind != "backgrounds" and s.share > 0 for s in recipe.sets):
        raise RecipeError(f"{path}: no set with subjects")
    if not recipe.stages:
        raise RecipeError(f"{path}: no stages")
    for stage in recipe.stages:
        _check_stage(stage, recipe, f"{path}: {stage.name}")


def _check_stage(stage: Stage, recipe: Recipe, where: str) -> None:
    shares = {s.folder: stage.shares.get(s.folder, s.share) for s in recipe.sets}
    if strange := set(stage.shares) - set(shares):
        raise RecipeError(f"{where}: shares of {sorted(strange)[0]}, which is no set of the recipe")
    if min(shares.values()) < 0 or not any(shares.values()):
        raise RecipeError(f"{where}: shares must be 0 or more, and one of them above 0")
    if unknown := (set(stage.fine) | set(stage.coarse)) - set(LOSSES):
        raise RecipeError(f"{where}: unknown loss {sorted(unknown)[0]}; known are {', '.join(LOSSES)}")
    if not stage.fine and not stage.coarse:
        raise RecipeError(f"{where}: no losses")
    if not 0 < stage.side[0] <= stage.side[1]:
        raise RecipeError(f"{where}: side must be [smallest, largest]")
    if stage.steps < 1 or stage.batch_size < 1:
        raise RecipeError(f"{where}: steps and batch_size must be 1 or more")
    if stage.learning_rate <= 0 or stage.encoder_rate < 0 or stage.guide_scale <= 0:
        raise RecipeError(f"{where}: learning_rate and guide_scale must be above 0, encoder_rate not below")
