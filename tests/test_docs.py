"""What the pages promise is there: commands and options parse; make targets, extras and links exist."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from stylematte_cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    {ROOT / "README.md", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")}
)
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SHELL = {"", "sh", "bash", "shell", "console"}


def shell_commands(page: str) -> Iterator[list[str]]:
    """Split every simple command in the fenced shell blocks of a page into words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, block in re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        if language not in SHELL:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=";|&<>")
            words.whitespace_split = True
            yield from split_at_punctuation(list(words))


def split_at_punctuation(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    in_redirection = False
    for word in [*words, ";"]:
        if set(word) <= set(";|&"):
            if command:
                yield command
            command, in_redirection = [], False
        elif set(word) <= set("<>"):
            in_redirection = True
        elif in_redirection:
            in_redirection = False
        elif command or not re.fullmatch(r"[A-Z_]+=.*", word):  # an environment variable before the command
            command.append(word)


def parse(words: list[str]) -> None:
    """Parse `stylematte ...` as the tool itself would, down to the values, and run nothing."""
    arguments = [word for word in words[1:] if word not in ("-h", "--help", "--version")]
    asks_for_help = len(arguments) < len(words) - 1
    name, command, context = "stylematte", typer.main.get_command(app), None
    while True:
        is_group = hasattr(command, "resolve_command")
        if asks_for_help and not is_group:
            return  # `matte --help` rightly lacks the arguments of `matte`
        context = command.make_context(name, arguments, parent=context)
        rest = [*context._protected_args, *context.args] if is_group else []
        if not rest:
            return
        name, command, arguments = command.resolve_command(context, rest)


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_commands_parse(page):
    for words in shell_commands(page):
        if Path(words[0]).name == "stylematte":
            try:
                parse(words)
            except Exception as error:
                pytest.fail(f"{page}: {shlex.join(words)}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {
        word for words in shell_commands(page) if words[0] == "make" for word in words[1:] if "=" not in word
    }
    assert wanted <= targets


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_extras_exist(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r"(?:stylematte|\.)\[([a-z,]+)\]", (ROOT / page).read_text(encoding="utf-8")):
        assert set(names.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_relative_links_resolve(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"[a-z]+:", target):  # http:, mailto:
            continue
        file, _, anchor = target.partition("#")
        linked = ((ROOT / page).parent / file) if file else ROOT / page
        assert linked.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in heading_anchors(linked), f"{page} links to {target}"


def heading_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_readme_shows_the_main_command_and_both_make_targets():
    commands = list(shell_commands("README.md"))
    assert any(Path(words[0]).name == "stylematte" and words[1:2] == ["matte"] for words in commands)
    assert {"matte", "test"} <= {word for words in commands if words[0] == "make" for word in words[1:]}


@pytest.mark.parametrize(
    "line",
    [
        "stylematte evaluate pred gt --trimap auto:10 --csv scores.csv --json",
        "stylematte models show nano",
        "stylematte models",
        "stylematte doctor --device cuda",
        "stylematte matte --help",
        "stylematte --version",
    ],
)
def test_the_check_passes_what_is_right(line):
    parse(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "stylematte evalute pred gt",
        "stylematte evaluate pred",
        "stylematte evaluate pred gt --trymap t",
        "stylematte models show",
        "stylematte models sho nano",
        "stylematte doctor --device",
    ],
)
def test_the_check_fails_what_is_wrong(line):
    with pytest.raises(Exception, match=r"(?i)no such|missing|requires"):
        parse(shlex.split(line))


def test_shell_blocks_are_split_into_commands(tmp_path, monkeypatch):
    page = """
```sh
$ A=1 stylematte matte a.jpg \\
    --out "my mattes" > log.txt | wc -l && make test  # a remark
```
```python
stylematte = 1
```
"""
    (tmp_path / "page.md").write_text(page)
    monkeypatch.setattr("tests.test_docs.ROOT", tmp_path)
    assert list(shell_commands("page.md")) == [
        ["stylematte", "matte", "a.jpg", "--out", "my mattes"],
        ["wc", "-l"],
        ["make", "test"],
    ]


def test_tables_of_formats_are_those_of_the_reader() -> None:
    from stylematte.media import formats

    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    for name, table in {"formats": formats.table(), "refused": formats.refused_table()}.items():
        found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", page, re.DOTALL)
        assert found is not None
        assert found[1] == table, (
            f"put what formats.{'' if name == 'formats' else 'refused_'}table() gives there"
        )
