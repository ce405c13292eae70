"""Settings of every test: one thread a process, a process a core, an importable torchvision."""

import importlib
import os
import sys

# Before torch is imported: processes that share the cores are slowed down by each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from robustbench_dyn.evaluation import plan
from robustbench_dyn.plugins import discovery

# A busy machine is no fault of an example that takes long to draw.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# More workers than this gain little, and each holds torch in memory.
MOST_WORKERS = 8

try:
    importlib.import_module("torchvision")
except RuntimeError:
    # A CPU build of torch beside a CUDA build of torchvision: its import asks for two operators
    # that it cannot load. Reading data sets needs none of them, so a declaration is enough.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    OPERATORS = torch.library.Library("torchvision", "DEF")
    OPERATORS.define("nms(Tensor boxes) -> Tensor")
    OPERATORS.define("qnms(Tensor boxes) -> Tensor")


def pytest_xdist_auto_num_workers(config):
    """Return one worker a core; none for single cases, which the workers' start would delay."""
    if any("::" in argument for argument in config.args):
        return 0
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not every system says what this process may use
        cores = os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.fixture(autouse=True)
def own_plugins(monkeypatch):
    """Let each test load plugins that no later test sees."""
    monkeypatch.setattr(discovery, "_registered", [*discovery._registered])


@pytest.fixture
def believed(monkeypatch):
    """Believe every bound that a model states of itself: the audit alone is left."""
    monkeypatch.setattr(plan, "refute_declared_bounds", lambda *_, **__: "")
