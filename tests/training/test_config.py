"""Recipes: those that come along, and every way to get one wrong."""

import pytest

from tests.training import drawn
from training.config import RecipeError, load_recipe, recipe_names


def load(tmp_path, text: str):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    return load_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.stages
    assert recipe.held_out_every == 10


def test_nano_is_among_them():
    assert "nano" in recipe_names()
    assert load_recipe("nano").preset == "nano"


def test_values_arrive(tmp_path):
    recipe = load(tmp_path, drawn.TOML)
    assert [s.name for s in recipe.stages] == ["segmentation", "matting"]
    assert recipe.stages[1].fine == {"l2": 1.0, "laplacian": 1.0}
    assert recipe.stages[0].side == (64, 96)
    assert recipe.stages[0].composite == 0.3  # the default
    assert recipe.sets == drawn.recipe().sets
    assert recipe.digest()["stages"][1]["guide_scale"] == 1.25


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seed = 3", "sed = 3", "unknown key sed"),
        ("seed = 3", "seed = 'x'", "seed = 'x' is no int"),
        ("seed = 3", "seed = true", "seed = True is no int"),
        ('preset = "test"', "", "preset is missing"),
        ('preset = "test"', 'preset = "giant"', "'giant' is none of nano, "),
        ("batch_size = 4", "batchsize = 4", r"\[\[stages\]\]: unknown key batchsize"),
        ("batch_size = 4", "", r"\[\[stages\]\]: batch_size is missing"),
        ("batch_size = 4", "batch_size = 0", "segmentation: steps and batch_size"),
        ("steps = 6", 'steps = "many"', r"\[\[stages\]\]: steps = 'many' is no int"),
        ("side = [64, 96]", "side = 64", r"side = 64 is no tuple"),
        ("side = [64, 96]", "side = [96, 64]", r"segmentation: side must be \[smallest, largest\]"),
        ("coarse = { bce = 1.0, dice = 1.0 }", "coarse = { bec = 1.0 }", "segmentation: unknown loss bec"),
        ("coarse = { bce = 1.0, dice = 1.0 }", "coarse = { bce = 'a' }", "coarse = {'bce': 'a'} is no"),
        ("coarse = { bce = 1.0, dice = 1.0 }", "", "segmentation: no losses"),
        ('kind = "photos"', 'kind = "videos"', "people_drawn: 'videos' is none of photos"),
        ('kind = "photos"', 'knd = "photos"', r"\[\[sets\]\]: unknown key knd"),
        ('band = "hair"', 'band = "wide"', "people_drawn: 'wide' is none of narrow, hair, fur"),
        ("share = 0.6", "share = []", r"\[\[sets\]\]: share = \(\) is no float"),
        ("held_out_every = 4", "held_out_every = 1", "held_out_every"),
        ("seed = 3", "seed = -1", "seed must be 0 or more"),
        ("seed = 3", "ema_decay = 1.0", "ema_decay from 0 to below 1"),
        ("share = 0.6", "share = -0.1", "people_drawn: share must be 0 or more"),
        ("share = 0.6", "share = 1.0, belief = 2.0", "people_drawn: .*belief from 0 to 1"),
        (
            "batch_size = 4",
            "batch_size = 4\nguide_scale = 0.0",
            "segmentation: .* guide_scale must",
        ),
        ("learning_rate = 5e-3", "learning_rate = -5e-3", "segmentation: learning_rate"),
        ("side = [64, 96]", "side = [64, 96]\nshares = { people_drawn = -1.0 }", "segmentation: shares must"),
        ("[[stages]]", "[[stages", "line 10"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path, old, new, named):
    assert old in drawn.TOML
    with pytest.raises(RecipeError, match=named) as caught:
        load(tmp_path, drawn.TOML.replace(old, new, 1))
    assert str(caught.value).startswith(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('preset = "test"\nsets = ["a"]', r"sets must be tables, each under \[\[sets\]\]"),
        ('preset = "test"\nstages = 3', "stages must be tables"),
        ('preset = "test"', "no set with subjects"),
        (drawn.TOML.split("[[stages]]")[0], "no stages"),
    ],
)
def test_parts_that_are_not_there(tmp_path, text, named):
    with pytest.raises(RecipeError, match=named):
        load(tmp_path, text)


def test_text_in_another_encoding(tmp_path):
    (tmp_path / "mine.toml").write_bytes('preset = "größe"'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"mine\.toml: .*utf-8"):
        load_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", ["giant", "giant.toml"])
def test_an_unknown_recipe_lists_the_known(name):
    with pytest.raises(RecipeError, match=f"no recipe {name}; there are .*nano"):
        load_recipe(name)
