"""Settings of every test: one thread a process, a process a core."""

import os
import signal

# Before torch is imported: processes that share the cores are slowed down by each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ctrl-C is ignored where a shell runs the tests in the background, and by what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings

from robustbench_dyn.evaluation import plan
from robustbench_dyn.models import identity
from robustbench_dyn.plugins import discovery

# The settings of the user who runs the tests are none of theirs.
for variable in ("STORE", "PLUGINS", "DATA", "DEVICE"):
    os.environ.pop(f"DYNBENCH_{variable}", None)
os.environ["DYNBENCH_CONFIG"] = ""

# A busy machine is no fault of an example that takes long to draw.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# More workers than this gain little, and each holds torch in memory.
MOST_WORKERS = 8


def pytest_xdist_auto_num_workers(config):
    """Return one worker a core; none for single cases, which the workers' start would delay."""
    if any("::" in argument for argument in config.args):
        return 0
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not every system says what this process may use
        cores = os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


# The plugins of the tests run inside this process, which takes seconds less for each; tests of the
# processes that run other plugins take the fixture `untrusted`.
discovery.trust_plugins()


def _apart(**settings):
    """Return a patch under which plugins that are loaded leave nothing behind."""
    patch = pytest.MonkeyPatch()
    for name, value in settings.items():
        patch.setattr(identity if name == "_names" else discovery, name, type(value)(value))
    return patch


@pytest.fixture(scope="module", autouse=True)
def own_plugins_of_a_module():
    """Let a module begin without the plugins that fixtures of all modules have loaded."""
    trusted, limits = [discovery._EVERYTHING], discovery._limits
    patch = _apart(_registered=[], _trusted=trusted, _limits=limits, _names=set())
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def own_plugins(own_plugins_of_a_module):
    """Let each test load plugins that no later test sees."""
    patch = _apart(
        _registered=discovery._registered,
        _trusted=discovery._trusted,
        _limits=discovery._limits,
        _names=identity._names,
    )
    yield
    patch.undo()


@pytest.fixture
def untrusted(own_plugins, monkeypatch):
    """Run plugins as users do: in processes of their own."""
    monkeypatch.setattr(discovery, "_trusted", [])


@pytest.fixture
def believed(monkeypatch):
    """Believe every bound that a model states of itself: the audit alone is left."""
    monkeypatch.setattr(plan, "refute_declared_bounds", lambda *_, **__: "")
