"""torchvision, or a reason to skip; a build for another torch is used for its Python code alone."""

from functools import cache
from importlib import import_module

import pytest
import torch

# Operations in compiled code that such a build lacks, and that its Python code registers.
_LACKING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def torchvision(module: str):
    """Import a module of torchvision."""
    found = _import(module)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@cache
def _import(module):
    try:
        return import_module(f"torchvision.{module}")
    except ImportError as error:
        return f"torchvision is not installed: {error}"
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in _LACKING:
            library.define(schema)
        _KEPT.append(library)
        return import_module(f"torchvision.{module}")


# A library that is collected takes its operations away.
_KEPT = []
