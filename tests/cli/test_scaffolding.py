"""The command new: templates that work as they are written."""

from typing import get_args

import pytest
import yaml
from oracles.command import dynbench_here, refused

from robustbench_dyn.cli.scaffolding import TEMPLATES, NewKind
from robustbench_dyn.plugins import Card


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("kind", get_args(NewKind))
def test_a_new_plugin_passes_its_check(command, tmp_path, kind):
    result = command("new", "my_own", "--kind", kind)
    assert result.returncode == 0, result.stderr
    assert "next: dynbench check my_own" in result.stdout
    card = Card.model_validate(yaml.safe_load((tmp_path / "my_own" / "card.yaml").read_text()))
    assert card.name == "my_own"
    assert "example" not in (tmp_path / "my_own" / "__init__.py").read_text().lower()
    checked = command("check", "my_own")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_kind_has_a_template():
    assert {path.stem for path in TEMPLATES.glob("*.py")} == set(get_args(NewKind))


def test_a_new_plugin_may_go_to_another_folder(command, tmp_path):
    assert command("new", "mine", "--kind", "attack", "--to", "plugins/here").returncode == 0
    assert (tmp_path / "plugins" / "here" / "mine" / "card.yaml").is_file()
    assert "mine" in command("list", "attacks", "--plugins", "plugins/here").stdout


def test_an_existing_folder_is_not_overwritten(command, tmp_path):
    (tmp_path / "mine").mkdir()
    refused(command("new", "mine"), "mine exists already; choose another name")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("name", ["Mine", "my-own", "3d", "a/b.c"])
def test_a_name_that_no_plugin_can_have_is_refused(command, tmp_path, name):
    refused(command("new", name), "must be lower case letters, digits and underscores")
    assert list(tmp_path.iterdir()) == []
