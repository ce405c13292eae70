"""Sweeps that nothing happened to, which the tests of engines compare theirs with."""

import pytest
from oracles.digits_plugin import HONEST, write_plugin
from oracles.sweeps import WITH_SMOOTHED, content, in_this_process

from robustbench_dyn.sweeps import sweep as sweeping

# Kills its own process, as often as there are lives beside it.
MORTAL = (
    HONEST
    + """
import os, signal
from pathlib import Path
CALLS = []

class Mortal(nn.Flatten):
    def forward(self, x):
        self.die()
        return x.flatten(1)

    def lipschitz_bound(self):
        return 1.0

    def die(self):
        CALLS.append(1)
        lives = list(Path(__file__).parent.glob("life-*"))
        if len(CALLS) > 12 and lives:
            # Of several workers only one can take this life.
            try:
                lives[0].unlink()
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

def build(input_shape, n_classes):
    return Classifier(Mortal(), nn.Linear(64, n_classes))
"""
)


@pytest.fixture(scope="session")
def plugins(tmp_path_factory):
    """A folder of plugins; its model would die if it had lives."""
    folder = tmp_path_factory.mktemp("plugins")
    write_plugin(folder / "linear", MORTAL)
    return folder


@pytest.fixture
def mortal(tmp_path):
    """The same plugin with two lives, in a folder of its own."""
    folder = write_plugin(tmp_path / "mortal" / "linear", MORTAL)
    for life in range(2):
        (folder / f"life-{life}").touch()
    return folder


@pytest.fixture
def without_workers(monkeypatch):
    monkeypatch.setattr(sweeping.ENGINES, "get", lambda _name: in_this_process)


@pytest.fixture(scope="session")
def undisturbed(plugins, tmp_path_factory):
    """The store and the outcome of a small sweep."""
    return _undisturbed(content(), plugins, tmp_path_factory)


@pytest.fixture(scope="session")
def smoothed(plugins, tmp_path_factory):
    """The store and the outcome of a sweep of a smoothed classifier and its network."""
    return _undisturbed(content(**WITH_SMOOTHED), plugins, tmp_path_factory)


def _undisturbed(sweep, plugins, tmp_path_factory):
    store = tmp_path_factory.mktemp("sweep") / "s.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping.ENGINES, "get", lambda _name: in_this_process)
        return store, sweeping.sweep(sweep, store, workers=2, plugins=(plugins,), trust=True)
