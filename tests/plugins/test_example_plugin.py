"""A plugin that brings something of every kind: found, checked, run, and shown in the docs."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import extending
import pytest
import yaml
from oracles.command import dynbench_here

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model, load_plugins
from robustbench_dyn.certification.catalogue import select_certifiers
from robustbench_dyn.cli.scaffolding import render
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.plugins import Card, discovery
from robustbench_dyn.sweeps.sweep import sweep
from robustbench_dyn.sweeps.sweep_file import Sweep
from robustbench_dyn.training.recipes import Recipe

EXAMPLE = Path(__file__).parent / "example"
PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
KINDS = ("attack", "certifier", "dataset", "operation")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_the_docs_show_the_modules_of_the_plugin(kind):
    source = (EXAMPLE / f"{kind}.py").read_text(encoding="utf-8")
    assert source in blocks("python")
    assert source == render(extending.NAMES[kind], kind)
    assert len([line for line in source.splitlines() if line.strip()]) <= 32


def test_the_python_example_of_the_docs_runs(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    (source,) = (block for block in blocks("python") if "load_plugins(" in block)
    names = {}
    exec(source, names)
    evaluation = names["evaluation"]
    assert evaluation.summary["certified_accuracy"] > 0.5
    assert evaluation.summary["certifiers"] == "interval+bound"
    assert evaluation.summary["attacks"] == "ascent(n_steps=10)"


def test_the_files_in_the_docs_are_valid():
    card, architecture, recipe = map(yaml.safe_load, blocks("yaml"))
    assert Card.model_validate(card).provides == ("attacks", "certifiers")
    assert Card.model_validate(architecture).provides == ("architecture",)
    assert Recipe.model_validate(recipe).dataset == "moons"
    (project,) = blocks("toml")
    groups = tomllib.loads(project)["project"]["entry-points"]
    assert set(groups) <= set(discovery.ENTRY_POINT_GROUPS)


def test_a_run_uses_everything_that_the_plugin_brings(command):
    result = command(
        *("run", "--plugins", EXAMPLE, "--model", "example", "--dataset", "diagonal"),
        *("--attacks", "ascent:n_steps=30", "--certifiers", "bound,interval"),
        *("--n-examples", "40", "--eps", "0.05", "--json"),
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    (row,) = document["rows"]
    assert (row["model"], row["dataset"]) == ("example", "diagonal")
    assert (row["attacks"], row["certifiers"]) == ("ascent(n_steps=30)", "interval+bound")
    stages = {stage["stage"]: stage["decided"] for stage in document["run"]["stages"]}
    # The attack breaks, and interval bounds prove, for which they need the operation.
    assert stages["ascent"] > 0
    assert stages["interval"] > 0
    assert {"ascent", "interval", "bound"} <= set(stages)


@pytest.mark.slow
def test_the_workers_of_a_sweep_use_the_plugin(tmp_path):
    config = Sweep.model_validate(
        {
            "models": ["example"],
            "datasets": ["diagonal"],
            "threat_models": [{"norm": "L2", "eps": [0.05]}],
            "seeds": [0],
            "n_examples": 20,
            "examples_per_shard": 10,
            "attacks": "ascent",
            "certifiers": "interval,bound",
        }
    )
    outcome = sweep(config, tmp_path / "s.sqlite", workers=2, plugins=(EXAMPLE,))
    assert (outcome.failed, outcome.unsound) == ({}, {})
    (row,) = outcome.rows
    assert (row["attacks"], row["certifiers"]) == ("ascent", "interval+bound")
    assert row["certified_accuracy"] > 0.5


def test_the_certifier_proves_what_its_bound_says():
    load_plugins(EXAMPLE)
    model, data = load_model("example", dataset="diagonal"), load_dataset("diagonal", n_examples=40)
    summary = evaluate(
        model, data, ThreatModel("L2", 0.05), attacks="none", certifiers="bound"
    ).summary
    known = evaluate(
        model, data, ThreatModel("L2", 0.05), attacks="none", certifiers="lipschitz"
    ).summary
    assert summary["certified_accuracy"] == known["certified_accuracy"] > 0.5


def test_the_operation_is_refused_without_the_plugin():
    load_plugins(EXAMPLE)
    model = load_model("example", dataset="diagonal")
    assert len(select_certifiers("interval", model, (2, 1, 1), "L2").ready) == 1
    discovery._registered.clear()
    with pytest.raises(CertificateError, match="do not support the operation 'atan'"):
        select_certifiers("interval", model, (2, 1, 1), "L2")


@pytest.mark.parametrize(
    ("what", "name", "facts"),
    [
        ("models", "example", "diagonal"),
        ("attacks", "ascent", "normalised gradient steps"),
        ("certifiers", "bound", "global L2 Lipschitz bound of each"),
        ("datasets", "diagonal", "train: 400 generated, test: 100"),
        ("operations", "atan", ""),
    ],
)
def test_lists_show_its_names_with_their_origin(command, what, name, facts):
    row = rf"(?m)^{name} .*{facts}.* the folder {re.escape(str(EXAMPLE))}"
    assert not re.search(row, command("list", what).stdout)
    assert re.search(row, command("list", what, "--plugins", EXAMPLE).stdout)


@pytest.mark.slow
def test_the_plugin_keeps_every_contract(command):
    result = command("check", EXAMPLE)
    assert result.returncode == 0, result.stdout + result.stderr
    titles = (
        "attack ascent",
        "certifier bound",
        "data set diagonal",
        "operation atan",
        "claim",
    )
    for title in titles:
        assert title in result.stdout
    assert "BROKEN" not in result.stdout
    # Of each contract, a control that was caught.
    for fault in ("does nothing", "grows radii by half", "counts classes from 1", "computes ReLU"):
        assert fault in result.stdout


def key(**stages):
    """Return the key of an evaluation of a model that comes from no plugin but a shipped one."""
    model, data = load_model("feedforward", dataset="moons"), load_dataset("moons", n_examples=4)
    return evaluate(model, data, ThreatModel("L2", 0.01), **stages).key


@pytest.mark.parametrize(
    "stages",
    [
        {"attacks": "ascent", "certifiers": "none"},
        {"attacks": "none", "certifiers": "bound"},
        {"attacks": "none", "certifiers": "interval"},
    ],
)
@pytest.mark.parametrize("module", ["attack", "certifier", "operation"])
def test_verdicts_depend_on_the_code_of_a_plugin(tmp_path, stages, module):
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    load_plugins(folder)
    first = key(**stages)
    assert key(**stages) == first
    path = folder / f"{module}.py"
    path.write_text(path.read_text() + "# changed\n")
    assert key(**stages) != first


def test_proofs_depend_on_the_operations_of_plugins():
    stages = {"attacks": "none", "certifiers": "interval"}
    before = key(**stages)
    load_plugins(EXAMPLE)
    assert key(**stages) != before


def test_built_in_attacks_do_not_depend_on_plugins():
    stages = {"attacks": "pgd", "certifiers": "none"}
    before = key(**stages)
    load_plugins(EXAMPLE)
    assert key(**stages) == before


def test_an_attack_cannot_have_the_name_of_a_certifier(tmp_path):
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    path = folder / "attack.py"
    path.write_text(path.read_text().replace('"ascent"', '"bound"'))
    load_plugins(folder)
    model = load_model("example", dataset="diagonal")
    with pytest.raises(InputError, match="an attack and another stage are called 'bound'; rename"):
        evaluate(model, "diagonal", ThreatModel("L2", 0.1), attacks="bound", certifiers="bound")
