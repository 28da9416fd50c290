"""Descriptions of recipes and plans for `stylematte train`, as lines of text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import Recipe, Stage
    from training.estimate import Estimate
    from training.gan.config import GanRecipe
    from training.plan import TrainingPlan


def explain_all() -> Iterator[str]:
    """Describe every bundled recipe by its inputs and outputs; variants get one line."""
    from training.recipe_files import recipe_names

    names = [*recipe_names(), *recipe_names(generators=True)]
    for name in (n for n in names if not _is_variant(n)):
        facts = _recipe_facts(name)
        yield f"{name}: {facts['about']}"
        yield f"  needs {facts['needs']}"
        yield f"  gives {facts['gives']}"
    yield ""
    for name in (n for n in names if _is_variant(n)):
        yield f"{name}: {_recipe_facts(name)['about']}"
    yield from (
        "",
        "details of a recipe: stylematte train RECIPE --list",
        "all of its keys:     stylematte train --print RECIPE",
    )
    yield "run a recipe:        stylematte train RECIPE, with its data sets below ./data"


def list_as_dict(name: str) -> dict[str, Any]:
    """Return the same for --json; a single recipe if a name is given."""
    from training.recipe_files import recipe_names

    names = [name] if name else [*recipe_names(), *recipe_names(generators=True)]
    return {"recipes": [{"name": one, **_recipe_facts(one)} for one in names]}


def explain_recipe(name: str, overrides: Sequence[str]) -> Iterator[str]:
    """Describe one recipe of either kind in full."""
    from training.config import load_recipe
    from training.gan.config import load_gan_recipe
    from training.recipe_files import trains_generator

    if trains_generator(name):
        yield from explain_generator(name, load_gan_recipe(name, overrides))
    else:
        yield from explain(name, load_recipe(name, overrides))


def _is_variant(name: str) -> bool:
    return name.startswith("ablation/") or name == "gan"


def _recipe_facts(name: str) -> dict[str, Any]:
    """Return a recipe's description, its required sets, and its result."""
    from stylematte_cli.commands.train_choice import needed, where_to_get
    from training.config import load_recipe
    from training.gan.config import load_gan_recipe
    from training.recipe_files import trains_generator

    sets = [one.folder for one in needed(name)]
    if trains_generator(name):
        gan = load_gan_recipe(name)
        gives = f"a generator of RGBA images of {gan.generator.size_px} px"
        needs = f"{', '.join(sets)} ({where_to_get(name)}), or a folder of photos as --data"
        return {"about": gan.about, "trains": "generator", "sets": sets, "needs": needs, "gives": gives}
    recipe = load_recipe(name)
    gives = f"weights of the matting network {recipe.preset}"
    needs = f"{', '.join(sets)} ({where_to_get(name)})"
    if recipe.open_sets:
        needs = "photos and masks: --image DIR --mask DIR, or ./data/NAME/image beside ./data/NAME/mask"
    elif all(s.kind == "unlabelled" for s in recipe.sets):
        needs = "any folder of photos as --data, and --teacher FILE"
    return {"about": recipe.about, "trains": "matting", "sets": sets, "needs": needs, "gives": gives}


def explain(name: str, recipe: "Recipe") -> Iterator[str]:
    """Describe a recipe: its network, its stages, and its data."""
    changes = "".join(f", {key} = {value}" for key, value in recipe.network.items())
    yield f"{name}: {recipe.about}".rstrip(": ")
    yield f"  network {recipe.preset}{changes}"
    yield from (f"  {_stage_line(stage)}" for stage in recipe.stages)
    if recipe.init:
        yield f"  starts from the weights {recipe.init}"
    if recipe.open_sets:
        yield "  data: photos and masks, --image and --mask, or those found below --data"
        return
    yield "  data below --data:"
    for data_set in recipe.sets:
        if stages := _drawn_by(recipe, data_set.folder):
            yield f"    {data_set.folder}: {data_set.kind}, layout {data_set.layout}{stages}"
    for table in recipe.validation:
        scored = f"scored, {table.photos} photos, {table.resolution} size"
        yield f"    {table.folder}: {scored}, layout {table.layout}"


