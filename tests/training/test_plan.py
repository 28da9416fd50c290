"""What of a recipe runs on the data that is there, and for how long."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.training import drawn
from training.config import Recipe, Stage
from training.data.readers import DataError
from training.plan import make_plan

FIRST = Stage(
    "people", 5, 4, (64, 96), 1e-3, composite=0.0, shares={drawn.CUTOUTS: 0.0, drawn.BACKGROUNDS: 0.0}
)
SECOND = Stage(
    "cut-outs", 5, 4, (64, 96), 1e-3, shares={drawn.PEOPLE: 0.0, drawn.BACKGROUNDS: 0.0}, optional=True
)


@pytest.fixture
def recipe() -> Recipe:
    return drawn.recipe(FIRST, SECOND)


@pytest.fixture
def root(data_root, tmp_path) -> Path:
    return Path(shutil.copytree(data_root, tmp_path / "data"))


def test_all_of_it_where_all_is_there(recipe, root):
    plan = make_plan(recipe, root)
    assert plan.recipe == recipe
    assert plan.skipped == ()
    assert plan.pictures[drawn.PEOPLE] + plan.held_out[drawn.PEOPLE] == 10
    assert plan.held_out[drawn.PEOPLE] > 0
    assert make_plan(plan.recipe, root).recipe == plan.recipe


@pytest.mark.parametrize("gone", [drawn.CUTOUTS, drawn.BACKGROUNDS])
def test_an_optional_stage_is_left_out_with_the_sets_that_it_alone_reads(recipe, root, gone):
    shutil.rmtree(root / gone)
    plan = make_plan(recipe, root)
    assert [stage.name for stage in plan.recipe.stages] == ["people"]
    assert [s.folder for s in plan.recipe.sets] == [drawn.PEOPLE]
    assert plan.recipe.stages[0].shares == {}
    assert plan.skipped == (f"stage cut-outs skipped: {root / gone} does not exist",)


def test_what_a_stage_needs_that_is_not_optional_is_an_error(recipe, root):
    shutil.rmtree(root / drawn.CUTOUTS)
    both = dataclasses.replace(recipe, stages=(FIRST, dataclasses.replace(SECOND, optional=False)))
    with pytest.raises(DataError, match=f"{drawn.CUTOUTS}: no such data set folder"):
        make_plan(both, root)
    shutil.rmtree(root / drawn.PEOPLE)
    with pytest.raises(DataError, match=f"{drawn.PEOPLE}: no such data set folder"):
        make_plan(recipe, root)


def test_nothing_left_to_run(recipe, root):
    shutil.rmtree(root / drawn.CUTOUTS)
    with pytest.raises(DataError, match="nothing to run; stage cut-outs skipped"):
        make_plan(dataclasses.replace(recipe, stages=(SECOND,)), root)


def test_an_epoch_is_as_many_images_as_the_sets_with_subjects_hold(recipe, root):
    everything = Stage("all", 0, 4, (64, 96), 1e-3, epochs=2.5)
    plan = make_plan(dataclasses.replace(recipe, stages=(everything,)), root)
    subjects = plan.pictures[drawn.PEOPLE] + plan.pictures[drawn.CUTOUTS]
    (stage,) = plan.recipe.stages
    assert (stage.steps, stage.epochs) == (-(-2.5 * subjects // 4), 0)
    one = make_plan(
        dataclasses.replace(recipe, stages=(dataclasses.replace(FIRST, steps=0, epochs=1),)), root
    )
    assert one.recipe.stages[0].steps == -(-one.pictures[drawn.PEOPLE] // 4)


def test_nothing_need_be_held_out(recipe, root):
    plan = make_plan(dataclasses.replace(recipe, held_out_every=0), root)
    assert plan.pictures[drawn.PEOPLE] == 10
    assert set(plan.held_out.values()) == {0}
