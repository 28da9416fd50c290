"""Recipes of generators: those of the package load, and what is wrong in one is named."""

import re

import pytest

from tests.training.gan import runs
from training.config import load_recipe
from training.gan.config import load_gan_recipe
from training.recipe_files import RecipeError, recipe_names, trains_generator


@pytest.mark.parametrize("name", recipe_names(generators=True))
def test_the_packages_recipes_load(name):
    recipe = load_gan_recipe(name)
    assert trains_generator(name)
    assert recipe.about
    assert recipe.generator.channels == 4
    if name not in ("gan", "gan/faces-64"):
        assert recipe.vision_aided.backbone == "clip"
    with pytest.raises(RecipeError, match="this recipe trains a generator"):
        load_recipe(name)


def test_sizes_are_the_published_ones():
    names = recipe_names(generators=True)
    assert names == ["gan", *(f"gan/{n}" for n in ("animals-512", "faces-1024", "faces-256", "faces-64"))]
    assert load_gan_recipe("gan").digest() == load_gan_recipe("gan/faces-256").digest()
    for name in names[1:]:
        assert load_gan_recipe(name).generator.size_px == int(re.findall(r"\d+", name)[0])
    assert not any(trains_generator(name) for name in recipe_names())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "batchsize", r"unknown key batchsize; known are generator"),
        ("size_px = 16", "size_px = 48", r"\[generator\]: size_px 48 is not a power of two"),
        ("channel_max = 8", 'channel_max = "8"', r"\[generator\]: channel_max = '8' is not of type int"),
        ('"ada"', '"often"', r"\[augmentation\]: mode 'often' is not one of ada, fixed, none"),
        ("p = 0.2", "p = 1.2", r"\[augmentation\]: p must be from 0 to 1"),
        ("r1_every = 3", "r1_every = 0", r"\[discriminator\]: r1_every must be 1 or more"),
        ("r1_gamma = 0.5", "r1_gamma = -1", r"\[discriminator\]: r1_gamma must be 0 or more"),
        ("kimg = 0.08", "", "kimg is missing"),
        ("seed = 5", "held_out_every = 1", "held_out_every must be 2 or more"),
        ("seed = 5", 'vision_aided = { backbone = "vgg" }', r"\[vision_aided\]: backbone 'vgg' is not one"),
        ("seed = 5", 'vision_aided = { reals = "real" }', "reals 'real' is not one of photos, composites"),
        ("seed = 5", 'backgrounds = { folder = "x", layout = "y" }', r"\[backgrounds\]: layout 'y' is"),
        ("seed = 5", "discriminator = 3\n[later]", "discriminator must be a table"),
        ("[[sets]]", "[sets]", r"sets must be tables, each under \[\[sets\]\]"),
        (f'folder = "{runs.FACES}"', "", "folder is missing"),
        ('mode = "ada"', 'operations = ["blur"]', "operation 'blur' is not one of flip"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    text = runs.TOML.replace(old, new, 1)
    if "discriminator = 3" in new:
        text = text[: text.index("[later]")] + "[[sets]]\nfolder = 'x'\n[generator]\nsize_px = 16\n"
    with pytest.raises(RecipeError, match=message):
        runs.load(tmp_path, text)
