"""Recipes that train a generator, as TOML files that are checked before anything starts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from models.gan.augment import OPERATIONS
from models.gan.generator import GeneratorConfig
from stylematte.errors import InputError
from training.config import build_table, check_word
from training.data.layouts import LAYOUTS
from training.recipe_files import RecipeError, find_recipe, read_recipe

Reals = Literal["photos", "composites"]
Backbone = Literal["clip", "encoder", "none"]
Mode = Literal["ada", "fixed", "none"]


@dataclass(frozen=True)
class PictureSet:
    """One folder of pictures below the data root.

    Attributes:
        folder: Its name.
        layout: How its files lie, a name of `training.data.layouts.LAYOUTS`. A picture's alpha is its own
            fourth channel, its file in alpha/, or the matte prepared for it.
    """

    folder: str
    layout: str = "plain"


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator of all four channels.

    Attributes:
        channel_base: Channels times side of a map.
        channel_max: Greatest number of channels.
        group: Pictures whose deviation is one feature, see `models.gan.discriminators.Discriminator`.
        rate: Learning rate of Adam.
        r1_gamma: Factor on the gradient penalty.
        r1_every: Steps from one penalty to the next; it counts that much more.
    """

    channel_base: int = 32768
    channel_max: int = 512
    group: int = 4
    rate: float = 0.002
    r1_gamma: float = 10.0
    r1_every: int = 16


@dataclass(frozen=True)
class VisionCritic:
    """The discriminator of composites that stands on a frozen network.

    Attributes:
        backbone: "clip" or "encoder", see `models.gan.backbones`; "none" goes without.
        reals: What its real pictures are: the "photos" themselves, as the article has it, or their
            "composites" on the same backgrounds, as the published code has it.
        weight: Factor on the generator's loss.
        warmup_kimg: The generator learns nothing from it before so many thousand pictures.
        rate: Learning rate of Adam, for its heads.
    """

    backbone: Backbone = "none"
    reals: Reals = "photos"
    weight: float = 1.0
    warmup_kimg: float = 500.0
    rate: float = 0.002


@dataclass(frozen=True)
class Augmentation:
    """What discriminators see changed, see `models.gan.augment`.

    Attributes:
        mode: "ada" finds the probability, "fixed" keeps it, "none" changes nothing.
        p: Probability at the start.
        target: Of the mean sign of the discriminator's answers to real pictures.
        kimg: Thousands of pictures in which the probability can go from 0 to 1.
        operations: Which of `models.gan.augment.OPERATIONS`.
    """

    mode: Mode = "ada"
    p: float = 0.0
    target: float = 0.6
    kimg: float = 500.0
    operations: tuple[str, ...] = OPERATIONS


