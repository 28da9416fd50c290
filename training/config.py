"""Recipes: training runs described in TOML files, validated before a run starts."""

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
LABEL_OF_KIND = {"photos": "mask", "mattes": "alpha", "hair_only": "hair"}  # required label of each kind
PLACES = ("image", "labels")  # fields of a set with paths on this machine


@dataclass(frozen=True)
class DataSet:
    """One folder below the data root.

    Attributes:
        folder: Name of the folder.
        kind: "photos" with masks of the whole subject, "mattes" with alphas, "hair_only" with hair maps,
            "cutouts" with a true alpha channel, "backgrounds" without subjects, or "unlabelled" photos, which
            a teacher labels.
        share: How often it is sampled, relative to the other sets. Backgrounds are sampled this often as
            images without a subject, in addition to their use behind cut-outs.
        layout: Layout of the files, a name in `training.data.layouts.LAYOUTS`.
        band: Width of the unknown band for masks, see `training.data.pseudo_alpha.make_trimap`.
        belief: Label confidence: a factor on the weight of its labels, below 1 for sets with known errors.
        incomplete: Stems of photos whose mask leaves out a subject; they are only used as cut-outs.
        wrong: Stems of photos with wrong labels; they are not used.
        colours: Foreground colours on a new background: "estimated" before the run, a quicker estimate during
            the run ("fused"), or those of the "raw" photo, whose soft parts contain its old background.
        image: Folder of the photos, for `--image`.
        labels: Folder of their labels, for `--mask` or `--alpha`.
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
        """Layout of its files: the named layout, or two given folders."""
        if not self.image:
            return LAYOUTS[self.layout]
        label = LABEL_OF_KIND[self.kind]
        labels: dict[str, tuple[str, ...]] = {label: (self.labels,)}
        if self.kind == "mattes":  # how far to believe them, where that lies beside them
            labels["weight"] = (str(Path(self.labels).parent / "weight"),)
        return Layout("two folders", (self.image,), labels, (label,))


@dataclass(frozen=True)
class Validation:
    """A set that is scored during training, by the published protocol.

    Attributes:
        folder: Name of the folder below the data root.
        layout: Layout of the files, a name in `training.data.layouts.LAYOUTS`; it must have alphas.
        photos: Number of photos, spread evenly over the set.
        resolution: Input of the network: the "full" photo, "half" of each side, or its "working" size.
    """

    folder: str
    layout: LayoutName = "plain"
    photos: Count = 50
    resolution: Resolution = "full"

    @property
    def rules(self) -> Layout:
        """Layout of its files."""
        return LAYOUTS[self.layout]


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own sizes, losses and learning rate.

    Attributes:
        name: Name in logs, following the article where possible.
        steps: Optimiser steps; 0 if `epochs` is given.
        batch_size: Images per optimiser step, over all processes and accumulated passes.
        side: Smallest and largest side of a square with as many pixels as a training image.
        guide_scale: Size of the guide relative to the network's input.
        learning_rate: Peak learning rate of decoder and head.
        encoder_rate: Factor on the learning rate for the encoder.
        warmup_steps: Steps of linear warm-up before the cosine decay to 1/50.
        composite: Fraction of photos whose background is replaced.
        pairs: Fraction of images with two subjects on a background; most of them overlap.
        prior: Fraction of images with a prior, see `training.data.priors`; if above 0, it is at least 0.7 for
            pairs.
        priors_per_image: Priors for each image, each with its own target; needs only_selection. The frozen
            network runs once for all of them.
        shares: Folder → share, to override the shares of the recipe's sets in this stage.
        fine: Losses on the full-size logits, name → weight.
        coarse: Losses on the coarse logits, name → weight.
        epochs: Alternative to steps; an epoch has as many images as the stage's sets with subjects.
        layer_decay: Factor on the encoder's learning rate per level, from the deepest level to the stem.
        frozen: Number of encoder levels to freeze, from the stem up, including their norms. The first two
            levels take half the time of a step.
        only_selection: Freeze all but the module that follows priors: results without a prior stay.
        freeze_norms: Keep the statistics of batch norms; for batches too small to measure them.
        augmentation: This project's "own" augmentation, or the one "published" with StyleMatte.
        optional: Skip the stage if one of its sets does not exist below the data root.
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
    priors_per_image: Count = 1
    shares: dict[str, float] = field(default_factory=dict)
    fine: dict[str, float] = field(default_factory=dict)
    coarse: dict[str, float] = field(default_factory=dict)
    epochs: float = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    frozen: Annotated[int, Field(ge=0, le=ENCODER_LEVELS)] = 0
    only_selection: bool = False
    freeze_norms: bool = False
    augmentation: Augmentation = "own"
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """A training run. See `training/recipes/nano.toml` for an example with comments.

    Attributes:
        preset: Name of the network, see `models.presets`.
        sets: Data sets to sample from.
        stages: Stages, in order.
        seed: Random seed.
        held_out_every: Hold out one image in this many; 0 holds out none.
        ema_decay: Decay of the moving average of the weights, which is saved.
        weight_decay: Weight decay of AdamW.
        clip_norm: Maximum gradient norm.
        validation: Sets to score during training; without any, the held-out split of `sets` is scored.
        network: Fields of the preset that this recipe changes.
        about: One-sentence description for `stylematte train`.
        init: Weights to start from, a name or a file; empty for none. The command line overrides it.
        open_sets: Use the sets that exist below the data root, or those named on the command line.
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
        """Return the preset with this recipe's changes."""
        return dataclasses.replace(PRESETS[self.preset], **self.network)

    def digest(self) -> dict[str, Any]:
        """Return the recipe as plain values to save with its results, without paths on this machine."""
        values = dataclasses.asdict(self)
        values = {key: values[key] for key in _DIGESTED}
        sets = [{k: v for k, v in data_set.items() if k not in PLACES} for data_set in values["sets"]]
        return values | {"sets": tuple(sets)}