def explain_generator(name: str, recipe: "GanRecipe") -> Iterator[str]:
    """Describe a generator's recipe: its network, length, discriminators and data."""
    config, vision, change = recipe.generator, recipe.vision_aided, recipe.augmentation
    yield f"{name}: {recipe.about}".rstrip(": ")
    yield f"  network StyleGAN3-{config.kind.upper()}, {config.size_px} px, {config.channels} channels"
    length = f"{recipe.kimg:g} kimg in batches of {recipe.batch_size}"
    yield f"  {length}; a snapshot every {recipe.snapshot_kimg:g} kimg"
    if vision.backbone != "none":
        yield f"  second discriminator on {vision.backbone}: {vision.reals} against composites"
    how = {"ada": f"adaptive, target {change.target:g}", "fixed": f"p = {change.p:g}", "none": "none"}
    yield f"  augmentation: {how[change.mode]}"
    yield "  data below --data, or --data itself:"
    for one in recipe.sets:
        yield f"    {one.folder}: photos, layout {one.layout}; RGBA, with alpha/, or matted before the run"
    if recipe.backgrounds is not None:
        behind = recipe.backgrounds
        yield f"    {behind.folder}: backgrounds, layout {behind.layout}; may be missing"


def explain_plan(name: str, plan: "TrainingPlan") -> Iterator[str]:
    """Describe a run with the available data."""
    recipe = plan.recipe
    yield f"{name}: network {recipe.preset}, {sum(stage.steps for stage in recipe.stages)} steps"
    for stage in recipe.stages:
        yield f"  {_stage_line(stage)}"
        shares = {s.folder: stage.shares.get(s.folder, s.share) for s in recipe.sets}
        drawn = {folder: share / sum(shares.values()) for folder, share in shares.items() if share > 0}
        yield "    samples " + ", ".join(f"{folder} {share:.0%}" for folder, share in drawn.items())
    for folder, count in plan.pictures.items():
        yield f"  {folder}: {count} images to train on, {plan.held_out[folder]} held out"
    yield from (f"  {line}" for line in plan.skipped)


def explain_estimate(estimate: "Estimate", device: str) -> Iterator[str]:
    """Describe the estimated time and disk space of a run."""
    yield f"a step takes about {_duration(estimate.step_s)} on {device} ({estimate.how})"
    total = f"the run takes about {_duration(estimate.run_s)}, without scoring and reading photos"
    if estimate.to_prepare:
        total += (
            f"; of that, {_duration(estimate.prepare_s)} to prepare {estimate.to_prepare} photos first: "
            "mattes and colours (an estimate)"
        )
    yield total
    yield f"the run writes about {max(1, round(estimate.written_bytes / 1e6))} MB (an estimate)"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return (
                f"{seconds / length:.0f} {unit}"
                if seconds >= 10 * length
                else f"{seconds / length:.1f} {unit}"
            )
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _stage_line(stage: "Stage") -> str:
    length = f"{stage.epochs:g} epochs" if stage.epochs else f"{stage.steps} steps"
    losses = [*(f"fine {n}" for n in stage.fine), *(f"coarse {n}" for n in stage.coarse)]
    low, high = stage.side
    side = f"{low} px" if low == high else f"{low}-{high} px"
    optional = " (optional)" if stage.optional else ""
    return f"{stage.name}{optional}: {length} of {stage.batch_size} photos, {side}; {', '.join(losses)}"


def _drawn_by(recipe: "Recipe", folder: str) -> str:
    """Describe which stages use a set; empty if none does."""
    from training.data.subjects import needed_sets

    stages = [s for s in recipe.stages if folder in {d.folder for d in needed_sets(recipe, s)}]
    if len(stages) == len(recipe.stages):
        return "; all stages"
    return f"; stages {', '.join(s.name for s in stages)}" if stages else ""
