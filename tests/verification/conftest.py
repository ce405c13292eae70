"""Tables of models that take a second to evaluate, and a network whose certificates are wrong."""

import shutil

import pytest
from oracles.forgeries import entries_of, honest_folder

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.plugins import load_plugins
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.results.store import Store


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    place = tmp_path_factory.mktemp("honest")
    return honest_folder(place / "tables", place / "plugins"), place / "plugins"


@pytest.fixture
def folder(honest, tmp_path):
    tables, plugins = honest
    load_plugins(plugins)
    return shutil.copytree(tables, tmp_path / "tables")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One row of 30 examples of two-dimensional points, attacked so briefly that some stand."""
    place = tmp_path_factory.mktemp("small") / "tables"
    store = Store(None)
    model, data = load_model("lipflow", dataset="moons"), load_dataset("moons", n_examples=30)
    for eps in (0.1, 0.3):
        evaluate(
            model,
            data,
            ThreatModel("L2", eps),
            attacks="pgd:n_steps=1",
            certifiers="lipschitz",
            store=store,
        )
    publish(entries_of(store, n_adversarial=2), place)
    store.close()
    return place


@pytest.fixture
def table(small, tmp_path):
    return shutil.copytree(small, tmp_path / "tables") / "moons-L2-0.3.csv"
