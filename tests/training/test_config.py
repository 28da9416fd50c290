"""Recipes: those that come along, and every way to get one wrong."""

import dataclasses

import pytest

from tests.training import drawn
from training.config import check_priors, load_recipe, select_stages
from training.recipe_files import RecipeError, recipe_names


def load(tmp_path, text: str):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    return load_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.stages
    assert recipe.about
    assert recipe.held_out_every or recipe.validation  # it is scored on something


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
        ("seed = 3", "seed = 'x'", "seed = 'x' is not of type int"),
        ("seed = 3", "seed = true", "seed = True is not of type int"),
        ('preset = "test"', "", "preset is missing"),
        ('preset = "test"', 'preset = "giant"', "'giant'; choose from nano, tiny, base, official$"),
        ("batch_size = 4", "batchsize = 4", r"\[\[stages\]\]: unknown key batchsize"),
        ("batch_size = 4", "", r"\[\[stages\]\]: batch_size is missing"),
        ("batch_size = 4", "batch_size = 0", "segmentation: batch_size must be"),
        ("steps = 6", 'steps = "many"', r"\[\[stages\]\]: steps = 'many' is not of type int"),
        ("side = [64, 96]", "side = 64", r"side = 64 is not of type tuple"),
        ("side = [64, 96]", "side = [96, 64]", r"segmentation: side must be \[smallest, largest\]"),
        ("coarse = { bce = 1.0, dice = 1.0 }", "coarse = { bec = 1.0 }", "segmentation: unknown loss bec"),
        ("coarse = { bce = 1.0, dice = 1.0 }", "coarse = { bce = 'a' }", "coarse = {'bce': 'a'} is no"),
        ("coarse = { bce = 1.0, dice = 1.0 }", "", "segmentation: no losses"),
        ('kind = "photos"', 'kind = "videos"', "people_drawn: kind 'videos' is not one of photos"),
        ('kind = "photos"', 'knd = "photos"', r"\[\[sets\]\]: unknown key knd"),
        (
            'band = "hair"',
            'layout = "hair"',
            "people_drawn: layout 'hair' is not one of plain, photos, p3m-10k",
        ),
        ('band = "hair"', 'band = "wide"', "people_drawn: band 'wide' is not one of narrow, hair, fur"),
        ("share = 0.6", "share = []", r"\[\[sets\]\]: share = \(\) is not of type float"),
        ("held_out_every = 4", "held_out_every = 1", "held_out_every"),
        ("seed = 3", "seed = -1", "seed must be 0 or more"),
        ("seed = 3", "clip_norm = nan", "clip_norm = nan is not a finite number"),
        ("share = 0.6", "share = inf", r"\[\[sets\]\]: share = inf is not a finite number"),
        ("side = [64, 96]", "side = [64]", r"\[\[stages\]\]: side = \(64,\) is not of type tuple"),
        ("seed = 3", "ema_decay = 1.0", "ema_decay must be from 0 to below 1"),
        ("share = 0.6", "share = -0.1", "people_drawn: share must be 0 or more"),
        ("share = 0.6", "share = 1.0, belief = 2.0", "people_drawn: belief must be from 0 to 1"),
        (
            "batch_size = 4",
            "batch_size = 4\nguide_scale = 0.0",
            "segmentation: guide_scale must be above 0",
        ),
        ("learning_rate = 5e-3", "learning_rate = -5e-3", "segmentation: learning_rate must be above 0"),
        ("side = [64, 96]", "side = [64, 96]\nshares = { people_drawn = -1.0 }", "segmentation: shares must"),
        ("[[stages]]", "[[stages", "line 10"),
        ("steps = 6", "", r"\[\[stages\]\]: steps is missing"),
        ("steps = 6", "steps = 6\nepochs = 2", "segmentation: give either steps or epochs"),
        ("steps = 6", "epochs = 0", "segmentation: give either steps or epochs"),
        ("steps = 6", "steps = -6", "segmentation: give either steps or epochs"),
        ("steps = 6", "steps = 6\nlayer_decay = 0.0", "segmentation: layer_decay must be above 0"),
        (
            "steps = 6",
            "steps = 6\naugmentation = 'none'",
            "segmentation: augmentation 'none' is not one of own",
        ),
        ("steps = 6", "steps = 6\nfrozen = 6", "segmentation: frozen must be from 0 to 5"),
        ("steps = 6", "steps = 6\nonly_selection = true", "segmentation: only_selection needs prior above 0"),
        (
            "steps = 6",
            "steps = 6\nonly_selection = true\nprior = 0.5\nfine = { l1 = 1.0 }",
            "segmentation: only_selection takes coarse losses alone",
        ),
        ("steps = 6", "steps = 6\npriors_per_image = 0", "segmentation: priors_per_image must be 1 or more"),
        (
            "steps = 6",
            "steps = 6\npriors_per_image = 2",
            "segmentation: priors_per_image above 1 needs only_selection = true",
        ),
        (
            "steps = 6",
            "steps = 6\nonly_selection = true\nprior = 0.5",
            "segmentation: prior must be 0, as network test takes none",
        ),
        ("steps = 6", "steps = 6\nfreeze_norms = 1", "freeze_norms = 1 is not of type bool"),
        ("steps = 6", "steps = 6\ncomposite = 1.1", "segmentation: composite must be from 0 to 1"),
        ("steps = 6", "steps = 6\npairs = -0.1", "segmentation: pairs must be from 0 to 1"),
        ("steps = 6", "steps = 6\nprior = 1.5", "segmentation: prior must be from 0 to 1"),
        ("steps = 6", "steps = 6\nprior = true", "prior = True is not of type float"),
        (
            "steps = 6",
            "steps = 6\nprior = 0.5",
            "segmentation: prior must be 0, as network test takes none",
        ),
        ("bce = 1.0, dice", "composition = 1.0, dice", "segmentation: composition is a loss for fine"),
        (
            "seed = 3",
            "network = { upsampler = 'cubic' }",
            r"\[network\]: upsampler 'cubic' is not one of bil",
        ),
        ("seed = 3", "network = { upsamplr = 'bilinear' }", r"\[network\]: unknown key upsamplr"),
        ("seed = 3", "network = { name = 'mine' }", r"\[network\]: unknown key name"),
        ("seed = 3", "network = { eps = 'small' }", r"\[network\]: eps = 'small' is not of type float"),
        (
            'preset = "test"\nseed = 3',
            "preset = 'test_swin'\nnetwork = { upsampler = 'fine_gf' }",
            r"\[network\]: upsampler fine_gf needs features at stride 2, which swinv2_test does not have",
        ),
        (
            "seed = 3",
            "validation = [{ folder = 'x', resolution = 'big' }]",
            "x: resolution 'big' is not one of full",
        ),
        ("seed = 3", "validation = [{ folder = 'x', photos = 0 }]", "x: photos must be 1 or more"),
        (
            "seed = 3",
            "only_stages = ['matings']",
            "only_stages: unknown stage 'matings'; the recipe has segm",
        ),
        ("seed = 3", "only_stages = 'matting'", "only_stages must be a list of names"),
        ("seed = 3", "extends = 7", "extends must be the name of a recipe"),
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
    with pytest.raises(RecipeError, match=f"unknown recipe {name}; choose from .*nano"):
        load_recipe(name)


