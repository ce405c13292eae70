"""What every test shares: a torchvision that can be imported."""

import importlib
import sys

import pytest
import torch

from robustbench_dyn.plugins import discovery

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


@pytest.fixture(autouse=True)
def own_plugins(monkeypatch):
    """Let each test load plugins that no later test sees."""
    monkeypatch.setattr(discovery, "_registered", [*discovery._registered])
