"""Recipes: what a training run does, as TOML files that are checked before anything starts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from models.encoder import ENCODER_LEVELS
from models.presets import OFFERED, PRESETS, Preset
from training.data.layouts import LAYOUTS, Layout
from training.data.pseudo_alpha import Band
from training.losses import FINE_ONLY, LOSSES
from training.recipe_files import RecipeError, find_recipe, read_recipe
from training.tables import (
    Count,
    Fraction,
    HeldOutEvery,
    LayoutName,
    NonNegative,
    Positive,
    Seed,
    build_rows,
    build_table,
)

SetKind = Literal["photos", "mattes", "hair_only", "cutouts", "backgrounds", "unlabelled"]
Colours = Literal["estimated", "fused", "raw"]
Resolution = Literal["full", "half", "working"]
Augmentation = Literal["own", "published"]
LABEL_OF_KIND = {"photos": "mask", "mattes": "alpha", "hair_only": "hair"}  # the label that a set must have
PLACES = ("image", "labels")  # fields of a set that say where it lies on one machine


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
        wrong: Stems of photos whose label is not to be believed at all; never drawn.
        colours: What covers a new background: the subject's "estimated" colours, prepared before a run; a
            quicker estimate made as they are drawn, "fused"; or the "raw" photo's, in whose soft parts the
            old background shows.
        image: Folder of the photos, where it is no part of a layout: `--image`.
        labels: Folder of their labels, of the kind that `kind` needs: `--mask` or `--alpha`.
    """

    folder: str
    kind: SetKind
    share: NonNegative
    layout: LayoutName = "plain"
    band: Band = "narrow"
    belief: Fraction = 1.0
    incomplete: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    colours: Colours = "estimated"
    image: str = ""
    labels: str = ""

    @property
    def rules(self) -> Layout:
        """How its files lie: as the layout says, or in the two folders that were named."""
        if not self.image:
            return LAYOUTS[self.layout]
        label = LABEL_OF_KIND[self.kind]
        labels = {label: (self.labels,)}
        if self.kind == "mattes":  # how far to believe them, where that lies beside them
            labels["weight"] = (str(Path(self.labels).parent / "weight"),)
        return Layout("two folders", (self.image,), labels, (label,))


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
    layout: LayoutName = "plain"
    photos: Count = 50
    resolution: Resolution = "full"

    @property
    def rules(self) -> Layout:
        """How its files lie."""
        return LAYOUTS[self.layout]


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own sizes, losses and learning rate.

    Attributes:
        name: Shown in logs; the article's words where it has one.
        steps: Optimiser steps; 0 where `epochs` says how long.
        batch_size: Pictures of one optimiser step, over all processes and accumulated passes together.
        side: Smallest and largest side of the square with as many pixels as a training picture.
        guide_scale: Size of the guide relative to the picture the network sees.
        learning_rate: Peak, for decoder and head.
        encoder_rate: Factor on it for the encoder.
        warmup_steps: Steps of linear rise before the cosine fall to a fiftieth.
        composite: Share of photos whose background is exchanged.
        pairs: Share of pictures that are two subjects on a background; most of them overlap.
        prior: Share of pictures for which the network is given a prior, see `training.data.priors`; of
            pairs, where it is above 0, at least 0.7.
        shares: Folder → share, where a stage draws a set more or less often than the recipe's sets say.
        fine: Losses on the full-size logits, name → weight.
        coarse: Losses on the coarse logits.
        epochs: In place of steps: how often as many pictures as its sets with subjects hold are drawn.
        layer_decay: The encoder's rate falls by this factor a level, from the deepest to the stem.
        frozen: So many of the encoder's levels, from the stem up, stay as they are, norms and all, and no
            gradient runs through them: half the time of a step lies in its first two.
        freeze_norms: Batch norms keep the statistics they have; for batches too small to measure them on.
        augmentation: How views are drawn, this project's "own" way or as "published" with StyleMatte.
        optional: Left out where a set that it draws is not below the data root.
    """

    name: str
    steps: int
    batch_size: Count
    side: tuple[int, int]
    learning_rate: Positive
    guide_scale: Positive = 1.0
    encoder_rate: NonNegative = 0.3
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    composite: Fraction = 0.3
    pairs: Fraction = 0.0
    prior: Fraction = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    fine: dict[str, float] = field(default_factory=dict)
    coarse: dict[str, float] = field(default_factory=dict)
    epochs: float = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    frozen: Annotated[int, Field(ge=0, le=ENCODER_LEVELS)] = 0
    freeze_norms: bool = False
    augmentation: Augmentation = "own"
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole run. See `training/recipes/nano.toml` for one with comments.

    Attributes:
        preset: Name of the network, see `models.presets`.
        sets: What pictures are drawn from.
        stages: What is done with them, in order.
        seed: Of everything random.
        held_out_every: One picture in so many is never trained on; 0 trains on all of them.
        ema_decay: Of the running average of the weights, which is what is saved.
        weight_decay: Of AdamW.
        clip_norm: Greatest norm of a step's gradient.
        validation: Sets scored while training goes on; the held-out part of `sets` where there are none.
        network: Fields of the preset that this recipe changes.
        about: One sentence for `stylematte train`.
        init: Weights to begin with, a name or a file; none where empty, or where the command line says so.
        open_sets: The sets are those found below the data root, or named on the command line.
    """

    preset: str
    sets: tuple[DataSet, ...]
    stages: tuple[Stage, ...]
    seed: Seed = 0
    held_out_every: HeldOutEvery = 10
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    weight_decay: NonNegative = 0.01
    clip_norm: Positive = 1.0
    validation: tuple[Validation, ...] = ()
    network: dict[str, Any] = field(default_factory=dict)
    about: str = ""
    init: str = ""
    open_sets: bool = False

    def build_preset(self) -> Preset:
        """The preset with this recipe's changes."""
        return dataclasses.replace(PRESETS[self.preset], **self.network)

    def digest(self) -> dict[str, Any]:
        """The recipe as plain values, to be saved beside what it made; no places on this machine."""
        values = dataclasses.asdict(self)
        values = {key: values[key] for key in _DIGESTED}
        sets = [{k: v for k, v in data_set.items() if k not in PLACES} for data_set in values["sets"]]
        return values | {"sets": tuple(sets)}