def test_priors_are_for_networks_that_take_them(tmp_path):
    text = drawn.TOML.replace("steps = 6", "steps = 6\nprior = 0.5\npairs = 0.2")
    recipe = load(tmp_path, text.replace('"test"', '"test_nano"'))
    assert [(stage.prior, stage.pairs) for stage in recipe.stages] == [(0.5, 0.2), (0.0, 0.0)]
    changed = text.replace("[[stages]]", "network = { prior = true }\n[[stages]]", 1)
    assert load(tmp_path, changed).build_preset().prior
    with pytest.raises(
        RecipeError, match=r"^--student: segmentation: prior must be 0, as network test takes none"
    ):
        check_priors(dataclasses.replace(recipe, preset="test"), "--student")


def test_a_recipe_takes_what_it_does_not_say_from_the_one_it_extends(tmp_path):
    (tmp_path / "base.toml").write_text(drawn.TOML + "[network]\nfpn_channels = 8\neps = 1e-3\n")
    text = f"""
extends = "{tmp_path / "base.toml"}"
seed = 9
only_stages = ["matting"]
[network]
eps = 1e-2
"""
    recipe = load(tmp_path, text)
    assert recipe.seed == 9
    assert recipe.sets == drawn.recipe().sets
    assert [s.name for s in recipe.stages] == ["matting"]
    preset = recipe.build_preset()
    assert (preset.name, preset.fpn_channels, preset.eps) == ("test", 8, 1e-2)
    assert (preset.encoder, preset.working_size) == ("mobilenet_v2_tiny", 128)


