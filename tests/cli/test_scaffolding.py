"""The command new: templates that work as they are written."""

import json
import os
import subprocess
import sys
import tomllib
from typing import get_args

import pytest
import yaml
from oracles.command import dynbench, dynbench_here, refused

from robustbench_dyn.cli.scaffolding import TEMPLATES, NewKind
from robustbench_dyn.plugins import Card


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


KINDS = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind == "architecture" else [])
    for kind in get_args(NewKind)
]


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", get_args(NewKind))
def test_a_new_package_has_all_that_pip_and_ci_need(command, tmp_path, kind):
    result = command("new", "my_own", "--kind", kind, "--package")
    assert result.returncode == 0, result.stderr
    root = tmp_path / "my_own"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["name"] == "dynbench-my-own"
    entries = project["project"]["entry-points"]["robustbench_dyn"]
    assert entries == {"my_own": "dynbench_my_own"}
    assert (root / "src" / "dynbench_my_own" / "card.yaml").is_file()
    workflow = yaml.safe_load((root / ".github" / "workflows" / "checks.yml").read_text())
    steps = workflow["jobs"]["checks"]["steps"]
    assert [step["run"] for step in steps if "run" in step][-1] == "pytest"
    compile((root / "tests" / "test_my_own.py").read_text(), "test_my_own.py", "exec")
    written = [path for path in root.rglob("*") if path.is_file()]
    assert all(f"written: {path.relative_to(tmp_path)}" in result.stdout for path in written)
    assert not [path for path in written if "example" in path.read_text().lower()]


@pytest.mark.slow
def test_a_new_architecture_learns_the_moons_and_is_certified(command, tmp_path):
    assert command("new", "my_own").returncode == 0
    train = command("train", "--model", "my_own", "--plugins", "my_own", "--install")
    assert train.returncode == 0, train.stderr
    run = ["run", "--model", "my_own", "--plugins", "my_own", "--dataset", "moons", "--json"]
    result = command(*run, "--n-examples", "100", "--eps", "0.05", "--attacks", "apgd-ce")
    (row,) = json.loads(result.stdout)["rows"]
    assert row["clean_accuracy"] > 0.95
    assert row["certified_accuracy"] > 0.8
    tables = command("leaderboard", "--plugins", "my_own", "--to", "tables")
    assert tables.returncode == 0, tables.stderr
    assert "my_own" in (tmp_path / "tables" / "moons-L2-0.05.csv").read_text()


@pytest.mark.slow
def test_a_new_package_is_built_installed_and_found(command, tmp_path):
    assert command("new", "my_own", "--package").returncode == 0
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    site = tmp_path / "site"
    subprocess.run([*pip, "--no-index", "--target", site, tmp_path / "my_own"], check=True)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    listed = dynbench("list", "models", cwd=elsewhere, env={"PYTHONPATH": path})
    assert "the package dynbench-my-own (entry point my_own = dynbench_my_own)" in listed.stdout
    checked = dynbench("check", "my_own", cwd=elsewhere, env={"PYTHONPATH": path})
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (
        "Gradient flow"
        in dynbench("show", "my_own", cwd=elsewhere, env={"PYTHONPATH": path}).stdout
    )


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
