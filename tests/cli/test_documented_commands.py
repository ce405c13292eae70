"""Commands in README.md and docs/ exist, and every command is documented there."""

import re
import shlex

import pytest
import typer
from oracles.pages import PAGES, name_of

from robustbench_dyn.cli import app

COMMAND = re.compile(r"dynbench( [^\n`&|]+)")
DYNBENCH = typer.main.get_command(app)
# Of click, or of the copy of click inside typer.
UsageError = typer.BadParameter.__bases__[0]


def in_code(text):
    """Return the indented and fenced lines of a page, and its inline code."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}.*$", text, re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", text)
    return [*indented, *"\n".join(fenced).splitlines()], [
        part.replace("\n", " ") for part in inline
    ]


def commands(lines):
    """Return the arguments of each `dynbench ...` in lines, without comments."""
    return [
        shlex.split(match[1], comments=True) for line in lines for match in COMMAND.finditer(line)
    ]


def parse(arguments, *, whole):
    """Parse arguments; raises UsageError for an unknown command or option.

    whole: also check that required options are there, and the values of all options.
    """
    command, context = DYNBENCH, typer.Context(DYNBENCH, info_name="dynbench")
    arguments = list(arguments)
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        command = command.get_command(context, name)
        if command is None:
            raise typer.BadParameter(f"no such command: {name}")
        context = typer.Context(command, info_name=name, parent=context)
    if whole:
        command.make_context(command.name, arguments, parent=context.parent)
    else:
        command.make_parser(context).parse_args(arguments)


def leaves(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield " ".join(path)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_in_the_docs_parse(path, monkeypatch):
    # The folders of the examples exist where a reader made them.
    monkeypatch.setattr("robustbench_dyn.plugins.load_plugins", lambda *_folders: None)
    blocks, inline = in_code(path.read_text(encoding="utf-8"))
    for arguments in commands(blocks):
        parse(arguments, whole=True)
    for arguments in commands(inline):
        parse(arguments, whole=False)


@pytest.mark.parametrize("name", [*leaves(DYNBENCH)])
def test_each_command_is_documented(name):
    pages = [in_code(path.read_text(encoding="utf-8")) for path in PAGES]
    documented = [part for blocks, inline in pages for part in (*blocks, *inline)]
    assert any(re.search(rf"dynbench {name}\b", part) for part in documented), name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("    dynbench rum --model lipflow", "no such command"),
        ("    dynbench run --model lipflow --epsilon 1", "epsilon"),
        ("    dynbench run --eps 0.5", "model"),
        ("    dynbench smooth --model lipflow --sigma wide", "sigma"),
        ("    dynbench plot maps", "no such command"),
        ("    pip install -e . && dynbench list networks", "networks"),
    ],
)
def test_a_wrong_command_is_found(line, message):
    (arguments,) = commands(in_code(line)[0])
    with pytest.raises(UsageError) as caught:
        parse(arguments, whole=True)
    assert message in caught.value.format_message().lower()


def test_inline_code_needs_no_required_options():
    (arguments,) = commands(in_code("Then `dynbench run --profile` prints costs.")[1])
    parse(arguments, whole=False)
    with pytest.raises(UsageError):
        parse([*arguments, "--costs"], whole=False)