# In the order of the first version, because run folders compare the text of the digest.
_DIGESTED = (
    *("preset", "sets", "stages", "seed", "held_out_every", "ema_decay", "weight_decay", "clip_norm"),
    *("validation", "network"),
)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name in `training/recipes` or by its path.

    With `extends = "name"`, or a path relative to its folder, a recipe starts from another one: its own keys
    replace those of the same name, and `network` is merged key by key. `only_stages` selects stages by name,
    see `select_stages`.

    Args:
        name_or_path: A name, or the path of a .toml file.
        overrides: `key=value`, see `training.recipe_files.override`.

    Raises:
        RecipeError: There is no such recipe, or a key is unknown, missing, or of the wrong type.
    """
    path = find_recipe(name_or_path)
    table = read_recipe(path, overrides)
    if "generator" in table:
        raise RecipeError(f"{path}: this recipe trains a generator, not a matting network")
    only = table.pop("only_stages", None)
    # A stage has either steps or epochs; the other is 0.
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
    """Return a recipe with selected stages, in its order; selected stages are no longer optional.

    Args:
        recipe: The recipe.
        names: Names of stages.
        where: Prefix of the error message.

    Raises:
        RecipeError: There is no such stage.
    """
    known = [stage.name for stage in recipe.stages]
    if not names or set(names) - set(known):
        unknown = sorted(set(names) - set(known))[0] if names else ""
        raise RecipeError(f"{where}: unknown stage {unknown!r}; the recipe has {', '.join(known)}")
    stages = (dataclasses.replace(s, optional=False) for s in recipe.stages if s.name in names)
    return dataclasses.replace(recipe, stages=tuple(stages))


def _check(recipe: Recipe, path: Path) -> None:
    if recipe.preset not in PRESETS:
        raise RecipeError(f"{path}: unknown preset {recipe.preset!r}; choose from {', '.join(OFFERED)}")
    _check_network(recipe, f"{path}: [network]")
    if not recipe.open_sets and not any(s.kind != "backgrounds" and s.share > 0 for s in recipe.sets):
        raise RecipeError(f"{path}: no set with subjects")
    if not recipe.stages:
        raise RecipeError(f"{path}: no stages")
    for stage in recipe.stages:
        _check_stage(stage, recipe, f"{path}: {stage.name}")
    check_priors(recipe, str(path))


def check_priors(recipe: Recipe, where: str) -> None:
    """Reject stages with priors if the network does not take one.

    Raises:
        RecipeError: There is such a stage; `where` is the prefix of the message.
    """
    if recipe.build_preset().prior:
        return
    for stage in recipe.stages:
        if stage.prior:
            raise RecipeError(
                f"{where}: {stage.name}: prior must be 0, as network {recipe.preset} takes none"
            )


def _check_network(recipe: Recipe, where: str) -> None:
    known = [field.name for field in dataclasses.fields(Preset)]
    known.remove("name")  # the weights file names the preset that was changed
    if unknown := set(recipe.network) - set(known):
        raise RecipeError(f"{where}: unknown key {sorted(unknown)[0]}; known are {', '.join(known)}")
    build_table(Preset, dataclasses.asdict(PRESETS[recipe.preset]) | recipe.network, where)


def _check_stage(stage: Stage, recipe: Recipe, where: str) -> None:
    shares = {s.folder: stage.shares.get(s.folder, s.share) for s in recipe.sets}
    if unknown := set(stage.shares) - set(shares):
        raise RecipeError(f"{where}: shares of {sorted(unknown)[0]}, which is not a set of the recipe")
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
    if stage.only_selection and not stage.prior:
        raise RecipeError(f"{where}: only_selection needs prior above 0")
    if stage.only_selection and stage.fine:
        raise RecipeError(f"{where}: only_selection takes coarse losses alone")
    if stage.priors_per_image > 1 and not stage.only_selection:
        raise RecipeError(f"{where}: priors_per_image above 1 needs only_selection = true")
    if (stage.steps > 0) == (stage.epochs > 0) or min(stage.steps, stage.epochs) < 0:
        raise RecipeError(f"{where}: give either steps or epochs, above 0")