# In the order of the first version: the text of a digest is what a run folder knows its recipe by.
_DIGESTED = (
    *("preset", "sets", "stages", "seed", "held_out_every", "ema_decay", "weight_decay", "clip_norm"),
    *("validation", "network"),
)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name in `training/recipes` or by its path.

    A recipe may say `extends = "name"`, or the path of a file, seen from its own folder: then it starts from
    that one, and its own keys replace those of the same name; `network` is joined key by key. `only_stages`
    picks stages by name, see `select_stages`.

    Args:
        name_or_path: A name, or the path of a .toml file.
        overrides: `key=value`, see `training.recipe_files.override`.

    Raises:
        RecipeError: No such recipe, or a key that is unknown, missing, or of the wrong kind.
    """
    path = find_recipe(name_or_path)
    table = read_recipe(path, overrides)
    if "generator" in table:
        raise RecipeError(f"{path}: it trains a generator, not a matting network")
    only = table.pop("only_stages", None)
    # A stage is as long as its steps or its epochs say: the one that is not given counts nothing.
    if isinstance(rows := table.get("stages"), list):
        table["stages"] = [{"steps": 0} | r if isinstance(r, dict) and "epochs" in r else r for r in rows]
    kinds = {"sets": DataSet, "stages": Stage, "validation": Validation}
    parts = {key: build_rows(kind, table, key, path) for key, kind in kinds.items()}
    recipe = build_table(Recipe, table | parts, str(path))
    _check(recipe, path)
    if only is None:
        return recipe
    if not isinstance(only, list) or not all(isinstance(name, str) for name in only):
        raise RecipeError(f"{path}: only_stages must be a list of names")
    return select_stages(recipe, tuple(only), f"{path}: only_stages")


def select_stages(recipe: Recipe, names: tuple[str, ...], where: str) -> Recipe:
    """The recipe with some of its stages, in its order; what is asked for by name is no longer optional.

    Args:
        recipe: As loaded.
        names: Of stages.
        where: Named in the error.

    Raises:
        RecipeError: There is no such stage.
    """
    known = [stage.name for stage in recipe.stages]
    if not names or set(names) - set(known):
        strange = sorted(set(names) - set(known))[0] if names else ""
        raise RecipeError(f"{where}: no stage {strange!r}; the recipe has {', '.join(known)}")
    stages = (dataclasses.replace(s, optional=False) for s in recipe.stages if s.name in names)
    return dataclasses.replace(recipe, stages=tuple(stages))


def _check(recipe: Recipe, path: Path) -> None:
    if recipe.preset not in PRESETS:
        raise RecipeError(f"{path}: preset {recipe.preset!r} is none of {', '.join(OFFERED)}")
    _check_network(recipe, f"{path}: [network]")
    if not recipe.open_sets and not any(s.kind != "backgrounds" and s.share > 0 for s in recipe.sets):
        raise RecipeError(f"{path}: no set with subjects")
    if not recipe.stages:
        raise RecipeError(f"{path}: no stages")
    for stage in recipe.stages:
        _check_stage(stage, recipe, f"{path}: {stage.name}")
    check_priors(recipe, str(path))


def check_priors(recipe: Recipe, where: str) -> None:
    """Refuse stages with priors for a network that takes none.

    Raises:
        RecipeError: There is one; `where` goes before the message.
    """
    if recipe.build_preset().prior:
        return
    for stage in recipe.stages:
        if stage.prior:
            raise RecipeError(f"{where}: {stage.name}: prior must be 0, network {recipe.preset} takes none")


def _check_network(recipe: Recipe, where: str) -> None:
    known = [field.name for field in dataclasses.fields(Preset)]
    known.remove("name")  # the weights file names the preset that was changed
    if unknown := set(recipe.network) - set(known):
        raise RecipeError(f"{where}: unknown key {sorted(unknown)[0]}; known are {', '.join(known)}")
    build_table(Preset, dataclasses.asdict(PRESETS[recipe.preset]) | recipe.network, where)


def _check_stage(stage: Stage, recipe: Recipe, where: str) -> None:
    shares = {s.folder: stage.shares.get(s.folder, s.share) for s in recipe.sets}
    if strange := set(stage.shares) - set(shares):
        raise RecipeError(f"{where}: shares of {sorted(strange)[0]}, which is no set of the recipe")
    if shares and (min(shares.values()) < 0 or not any(shares.values())):
        raise RecipeError(f"{where}: shares must be 0 or more, and one of them above 0")
    if unknown := (set(stage.fine) | set(stage.coarse)) - set(LOSSES):
        raise RecipeError(f"{where}: unknown loss {sorted(unknown)[0]}; known are {', '.join(LOSSES)}")
    if misplaced := set(stage.coarse) & set(FINE_ONLY):
        raise RecipeError(f"{where}: {sorted(misplaced)[0]} is a loss for fine, not for coarse")
    if not stage.fine and not stage.coarse:
        raise RecipeError(f"{where}: no losses")
    if not 0 < stage.side[0] <= stage.side[1]:
        raise RecipeError(f"{where}: side must be [smallest, largest]")
    if (stage.steps > 0) == (stage.epochs > 0) or min(stage.steps, stage.epochs) < 0:
        raise RecipeError(f"{where}: give either steps or epochs, above 0")
