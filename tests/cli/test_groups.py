"""Options in groups, and `train` and `train gan`, told apart by the recipe on the line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main

from stylematte import engines
from stylematte_cli.app import main
from stylematte_cli.commands import options
from stylematte_cli.commands.groups import with_groups


@dataclass(frozen=True)
class Colours:
    red: Annotated[int, typer.Option("--red", min=0, help="How red.")]
    names: Annotated[list[str] | None, typer.Option("--name")] = None
    loud: Annotated[bool, typer.Option("--loud")] = False


@dataclass(frozen=True)
class DarkColours(Colours):
    red: Annotated[int, typer.Option("--red", min=0, help="How red.")] = 3


def parsed(group: type, words: list[str]) -> object:
    got = []

    def command(
        context: typer.Context, place: Annotated[str, typer.Argument()] = "here", *, paint: group
    ) -> int:
        """Paint."""
        got.append((context.command_path, place, paint))
        return 7

    app = typer.Typer()
    app.command()(with_groups(command))
    with typer.main.get_command(app).make_context("paint", words) as context:
        assert context.command.invoke(context) == 7
    return got[0]


def test_a_group_is_its_options() -> None:
    words = ["there", "--red", "2", "--name", "a", "--name", "b", "--loud"]
    assert parsed(Colours, words) == ("paint", "there", Colours(2, ["a", "b"], True))
    assert parsed(DarkColours, []) == ("paint", "here", DarkColours())


@pytest.mark.parametrize(
    ("group", "words"), [(Colours, []), (Colours, ["--red", "-1"]), (DarkColours, ["--blue"])]
)
def test_its_options_are_checked(group: type, words: list[str]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        parsed(group, words)
    assert hasattr(caught.value, "format_message")  # Typer's own errors, which share no public class


def test_the_help_names_every_engine() -> None:
    assert options.ENGINES == "|".join(engines.ENGINES)


def test_two_groups_with_one_option_are_a_mistake() -> None:
    def command(one: Colours, other: DarkColours) -> None:
        pass

    with pytest.raises(ValueError, match="duplicate parameter name: 'red'"):
        with_groups(command)


@pytest.mark.parametrize(
    "words", [["gan"], ["-h", "gan"], ["--data", "x", "gan/faces-64"], ["-q", "--set", "kimg=1", "gan"]]
)
def test_the_recipe_says_which_train_a_line_is_for(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--stop-after" in said
    assert "--student" not in said


@pytest.mark.parametrize("words", [[], ["nano"], ["--init", "gan"], ["gone.toml"]])
def test_other_lines_are_for_matting_networks(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--student" in said
    assert "--stop-after" not in said


def test_a_generator_that_is_chosen_by_the_data_is_trained_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "FFHQ" / "00000").mkdir(parents=True)
    (tmp_path / "data" / "FFHQ" / "00000" / "f.png").write_bytes(b"")
    assert main(["train", "--dry-run", "--set", "kimg=32"]) == 0
    said = capsys.readouterr().out
    assert "recipe gan/faces-256: all of its data sets are in data" in said
    assert (
        "1 images to train on, of which 1 will be matted first\n  1000 steps, into runs/gan/faces-256" in said
    )
    assert main(["train", "--dry-run", "--stages", "matting"]) == 2
    assert "--stages is for recipes of matting networks" in capsys.readouterr().err
