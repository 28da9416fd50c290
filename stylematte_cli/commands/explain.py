"""What `stylematte train` says of recipes and plans, in words. Lines out; nothing is printed here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.config import Recipe, Stage
    from training.gan.config import GanRecipe
    from training.plan import Plan


def explain_all() -> Iterator[str]:
    """Every recipe of the package; those in a folder, which vary another one, in one line each."""
    from training.config import load_recipe, recipe_names
    from training.gan.config import load_gan_recipe

    names = recipe_names()
    for name in (n for n in names if "/" not in n):
        yield from explain(name, load_recipe(name))
        yield ""
    for name in (n for n in names if "/" in n):
        yield f"{name}: {load_recipe(name).about}"
    for name in recipe_names(generators=True):
        yield f"{name}: {load_gan_recipe(name).about}"
    yield from ("", "more of one: stylematte train RECIPE")
    yield "run one:     stylematte train RECIPE --data DIR --out DIR"


def explain(name: str, recipe: "Recipe") -> Iterator[str]:
    """One recipe: its network, its stages, and the data that it wants."""
    changes = "".join(f", {key} = {value}" for key, value in recipe.network.items())
    yield f"{name}: {recipe.about}".rstrip(": ")
    yield f"  network {recipe.preset}{changes}"
    yield from (f"  {_stage_line(stage)}" for stage in recipe.stages)
    yield "  data below --data:"
    for data_set in recipe.sets:
        if stages := _drawn_by(recipe, data_set.folder):
            yield f"    {data_set.folder}: {data_set.kind}, layout {data_set.layout}{stages}"
    for table in recipe.validation:
        scored = f"scored, {table.photos} photos, {table.resolution} size"
        yield f"    {table.folder}: {scored}, layout {table.layout}"


def explain_generator(name: str, recipe: "GanRecipe") -> Iterator[str]:
    """A recipe that trains a generator: its network, length and judges, and the data that it wants."""
    config, vision, change = recipe.generator, recipe.vision_aided, recipe.augmentation
    yield f"{name}: {recipe.about}".rstrip(": ")
    yield f"  network StyleGAN3-{config.kind.upper()}, {config.size_px} px, {config.channels} channels"
    length = f"{recipe.kimg:g} kimg in batches of {recipe.batch_size}"
    yield f"  {length}; a snapshot every {recipe.snapshot_kimg:g} kimg"
    if vision.backbone != "none":
        yield f"  judged by {vision.backbone}, too: {vision.reals} against composites"
    how = {"ada": f"adaptive, target {change.target:g}", "fixed": f"p = {change.p:g}", "none": "none"}
    yield f"  augmentation: {how[change.mode]}"
    yield "  data below --data, or --data itself:"
    for one in recipe.sets:
        yield f"    {one.folder}: photos, layout {one.layout}; RGBA, with alpha/, or matted before the run"
    if recipe.backgrounds is not None:
        behind = recipe.backgrounds
        yield f"    {behind.folder}: backgrounds, layout {behind.layout}; may be missing"


def explain_plan(name: str, plan: "Plan") -> Iterator[str]:
    """What a run would do with the data that is there."""
    recipe = plan.recipe
    yield f"{name}: network {recipe.preset}, {sum(stage.steps for stage in recipe.stages)} steps"
    for stage in recipe.stages:
        yield f"  {_stage_line(stage)}"
        shares = {s.folder: stage.shares.get(s.folder, s.share) for s in recipe.sets}
        drawn = {folder: share / sum(shares.values()) for folder, share in shares.items() if share > 0}
        yield "    draws " + ", ".join(f"{folder} {share:.0%}" for folder, share in drawn.items())
    for folder, count in plan.pictures.items():
        yield f"  {folder}: {count} pictures to train on, {plan.held_out[folder]} held out"
    yield from (f"  {line}" for line in plan.skipped)


def _stage_line(stage: "Stage") -> str:
    length = f"{stage.epochs:g} epochs" if stage.epochs else f"{stage.steps} steps"
    losses = [*(f"fine {n}" for n in stage.fine), *(f"coarse {n}" for n in stage.coarse)]
    low, high = stage.side
    side = f"{low} px" if low == high else f"{low}-{high} px"
    optional = " (optional)" if stage.optional else ""
    return f"{stage.name}{optional}: {length} of {stage.batch_size} photos, {side}; {', '.join(losses)}"


def _drawn_by(recipe: "Recipe", folder: str) -> str:
    """Which stages read a set; empty where none does, and nothing is said of it then."""
    from training.data.subjects import needed_sets

    stages = [s for s in recipe.stages if folder in {d.folder for d in needed_sets(recipe, s)}]
    if len(stages) == len(recipe.stages):
        return "; all stages"
    return f"; stages {', '.join(s.name for s in stages)}" if stages else ""
