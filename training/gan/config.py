"""Recipes that train a generator, as TOML files that are checked before anything starts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from models.gan.augment import OPERATIONS
from models.gan.generator import GeneratorConfig
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
    one_of,
)

Reals = Literal["photos", "composites"]
Backbone = Literal["clip", "encoder", "none"]
Mode = Literal["ada", "fixed", "none"]
Operation = Annotated[str, AfterValidator(one_of("operation", OPERATIONS))]


@dataclass(frozen=True)
class PictureSet:
    """One folder of pictures below the data root.

    Attributes:
        folder: Its name.
        layout: How its files lie, a name of `training.data.layouts.LAYOUTS`. A picture's alpha is its own
            fourth channel, its file in alpha/, or the matte prepared for it.
    """

    folder: str
    layout: LayoutName = "plain"


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
    group: Count = 4
    rate: Positive = 0.002
    r1_gamma: NonNegative = 10.0
    r1_every: Count = 16


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
    weight: NonNegative = 1.0
    warmup_kimg: NonNegative = 500.0
    rate: Positive = 0.002


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
    p: Fraction = 0.0
    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    kimg: Positive = 500.0
    operations: tuple[Operation, ...] = OPERATIONS


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
    kimg: Positive
    batch_size: Count = 32
    backgrounds: PictureSet | None = None
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    vision_aided: VisionCritic = field(default_factory=VisionCritic)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mirror: bool = True
    held_out_every: HeldOutEvery = 0
    generator_rate: Positive = 0.0025
    ema_kimg: NonNegative = 0.0
    ema_rampup: NonNegative = 0.05
    blur_px: NonNegative = 0.0
    blur_kimg: Positive = 200.0
    snapshot_kimg: Positive = 200.0
    score_pictures: Annotated[int, Field(ge=0)] = 10000
    seed: Seed = 0
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
    table["sets"] = build_rows(PictureSet, table, "sets", path)
    for key, kind in _TABLES.items():
        if key in table:
            if not isinstance(table[key], dict):
                raise RecipeError(f"{path}: {key} must be a table, under [{key}]")
            table[key] = build_table(kind, table[key], f"{path}: [{key}]")
    recipe: GanRecipe = build_table(GanRecipe, table, str(path))
    if not recipe.sets:
        raise RecipeError(f"{path}: no sets")
    return recipe
