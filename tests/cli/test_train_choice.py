"""`stylematte train` as people type it: which recipe it takes, on folders of one's own, with other values."""

import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.checkpoints import load_weights
from stylematte.weights import ASSETS
from stylematte_cli.app import main
from stylematte_cli.commands import train as train_module
from tests.training import drawn
from training.config import load_recipe
from training.recipe_files import recipe_names
from training.recipe_text import as_toml, key_reference

SHORT = ("--set", "stages.matting.steps=2", "--set", "stages.matting.batch_size=2", "--workers", "0")
SHORT += ("--set", "stages.matting.side=[64, 64]", "--set", "stages.matting.warmup_steps=1")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="module")
def drawn_sets(tmp_path_factory) -> Path:
    return drawn.draw_sets(tmp_path_factory.mktemp("drawn"))


def run(*arguments) -> int:
    return main(["train", *map(str, arguments)])


def image(path: Path, mode: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (40, 40, 3) if mode == 3 else (40, 40)
    assert cv2.imwrite(str(path), np.full(shape, 255, np.uint8))


def p3m(root: Path, stem: str = "p_1") -> None:
    for folder, mode in (("blurred_image", 3), ("mask", 1)):
        image(root / "P3M-10k" / "train" / folder / f"{stem}.png", mode)


def pairs(folder: Path, labels: str, count: int = 12) -> None:
    for number in range(count):
        image(folder / "image" / f"{number}.png")
        image(folder / labels / f"{number}.png", 1)


def chosen(capsys, *arguments) -> dict:
    assert run("--dry-run", "--json", *arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_nothing_there_is_said_for_every_recipe(capsys, here):
    assert run() == 3
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "stylematte: error: data: no such folder. Provide one of these"
    assert "  stylematte: P3M-10k (https://github.com/JizhiziLi/P3M)" in lines
    assert any(line.startswith("  finetune: photos in data/NAME/image and masks in") for line in lines)
    assert any(line.startswith("  gan/faces-256: FFHQ (https://") for line in lines)
    (here / "data" / "P3M10K" / "train").mkdir(parents=True)
    assert run("--json") == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == "data: no data set for any recipe"
    assert error["details"][0] == "data/P3M10K looks like P3M-10k; rename it"
    assert sorted(p.name for p in here.iterdir()) == ["data"]


@pytest.mark.parametrize(("has_gpu", "wanted"), [(True, "stylematte"), (False, "finetune")])
def test_people_with_alphas_train_the_large_network_where_there_is_a_gpu(here, has_gpu, wanted):
    p3m(here / "data")
    choice = train_module.choose_recipe(Path("data"), has_gpu, from_backbone=False)
    assert choice.recipe == wanted
    assert [str(one) for one in choice.found] == ["P3M-10k: 1 photos with alphas, layout p3m-10k"]
    other = {True: "finetune also fits", False: "stylematte also fits, but needs a GPU"}[has_gpu]
    assert other in choice.others[0]


def test_what_lies_in_data_is_named(capsys, here):
    data = here / "data"
    p3m(data, "p_1")
    for folder, mode in (("original", 3), ("mask", 1)):
        for number in range(9):
            image(data / "AM-2k" / "train" / folder / f"{number}.png", mode)
    image(data / "BG-20k" / "train" / "b.png")
    image(data / "FFHQ" / "00000" / "f.png")
    pairs(data / "wedding", "mask")
    pairs(data / "studio", "alpha")
    image(data / "unlabelled" / "image" / "a.png")
    found = chosen(capsys, "--set", "held_out_every=5")
    assert [(one["folder"], one["kind"], one["pictures"]) for one in found["found"]] == [
        ("P3M-10k", "mattes", 1),
        ("AM-2k", "mattes", 9),
        ("BG-20k", "backgrounds", 1),
        ("FFHQ", "unlabelled", 1),
        ("studio", "mattes", 12),
        ("wedding", "photos", 12),
    ]
    assert found["recipe"] == "finetune"
    assert "P3M-10k, AM-2k, studio, wedding in data" in found["why"]
    assert set(found["sets"]) == {"P3M-10k", "AM-2k", "BG-20k", "studio", "wedding"}
    assert found["out"] == str(Path("runs/finetune"))
    assert found["init"] == "nano"
    estimate = found["estimate"]
    assert estimate["run_s"] > estimate["step_s"] > 0
    assert estimate["to_prepare"] == 12 + 1 + 9 + 12  # mattes from masks, and colours of the others
    assert estimate["written_bytes"] > 1e6
    assert sorted(p.name for p in here.iterdir()) == ["data"]


def test_faces_alone_train_a_generator(here):
    image(here / "data" / "FFHQ" / "00000" / "f.png")
    assert train_module.choose_recipe(Path("data"), True, False).recipe == "gan/faces-256"


def test_data_may_be_the_pair_itself(capsys, here):
    pairs(here / "data", "mask")
    assert chosen(capsys)["sets"]["."]["pictures"] > 0


def test_encoder_weights_begin_anew(capsys, here):
    pairs(here / "data", "mask")
    found = chosen(capsys, "--backbone-weights", "none")
    assert (found["recipe"], found["init"]) == ("scratch", "")


def test_a_few_photos_are_divided_and_one_is_refused(capsys, here):
    pairs(here / "data" / "few", "mask", 3)
    few = chosen(capsys)["sets"]["few"]
    assert few["pictures"] + few["held_out"] == 3
    assert min(few.values()) >= 1
    pairs(here / "one", "mask", 1)
    assert run("--image", "one/image", "--mask", "one/mask") == 3
    assert "too few photos to split into training and held-out parts: 1 in one" in capsys.readouterr().err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(("option", "kind"), [("--mask", "photos"), ("--alpha", "mattes")])
def test_folders_of_ones_own_fine_tune_the_shipped_model(capsys, here, drawn_sets, option, kind):
    shutil.copytree(drawn_sets / drawn.PEOPLE / "image", here / "photos")
    shutil.copytree(drawn_sets / drawn.PEOPLE / "mask", here / "elsewhere" / "labels")
    assert run("--image", "photos", option, "elsewhere/labels", *SHORT, "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["recipe"] == "finetune"
    assert set(told["sets"]) == {"photos"}
    assert "iou" in told["scores"]
    assert "matting 2/2  loss" in captured.err
    solved = list((here / "runs" / "finetune" / "mattes" / "photos").glob("*.alpha.png"))
    assert len(solved) == (10 if kind == "photos" else 0)
    _, provenance = load_weights(Path(told["weights"]["best"]))
    nano = hashlib.sha256((ASSETS / "nano.safetensors").read_bytes()).hexdigest()
    assert provenance["origin"]["weights"] == nano
    assert str(here) not in json.dumps(provenance)  # weights travel; where their photos lay does not
    assert provenance["recipe"]["sets"][0]["kind"] == kind
    assert run("--image", "photos", option, "elsewhere/labels", *SHORT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed"] is True


def test_weights_to_begin_with_may_be_others_or_none(capsys, here):
    pairs(here / "data", "mask")
    assert chosen(capsys, "--init", "none")["init"] == ""
    assert chosen(capsys, "--student", "tiny", "--set", "stages.matting.side=[32,32]")["init"] == ""
    assert run("--init", "gone", "--quiet") == 4
    assert "--init: weights 'gone' do not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--image", "photos"], 2, "--image needs --mask or --alpha"),
        (["--mask", "photos"], 2, "--image needs --mask or --alpha"),
        (["--image", "photos", "--mask", "photos", "--data", "photos"], 2, "exclude each other"),
        (["--image", "photos", "--mask", "gone"], 3, "gone: no such folder"),
        (["nano", "--image", "photos", "--mask", "photos"], 2, "recipe nano has its own data sets"),
        (["finetune", "--data", "photos"], 3, "photos: no photos with masks in it"),
        (["--print"], 2, "--print needs the name of a recipe"),
        (["nano", "--print", "--set", "sed=4"], 3, "unknown key sed"),
        (["nano", "--print", "--set", "seed=now"], 3, "seed = 'now' is not of type int"),
        (["nano", "--print", "--set", "seed"], 3, "--set seed: give key=value"),
        (["nano", "--print", "--set", "stages.mating.steps=3"], 3, "no mating; choose from small"),
        (["nano", "--print", "--set", "stages.steps=3"], 3, "this is a list of tables; name one"),
        (["nano", "--print", "--set", "seed.x=3"], 3, "seed is not a table"),
        (["gan", "--print", "--set", "generator.size_px=100"], 3, "[generator]"),
    ],
)
def test_what_cannot_be_meant_is_one_line(capsys, here, arguments, code, words):
    (here / "photos").mkdir()
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("stylematte: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert sorted(p.name for p in here.iterdir()) == ["photos"]


@pytest.mark.parametrize("name", [*recipe_names(), *recipe_names(generators=True)])
def test_a_printed_recipe_is_the_recipe(capsys, here, name):
    from training.gan.config import load_gan_recipe

    assert run("--print", name) == 0
    text = capsys.readouterr().out
    (here / "printed.toml").write_text(text, encoding="utf-8")
    load = load_gan_recipe if name.partition("/")[0] == "gan" else load_recipe
    assert load("printed.toml") == load(name)
    assert as_toml(load(name)) == text


def test_values_are_put_in_the_place_of_others(capsys):
    sets = (
        "stages.matting.steps=100",
        "network.upsampler=fast_gf",
        "sets.AM-2k.share=0.25",
        "about=new words",
    )
    assert run("--print", "stylematte", *(word for one in sets for word in ("--set", one))) == 0
    table = tomllib.loads(capsys.readouterr().out)
    matting = next(stage for stage in table["stages"] if stage["name"] == "matting")
    assert (matting["steps"], "epochs" in matting) == (100, False)
    assert table["network"] == {"upsampler": "fast_gf"}
    assert next(s for s in table["sets"] if s["folder"] == "AM-2k")["share"] == 0.25
    assert table["about"] == "new words"


def test_the_reference_of_keys_is_current():
    page = Path(__file__).parents[2] / "docs" / "recipes.md"
    assert page.read_text(encoding="utf-8") == key_reference(), (
        "python -m training.recipe_text > docs/recipes.md"
    )


def test_of_several_processes_one_speaks(capsys, here, monkeypatch):
    pairs(here / "data", "mask")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("--dry-run", "--json") == 0
    assert capsys.readouterr() == ("", "")


def test_networks_for_tests_are_not_offered(capsys):
    assert run("nano", "--print", "--student", "giant") == 2
    line = capsys.readouterr().err
    assert "Choose from" in line
    assert "test" not in line


def test_a_recipe_extends_a_file_beside_it(here):
    (here / "deep").mkdir()
    (here / "deep" / "base.toml").write_text(drawn.TOML)
    (here / "deep" / "mine.toml").write_text('extends = "base.toml"\nseed = 7\n')
    recipe = load_recipe("deep/mine.toml")
    assert (recipe.seed, recipe.preset) == (7, "test")