@dataclass(frozen=True)
class GanRecipe:
    """A whole run. See `training/recipes/gan/faces-64.toml` for one with comments.

    Attributes:
        generator: The network.
        sets: What it learns from.
        kimg: Length, in thousands of real pictures.
        batch_size: Pictures of one step, over all processes and accumulated passes together.
        backgrounds: Set whose pictures stand behind composites; random colours where there is none.
        discriminator: Of all four channels.
        vision_aided: Of composites.
        augmentation: Of both.
        mirror: Every picture counts twice, once mirrored.
        held_out_every: One picture in so many is never trained on; 0 trains on all of them.
        generator_rate: Learning rate of Adam.
        ema_kimg: Half-life of the average of the weights; 0 takes batch_size · 10 / 32.
        ema_rampup: The half-life is at most this share of what was seen.
        blur_px: Deviation of the blur on all that discriminators see at the start.
        blur_kimg: It fades until here.
        snapshot_kimg: From one snapshot, with scores and sheets, to the next.
        score_pictures: Drawn for a score; 0 leaves scores out.
        seed: Of everything random.
        about: One sentence for `stylematte train`.
    """

    generator: GeneratorConfig
    sets: tuple[PictureSet, ...]
    kimg: float
    batch_size: int = 32
    backgrounds: PictureSet | None = None
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    vision_aided: VisionCritic = field(default_factory=VisionCritic)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mirror: bool = True
    held_out_every: int = 0
    generator_rate: float = 0.0025
    ema_kimg: float = 0.0
    ema_rampup: float = 0.05
    blur_px: float = 0.0
    blur_kimg: float = 200.0
    snapshot_kimg: float = 200.0
    score_pictures: int = 10000
    seed: int = 0
    about: str = ""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, round(self.kimg * 1000 / self.batch_size))

    def digest(self) -> dict[str, Any]:
        """The recipe as plain values, to be saved beside what it made."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "about"}


_TABLES = {
    "generator": GeneratorConfig,
    "backgrounds": PictureSet,
    "discriminator": DiscriminatorConfig,
    "vision_aided": VisionCritic,
    "augmentation": Augmentation,
}


def load_gan_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> GanRecipe:
    """Read a recipe; name or path, `extends` and `overrides` as in `training.config.load_recipe`.

    Raises:
        RecipeError: No such recipe, or a key that is unknown, missing, or of the wrong kind.
    """
    path = find_recipe(name_or_path)
    table = read_recipe(path, overrides)
    rows = table.get("sets", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecipeError(f"{path}: sets must be tables, each under [[sets]]")
    table["sets"] = [build_table(PictureSet, row, f"{path}: [[sets]]") for row in rows]
    for key, kind in _TABLES.items():
        if key in table:
            if not isinstance(table[key], dict):
                raise RecipeError(f"{path}: {key} must be a table, under [{key}]")
            try:
                table[key] = build_table(kind, table[key], f"{path}: [{key}]")
            except RecipeError:
                raise
            except (ValueError, InputError) as error:  # a size that no network has
                raise RecipeError(f"{path}: [{key}]: {error}") from None
    recipe = build_table(GanRecipe, table, str(path))
    _check(recipe, path)
    return recipe


def _check(recipe: GanRecipe, path: Path) -> None:
    if not recipe.sets:
        raise RecipeError(f"{path}: no sets")
    for one in (*recipe.sets, *([recipe.backgrounds] if recipe.backgrounds else [])):
        if one.layout not in LAYOUTS:
            raise RecipeError(f"{path}: {one.folder}: layout {one.layout!r} is none of {', '.join(LAYOUTS)}")
    critic, vision, change = recipe.discriminator, recipe.vision_aided, recipe.augmentation
    check_word(vision.backbone, get_args(Backbone), f"{path}: [vision_aided]")
    check_word(vision.reals, get_args(Reals), f"{path}: [vision_aided]")
    check_word(change.mode, get_args(Mode), f"{path}: [augmentation]")
    for name in change.operations:
        check_word(name, OPERATIONS, f"{path}: [augmentation]")
    if recipe.held_out_every < 0 or recipe.held_out_every == 1:
        raise RecipeError(f"{path}: held_out_every must be 2 or more, or 0 to hold nothing out")
    if not 0 <= change.p <= 1 or not -1 < change.target < 1:
        raise RecipeError(f"{path}: [augmentation]: p must be from 0 to 1, target between -1 and 1")
    above = {
        "kimg": recipe.kimg,
        "batch_size": recipe.batch_size,
        "generator_rate": recipe.generator_rate,
        "snapshot_kimg": recipe.snapshot_kimg,
        "discriminator.rate": critic.rate,
        "discriminator.r1_every": critic.r1_every,
        "discriminator.group": critic.group,
        "vision_aided.rate": vision.rate,
        "augmentation.kimg": change.kimg,
        "blur_kimg": recipe.blur_kimg,
    }
    not_below = {
        "seed": recipe.seed,
        "ema_kimg": recipe.ema_kimg,
        "ema_rampup": recipe.ema_rampup,
        "blur_px": recipe.blur_px,
        "score_pictures": recipe.score_pictures,
        "discriminator.r1_gamma": critic.r1_gamma,
        "vision_aided.weight": vision.weight,
        "vision_aided.warmup_kimg": vision.warmup_kimg,
    }
    for name, value in above.items():
        if value <= 0:
            raise RecipeError(f"{path}: {name} must be above 0")
    for name, value in not_below.items():
        if value < 0:
            raise RecipeError(f"{path}: {name} must be 0 or more")