def test_recipes_that_extend_each_other_in_a_ring(tmp_path):
    (tmp_path / "other.toml").write_text(f'extends = "{tmp_path / "mine.toml"}"')
    with pytest.raises(RecipeError, match=r"other\.toml: extends .*mine\.toml, which extends this one"):
        load(tmp_path, f'extends = "{tmp_path / "other.toml"}"')


def test_stages_asked_for_by_name_are_no_longer_optional(tmp_path):
    text = drawn.TOML.replace("steps = 4", "steps = 4\noptional = true")
    recipe = load(tmp_path, text)
    assert recipe.stages[1].optional
    chosen = select_stages(recipe, ("matting",), "--stages")
    assert [(s.name, s.optional) for s in chosen.stages] == [("matting", False)]
    with pytest.raises(RecipeError, match="--stages: unknown stage 'mating'; the recipe has segmentation, m"):
        select_stages(recipe, ("matting", "mating"), "--stages")


def test_the_published_recipe_has_what_is_published():
    recipe = load_recipe("stylematte")
    stages = {stage.name: stage for stage in recipe.stages}
    assert list(stages) == ["segmentation", "hausdorff", "matting", "animals", "synthetic"]
    assert [s.name for s in recipe.stages if s.optional] == ["animals", "synthetic"]
    assert set(stages["segmentation"].fine) == {"bce", "dice"}
    assert stages["hausdorff"].epochs == 5
    assert stages["matting"].fine == {"l2": 1.0}
    assert {(s.side, s.batch_size, s.augmentation) for s in recipe.stages} == {((800, 800), 4, "published")}
    for stage in recipe.stages:
        fastest_in_the_encoder = stage.learning_rate * stage.encoder_rate
        assert fastest_in_the_encoder == pytest.approx(1e-5)


def test_ablations_differ_in_what_they_compare():
    reference = load_recipe("ablation/reference")
    usual = reference.build_preset()
    assert (usual.upsampler, usual.pyramid) == ("fast_gf", True)
    for name, changed in {
        "bilinear": {"upsampler": "bilinear"},
        "conv_gf": {"upsampler": "conv_gf"},
        "deep_gf": {"upsampler": "deep_gf"},
        "no_fpn": {"pyramid": False},
    }.items():
        recipe = load_recipe(f"ablation/{name}")
        assert recipe.build_preset() == dataclasses.replace(usual, **changed)
        assert dataclasses.replace(recipe, network={}, about=reference.about) == reference
    synthetic = load_recipe("ablation/synthetic")
    assert synthetic.stages[:-1] == reference.stages
    assert not synthetic.stages[-1].optional


def test_what_a_recipe_extends_is_seen_from_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "base.toml").write_text(drawn.TOML)
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\nseed = 9\n')
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "other.toml").write_text('extends = "../mine.toml"\nclip_norm = 2.0\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe("../deeper/other.toml")
    assert (recipe.seed, recipe.clip_norm, recipe.preset) == (9, 2.0, "test")
    (tmp_path / "mine.toml").write_text('extends = "none.toml"\n')
    with pytest.raises(RecipeError, match=r"mine\.toml: extends none\.toml: unknown recipe"):
        load_recipe("../mine.toml")
    (tmp_path / "mine.toml").write_text('extends = "deeper/../mine.toml"\n')
    with pytest.raises(RecipeError, match="which extends this one"):
        load_recipe("../mine.toml")
