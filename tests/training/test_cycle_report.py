"""A cycle's report, and the recipe of its fine-tuning."""

import dataclasses

import pytest

from training.config import RecipeError, load_recipe
from training.cycle import SYNTHETIC, fine_tuning, write_report


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_of_generated_images(share):
    recipe = load_recipe("nano")
    (stage,) = fine_tuning(recipe, 10, share).stages
    assert stage.shares[SYNTHETIC] / sum(stage.shares.values()) == pytest.approx(share)
    (control,) = fine_tuning(recipe, 10, share, with_synthetic=False).stages
    assert SYNTHETIC not in control.shares
    assert control.shares == {name: value for name, value in stage.shares.items() if name != SYNTHETIC}


def test_the_whole_network_is_fine_tuned():
    """The last stage of `nano` trains what follows priors alone: it would leave all scores as they are."""
    recipe = load_recipe("nano")
    assert recipe.stages[-1].only_selection
    (stage,) = fine_tuning(recipe, 10, 0.3).stages
    assert not stage.only_selection
    assert stage.fine == recipe.stages[-2].fine
    assert stage.learning_rate == pytest.approx(recipe.stages[-2].learning_rate / 4)
    with pytest.raises(RecipeError, match="only_selection"):
        fine_tuning(dataclasses.replace(recipe, stages=recipe.stages[-1:]), 10, 0.3)


def test_names_of_files_are_no_markup(tmp_path):
    name = "a|b <img src=x onerror=alert(1)>\n| c & d"
    results = {"gan": {"weights": name, "pictures": 3, "share": 0.123456, "seconds": 1.5}}
    write_report(tmp_path, {}, results, {"before": {"iou": 0.5}})
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| gan |")]
    assert row.count("|") == 4
    assert "<" not in page
    assert "a&#124;b &lt;img src=x onerror=alert(1)&gt; &#124; c &amp; d" in row
    assert "pictures 3, share 0.1235" in row
