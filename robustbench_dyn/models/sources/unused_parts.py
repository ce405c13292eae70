"""Modules and operators that libraries import and that their classifiers never use.

A torchvision for GPUs beside a torch for CPUs cannot be imported, nor RobustBench 1.1.1 beside the
packages that it requires itself. The networks need nothing of what is missing: it is declared, and
a use of it fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# Kept for as long as the process lives: torch drops the operators with the object.
_declared = list[Any]()
_NO_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
_MOST_OPERATORS = 50


def import_torchvision() -> None:
    """Import torchvision, if it is installed, also where its operators are for another torch.

    They are for detection: no classifier of torchvision, timm or transformers calls one.
    """
    import torch

    for _ in range(_MOST_OPERATORS):
        try:
            import_module("torchvision")
        except ModuleNotFoundError:
            return
        except RuntimeError as error:
            missing = _NO_OPERATOR.search(str(error))
            if missing is None:
                raise
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            _declared.append(library)
        else:
            return


@contextmanager
def standing_in(*modules: str) -> Iterator[None]:
    """Let modules that are not installed be imported meanwhile; their classes cannot be used."""
    absent = [name for name in modules if not _is_installed(name)]
    sys.modules.update({name: _StandIn(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _is_installed(name: str) -> bool:
    # A part of a package that is absent has no spec to look for.
    return name in sys.modules or find_spec(name.partition(".")[0]) is not None


class _StandIn(ModuleType):
    """A module in which each public name is a class that cannot be used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # it may have modules inside

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": _refuse})


def _refuse(self: object, *_: object, **__: object) -> None:
    raise RuntimeError(f"{type(self).__name__} is of a package that is not installed")
