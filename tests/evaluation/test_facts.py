"""Facts in the record of an evaluation: the suite of attacks and the recipe of the weights."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from oracles import halfspaces, points
from oracles.records import record

from robustbench_dyn import ThreatModel, evaluate, load_model, load_plugins
from robustbench_dyn.attacks import PGD
from robustbench_dyn.models.loading import hash_recipe
from robustbench_dyn.plugins import Weights
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.store import Store
from robustbench_dyn.smoothing import Smoothing, evaluate_smoothed

L2 = ThreatModel("L2", 0.05)
MOONS = Path(__file__).parents[2] / "plugins" / "sll" / "recipes" / "moons.yaml"
EXAMPLE = Path(__file__).parents[1] / "plugins" / "example"


def record_of(model, data, **options):
    store = Store()
    found = evaluate(model, data, L2, store=store, certifiers="none", **options)
    return store.record(found.key)


@pytest.mark.parametrize(
    ("attacks", "suite"),
    [
        ("none", "none"),
        ("rand", "rand"),
        (["none"], "none"),
        ("pgd", "custom"),
        ([PGD(n_steps=2)], "custom"),
        ("pgd:n_steps=2,square", "custom"),
    ],
)
def test_the_record_names_the_suite(attacks, suite):
    model, data = halfspaces(), points((0.1, 0.3))
    assert record_of(model, data, attacks=attacks).suite == suite


@pytest.mark.parametrize(("attacked", "suite"), [(True, "eot-pgd"), (False, "none")])
def test_the_record_names_the_attack_on_smoothed_classifiers(attacked, suite):
    model, data = halfspaces(), points((0.1, 0.3))
    store = Store()
    found = evaluate_smoothed(
        model, data, [L2], Smoothing(0.25, n0=4, n=20), attacked=attacked, store=store
    )
    assert store.record(found.evaluations[0].key).suite == suite


def test_the_record_has_the_hash_of_the_recipe():
    found = record_of(load_model("sll", dataset="moons"), "moons", attacks="none", n_examples=2)
    assert found.training_record == hashlib.sha256(MOONS.read_bytes()).hexdigest()


@pytest.mark.usefixtures("untrusted")
def test_a_model_in_another_process_has_the_recipe_of_its_card():
    load_plugins(EXAMPLE)
    model = load_model("example", dataset="diagonal")
    found = record_of(model, "diagonal", attacks="none", n_examples=2)
    recipe = EXAMPLE / "recipes" / "diagonal.yaml"
    assert found.training_record == hashlib.sha256(recipe.read_bytes()).hexdigest()


def test_unregistered_and_changed_models_have_no_recipe():
    model, data = halfspaces(), points((0.1, 0.3))
    assert record_of(model, data, attacks="none").training_record == ""
    changed = load_model("sll", dataset="moons")
    with torch.no_grad():
        next(changed.parameters()).mul_(1.01)
    found = record_of(changed, "moons", attacks="none", n_examples=2, name="changed")
    assert found.training_record == ""


@pytest.mark.parametrize(
    "recipe", ["recipes/missing.yaml", "../outside.yaml", "recipes", "a\0b", "link.yaml"]
)
def test_a_recipe_that_is_no_file_of_the_plugin_has_no_hash(recipe, tmp_path):
    folder = tmp_path / "plugin"
    (folder / "recipes").mkdir(parents=True)
    (tmp_path / "outside.yaml").write_text("a: 1")
    (folder / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    (folder / "recipes" / "here.yaml").write_text("a: 1")
    weights = Weights(file="w", sha256="0" * 64, dataset="moons", recipe=recipe)
    assert hash_recipe(folder, weights) == ""
    here = weights.model_copy(update={"recipe": "recipes/here.yaml"})
    assert hash_recipe(folder, here) == hashlib.sha256(b"a: 1").hexdigest()


def test_facts_are_not_part_of_the_key():
    one = record()
    other = replace(one, suite="standard", training_record="ab")
    assert other.spec.key() == one.spec.key()
    assert Record.from_json(other.to_json()) == other


def test_records_of_older_files_have_no_facts():
    content = asdict(record())
    del content["suite"], content["training_record"]
    found = Record.from_json(json.dumps(content))
    assert (found.suite, found.training_record) == ("", "")
