"""A plugin that brings something of every kind; docs/extending.md shows its modules."""

from .architecture import build
from .attack import ATTACKS
from .certifier import CERTIFIERS
from .dataset import DATASETS
from .operation import OPERATIONS

__all__ = ["ATTACKS", "CERTIFIERS", "DATASETS", "OPERATIONS", "build"]
