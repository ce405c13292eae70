"""Attacks, certifiers and data sets of untrusted plugins, which run in processes of their own."""

import re
from pathlib import Path

import pytest
import torch
from oracles.files_of_data import write_data, write_nearest
from oracles.image_folders import write_folder

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model, load_plugins
from robustbench_dyn.attacks import ATTACKS
from robustbench_dyn.certification.catalogue import CERTIFIERS, select_certifiers
from robustbench_dyn.datasets import DATASETS, dataset_name
from robustbench_dyn.errors import CertificateError, ForeignCodeError, InputError
from robustbench_dyn.evaluation.plan import stage_spec
from robustbench_dyn.models.isolated import IsolatedModel
from robustbench_dyn.plugins import StandIn, discovery, foreign, hash_code, trust_plugins

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example"
OPTIONS = {"attacks": "ascent:n_steps=5", "certifiers": "bound,interval"}


@pytest.fixture(autouse=True)
def example(untrusted):
    load_plugins(EXAMPLE)


def test_the_plugin_does_the_same_inside_and_outside():
    data = load_dataset("diagonal", n_examples=20)
    outside = evaluate(
        load_model("example", dataset="diagonal"), data, ThreatModel("L2", 0.05), **OPTIONS
    )
    trust_plugins()
    trusted = load_dataset("diagonal", n_examples=20)
    inside = evaluate(
        load_model("example", dataset="diagonal"), trusted, ThreatModel("L2", 0.05), **OPTIONS
    )
    assert torch.equal(data.x, trusted.x)
    assert data.sha256 == trusted.sha256
    columns = [c for c in outside.examples.columns if c != "seconds"]
    assert outside.examples[columns].equals(inside.examples[columns])
    assert {"certified", "broken"} <= set(outside.examples["status"])


def test_nothing_of_the_plugin_is_imported_here():
    kind = ATTACKS.get("ascent")
    assert (kind.name, kind().n_steps, kind.norms) == ("ascent", 20, frozenset({"L2"}))
    assert issubclass(kind, StandIn)
    assert ATTACKS.get("ascent") is kind
    assert DATASETS.get("diagonal").sizes == {"train": 400, "test": 100}
    with pytest.raises(InputError, match="n_stops"):
        ATTACKS.create("ascent", {"n_stops": 3})


def test_a_shipped_model_is_attacked_and_certified_by_the_plugin():
    data = load_dataset("fashion_mnist", n_examples=3)
    options = {"attacks": "ascent:n_steps=2", "certifiers": "bound"}
    model = load_model("lipflow")
    outside = evaluate(model, data, ThreatModel("L2", 0.25), **options)
    trust_plugins()
    inside = evaluate(model, data, ThreatModel("L2", 0.25), **options)
    columns = [c for c in outside.examples.columns if c != "seconds"]
    assert outside.examples[columns].equals(inside.examples[columns])


def test_a_certifier_cannot_read_a_module_that_no_process_can_load():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2)).requires_grad_(False)
    with pytest.raises(CertificateError, match="no other process can load; give --trust"):
        select_certifiers("bound", model, (2, 1, 1), "L2")


def test_a_certifier_object_of_this_process_cannot_treat_a_foreign_model():
    model = load_model("example", dataset="diagonal")
    certifier = CERTIFIERS.create("interval")

    class Mine(type(certifier)):
        name = "mine"

    with pytest.raises(CertificateError, match="object of this process"):
        select_certifiers(Mine(), model, (2, 1, 1), "L2")


def test_verdicts_depend_on_the_code_of_a_stand_in():
    spec = stage_spec(ATTACKS.create("ascent"))
    assert spec.code_sha256 == hash_code(EXAMPLE)


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("attacks", {"name": "a b", "norms": ["L2"]}),
        ("attacks", {"name": "a", "norms": ["L3"]}),
        ("attacks", {"name": "a", "norms": ["L2"], "settings": {"perturb()": 1}}),
        ("attacks", {"name": "a", "norms": ["L2"], "settings": {"n": [1]}}),
        ("attacks", {"name": "a", "norms": ["L2"], "perturb": "x"}),
        ("certifiers", {"name": "c", "norms": ["L2"], "phase": "never"}),
        ("certifiers", {"name": "../c", "norms": ["L2"]}),
        ("datasets", {"name": "d"}),
    ],
)
def test_facts_that_make_no_sense_are_a_problem_of_the_plugin(kind, facts, monkeypatch):
    told = {kind: [{"facts": facts}]}
    monkeypatch.setattr(foreign, "_described", lambda *_: told)
    registry = {"attacks": ATTACKS, "certifiers": CERTIFIERS, "datasets": DATASETS}[kind]
    entries = [e for e in registry.entries().values() if str(EXAMPLE) in e.origin]
    assert [bool(entry.problem) for entry in entries] == [True]
    assert re.search("make no sense", entries[0].problem)


def test_an_attack_that_ends_its_process_ends_the_run(tmp_path):
    folder = tmp_path / "ends"
    folder.mkdir()
    (folder / "card.yaml").write_text(
        "name: ends\nsummary: It ends.\nversion: '1'\nprovides: [attacks]\n"
    )
    (folder / "__init__.py").write_text(
        "import os\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from robustbench_dyn import Attack\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Ends(Attack):\n"
        "    name: ClassVar = 'ends'\n\n"
        "    def perturb(self, problem):\n        os._exit(0)\n\n\nATTACKS = (Ends,)\n"
    )
    load_plugins(folder)
    model, data = load_model("lipflow"), load_dataset("fashion_mnist", n_examples=2)
    with pytest.raises(ForeignCodeError, match=r"plugin 'ends' .* exit code 0"):
        evaluate(model, data, ThreatModel("L2", 2.0), attacks="ends", certifiers="none")
    assert discovery.folders_in_use()[-1] == folder


@pytest.mark.slow
def test_a_data_set_that_is_read_in_part_is_read_so_outside(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_folder(folder / "images/test", {"a": 6, "b": 6})
    (folder / "card.yaml").write_text(
        'name: pictures\nsummary: A few.\nversion: "1"\nprovides: [datasets]\n'
    )
    (folder / "__init__.py").write_text(
        "from pathlib import Path\nfrom robustbench_dyn.datasets import from_folder\n"
        'DATASETS = (from_folder(Path(__file__).parent / "images", name="pictures"),)\n'
    )
    load_plugins(folder)
    assert DATASETS.get("pictures").load_rows is not None
    outside = load_dataset("pictures", first=3, n_examples=4)
    trust_plugins()
    inside = load_dataset("pictures", first=3, n_examples=4)
    assert torch.equal(outside.x, inside.x)
    assert outside.ids.tolist() == [3, 4, 5, 6]
    assert outside.sha256 == inside.sha256


@pytest.mark.slow
def test_weights_for_files_are_filled_outside(tmp_path):
    name = write_data(tmp_path / "three.npz")
    folder = write_nearest(tmp_path / "nearest", name)
    load_plugins(folder)
    outside = load_model("nearest", dataset=name)
    assert isinstance(outside, IsolatedModel)
    trust_plugins()
    inside = load_model("nearest", dataset=name)
    assert not isinstance(inside, IsolatedModel)
    for model in (outside, inside):
        evaluation = evaluate(model, name, ThreatModel("L2", 0.01), attacks="none")
        assert evaluation.summary["clean_accuracy"] == 1
        assert evaluation.summary["dataset"] == dataset_name(name)
    with pytest.raises(InputError, match="no weights for dataset 'moons'"):
        load_model("nearest", dataset="moons")
