"""A plugin that brings something of every kind, from the modules that docs/extending.md shows."""

from .architecture import build
from .attack import ATTACKS
from .certifier import CERTIFIERS
from .dataset import DATASETS
from .operation import OPERATIONS

__all__ = ["ATTACKS", "CERTIFIERS", "DATASETS", "OPERATIONS", "build"]
