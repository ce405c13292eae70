"""The help of the commands: whole names at any width, panels, defaults, examples."""

import re

import pytest
import typer

from robustbench_dyn import cli
from robustbench_dyn.cli.examples import EXAMPLES
from robustbench_dyn.cli.help import help_of
from robustbench_dyn.threat_models import DEFAULT_EPS, format_eps

DYNBENCH = typer.main.get_command(cli.app)


def contexts(command=DYNBENCH, parent=None, name="dynbench"):
    """Yield the path, the command and the context of each command and group."""
    options = {"help_option_names": ["-h", "--help"]} if parent is None else {}
    context = typer.Context(command, info_name=name, parent=parent, **options)
    yield context.command_path.partition(" ")[2], command, context
    for child_name, child in getattr(command, "commands", {}).items():
        yield from contexts(child, context, child_name)


ALL = {path: (command, context) for path, command, context in contexts()}
LEAVES = [path for path, (command, _) in ALL.items() if not hasattr(command, "commands")]


def shown(path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    return re.sub(r"\x1b\[\d+m", "", help_of(*ALL[path]))


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("path", ALL)
def test_help_shows_all_names_at_any_width(path, columns, monkeypatch):
    text = shown(path, monkeypatch, columns)
    command, _ = ALL[path]
    for param in command.params:
        for name in param.opts:
            assert name in text or not name.startswith("-")
    assert "…" not in text
    assert "<" not in text, "a type in place of a name"
    options, _, _ = text.partition("Examples")
    # A name or an example that is longer than a line is not cut.
    wide = [line for line in options.splitlines() if len(line) > columns and len(line.split()) > 2]
    assert not wide


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_examples(path, monkeypatch):
    text = shown(path, monkeypatch, 80)
    assert EXAMPLES[path]
    for example in EXAMPLES[path]:
        assert example.startswith(f"dynbench {path} ") or example == f"dynbench {path}"
        assert f"  {example}\n" in text + "\n"


def test_every_value_has_a_name_that_says_what_it_is(monkeypatch):
    for path in LEAVES:
        for param in ALL[path][0].params:
            is_flag = getattr(param, "is_flag", False)
            choices = getattr(getattr(param, "type_descriptor", None), "choices", None)
            assert is_flag or choices or param.metavar, f"give {param.name} of {path} a metavar"


def test_help_groups_options_and_shows_defaults(monkeypatch):
    text = shown("run", monkeypatch, 80)
    titles = re.findall(r"^[A-Z][\w ]+$", text, re.MULTILINE)
    panels = ["Model and data", "Threat model", "Attacks and certificates", "Output", "Plugins"]
    assert titles == [*panels, "Machine", "Help", "Examples"]
    flat = " ".join(text.split())
    for norm, eps in DEFAULT_EPS.items():
        assert f"{format_eps(eps)} in {norm}" in flat
    assert "[default: fashion_mnist]" in flat
    assert "[default: L2]" in flat
    assert "[default: 500; all, where there are fewer]" in flat
    assert re.search(r"^  --json  ", text, re.MULTILINE)
    assert "9223372036854775807" not in text


@pytest.mark.parametrize("name", ["-h", "--help"])
def test_both_names_of_help_work(name, capsys):
    assert cli.run(["run", name]) == 0
    assert "-h, --help" in capsys.readouterr().out


def test_the_bare_command_prints_its_help(capsys):
    assert cli.run([]) == 2
    out, err = capsys.readouterr()
    assert "Usage: dynbench" in out
    assert "\x1b" not in out
    assert err == "dynbench: no command is given; see: dynbench --help\n"


def test_version_says_what_a_report_needs(capsys):
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(
        r"dynbench \S+, torch \S+, Python \d\S+, \w+ \S+\n", capsys.readouterr().out
    )
