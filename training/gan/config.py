"""Recipes that train a generator: TOML files, validated before a run starts."""

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
class ImageSet:
    """One folder of images below the data root.

    Attributes:
        folder: Name of the folder.
        layout: Layout of its files, a name in `training.data.layouts.LAYOUTS`. An image's alpha is its fourth
            channel, its file in alpha/, or a prepared matte.
    """

    folder: str
    layout: LayoutName = "plain"


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator of all four channels.

    Attributes:
        channel_base: Product of a map's channels and side.
        channel_max: Maximum number of channels.
        group: Group size of the minibatch standard deviation.
        rate: Learning rate of Adam.
        r1_gamma: Weight of the R1 gradient penalty.
        r1_every: Steps between penalties, whose weight is multiplied by this.
    """

    channel_base: int = 32768
    channel_max: int = 512
    group: Count = 4
    rate: Positive = 0.002
    r1_gamma: NonNegative = 10.0
    r1_every: Count = 16


@dataclass(frozen=True)
class VisionAidedConfig:
    """The discriminator of composites, on the features of a frozen network.

    Attributes:
        backbone: "clip" or "encoder", see `models.gan.backbones`; "none" turns it off.
        reals: Its real images: "photos", as in the article, or "composites" on the same backgrounds, as in
            the published code.
        weight: Weight of its term in the generator's loss.
        warmup_kimg: Thousands of images before its term is added to the generator's loss.
        rate: Learning rate of Adam for its heads.
    """

    backbone: Backbone = "none"
    reals: Reals = "photos"
    weight: NonNegative = 1.0
    warmup_kimg: NonNegative = 500.0
    rate: Positive = 0.002


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of the discriminators' inputs, see `models.gan.augment`.

    Attributes:
        mode: "ada" adapts the probability, "fixed" keeps it, "none" turns augmentation off.
        p: Initial probability.
        target: Target of the mean sign of the discriminator's logits for real images.
        kimg: Thousands of images in which the probability can rise from 0 to 1.
        operations: Operations from `models.gan.augment.OPERATIONS`.
    """

    mode: Mode = "ada"
    p: Fraction = 0.0
    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    kimg: Positive = 500.0
    operations: tuple[Operation, ...] = OPERATIONS


@dataclass(frozen=True)
class GanRecipe:
    """A training run of a generator. See `training/recipes/gan/faces-64.toml` for an example with comments.

    Attributes:
        generator: The generator.
        sets: Sets of real images.
        kimg: Length of the run, in thousands of real images.
        batch_size: Images per step, over all processes and accumulated passes.
        backgrounds: Set of backgrounds for composites; without it, random colours are used.
        discriminator: Discriminator of all four channels.
        vision_aided: Discriminator of composites.
        augmentation: Augmentation of both discriminators' inputs.
        mirror: Add a mirrored copy of every image.
        held_out_every: Hold out one image in this many; 0 holds out none.
        generator_rate: Learning rate of the generator's Adam.
        ema_kimg: Half-life of the weights' moving average; 0 selects batch_size · 10 / 32.
        ema_rampup: Maximum of this half-life, as a fraction of the images seen.
        blur_px: Initial sigma of the blur of the discriminators' inputs.
        blur_kimg: Thousands of images after which the blur has faded.
        snapshot_kimg: Thousands of images between snapshots, with scores and sample grids.
        score_pictures: Images to generate for a score; 0 turns scores off.
        seed: Random seed.
        about: One-sentence description for `stylematte train`.
    """

    generator: GeneratorConfig
    sets: tuple[ImageSet, ...]
    kimg: Positive
    batch_size: Count = 32
    backgrounds: ImageSet | None = None
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    vision_aided: VisionAidedConfig = field(default_factory=VisionAidedConfig)
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
        """Return the recipe as plain values, to save with its results."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "about"}


_TABLES = {
    "generator": GeneratorConfig,
    "backgrounds": ImageSet,
    "discriminator": DiscriminatorConfig,
    "vision_aided": VisionAidedConfig,
    "augmentation": Augmentation,
}


def load_gan_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> GanRecipe:
    """Read a recipe; arguments and `extends` as in `training.config.load_recipe`.

    Raises:
        RecipeError: There is no such recipe, or a key is unknown, missing, or of the wrong type.
    """
    path = find_recipe(name_or_path)
    table = read_recipe(path, overrides)
    table["sets"] = build_rows(ImageSet, table, "sets", path)
    for key, kind in _TABLES.items():
        if key in table:
            if not isinstance(table[key], dict):
                raise RecipeError(f"{path}: {key} must be a table, under [{key}]")
            table[key] = build_table(kind, table[key], f"{path}: [{key}]")
    recipe: GanRecipe = build_table(GanRecipe, table, str(path))
    if not recipe.sets:
        raise RecipeError(f"{path}: no sets")
    return recipe
