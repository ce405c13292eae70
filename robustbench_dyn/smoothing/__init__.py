"""Smoothed classifiers: models of their own, made of a network and noise."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_dyn.smoothing.api import evaluate_smoothed
    from robustbench_dyn.smoothing.classifier import SmoothedClassifier
    from robustbench_dyn.smoothing.result import SmoothedEvaluation
    from robustbench_dyn.smoothing.stages import CertifiedExample
    from robustbench_dyn.smoothing.statistics import Smoothing

__all__ = [
    "CertifiedExample",
    "SmoothedClassifier",
    "SmoothedEvaluation",
    "Smoothing",
    "evaluate_smoothed",
]

# Imported at first use: a command checks a Smoothing before torch is imported.
_HOMES = {
    "CertifiedExample": "stages",
    "SmoothedClassifier": "classifier",
    "SmoothedEvaluation": "result",
    "Smoothing": "statistics",
    "evaluate_smoothed": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
