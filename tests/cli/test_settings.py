"""Settings on the command line: what they change, and the command that shows them."""

import json

import pytest
from oracles.digits_plugin import HONEST, write_plugin

from robustbench_dyn import cli
from robustbench_dyn.plugins import find_plugins, is_trusted

RUN = ["run", "--model", "mine", "--dataset", "digits", "--n-examples", "4", "--attacks", "none"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a plugin that the settings name."""
    monkeypatch.chdir(tmp_path)
    write_plugin(tmp_path / "mine", HONEST)
    (tmp_path / "config.toml").write_text('plugins = ["mine"]\nstore = "kept.sqlite"\n')
    monkeypatch.setenv("DYNBENCH_CONFIG", "config.toml")
    return tmp_path


def run(capsys, *arguments):
    assert cli.run([*arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_file_gives_plugins_and_the_store(here, capsys):
    document = json.loads(run(capsys, *RUN, "--json"))
    assert document["run"]["store"] == "kept.sqlite"
    assert (here / "kept.sqlite").is_file()
    run(capsys, "leaderboard", "--to", "tables")
    run(capsys, "export", "x.csv")


def test_the_command_line_goes_before_the_environment(here, capsys, monkeypatch):
    monkeypatch.setenv("DYNBENCH_STORE", "named.sqlite")
    assert json.loads(run(capsys, *RUN, "--json"))["run"]["store"] == "named.sqlite"
    given = run(capsys, *RUN, "--json", "--store", "given.sqlite")
    assert json.loads(given)["run"]["store"] == "given.sqlite"


def test_strict_rounding_can_be_set_and_unset(here, capsys):
    with (here / "config.toml").open("a") as file:
        file.write("strict = true\n")
    assert json.loads(run(capsys, *RUN, "--json"))["run"]["rounding"] == "strict"
    loose = run(capsys, *RUN, "--json", "--no-strict-rounding")
    assert json.loads(loose)["run"]["rounding"] == "measured"


def test_help_shows_the_settings_as_defaults(here, capsys):
    assert "[default: kept.sqlite]" in run(capsys, "run", "--help")
    # No store at all stands for the tables that ship.
    assert "kept.sqlite" not in run(capsys, "compare", "--help")


def test_plugins_in_the_settings_are_not_trusted(here, untrusted, capsys):
    run(capsys, "list", "models")
    (mine,) = (plugin for plugin in find_plugins() if plugin.name == "mine")
    assert not is_trusted(mine)


def test_the_command_shows_each_value_with_its_origin(here, capsys, monkeypatch):
    monkeypatch.setenv("DYNBENCH_DEVICE", "mps")
    told = json.loads(run(capsys, "settings", "--json"))
    assert told["settings"]["device"] == {"value": "mps", "origin": "DYNBENCH_DEVICE"}
    assert told["settings"]["plugins"] == {"value": ["mine"], "origin": "config.toml"}
    assert told["settings"]["strict"] == {"value": False, "origin": "default"}
    assert told["file"] == "config.toml"
    text = run(capsys, "settings")
    for word in ("kept.sqlite", "config.toml", "DYNBENCH_DEVICE", "mps", "default"):
        assert word in text


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DYNBENCH_CONFIG", "no/such", "names no file"),
        ("DYNBENCH_DEVICE", "tpu", "cuda"),
        ("DYNBENCH_PLUGINS", "no/such", "does not exist"),
        ("DYNBENCH_STORE", "no/such.sqlite", "does not exist"),
    ],
)
def test_a_wrong_setting_is_one_line(variable, value, words, here, capsys, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert cli.run([*RUN, "--plugins", "mine"] if variable != "DYNBENCH_PLUGINS" else RUN) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
