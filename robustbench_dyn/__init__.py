"""robustbench-dyn brackets the robustness of networks between attacks and certificates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustbench_dyn.version import __version__

if TYPE_CHECKING:
    from robustbench_dyn.datasets import Dataset, load_dataset
    from robustbench_dyn.errors import DynbenchError, InputError, SoundnessError
    from robustbench_dyn.evaluation.api import (
        Evaluation,
        benchmark,
        evaluate,
        evaluate_grid,
    )
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.results.verdicts import Status, Verdict
    from robustbench_dyn.smoothing import evaluate_smoothed
    from robustbench_dyn.smoothing.classifier import SmoothedClassifier
    from robustbench_dyn.smoothing.statistics import Smoothing
    from robustbench_dyn.threat_models import ThreatModel

__all__ = [
    "Dataset",
    "DynbenchError",
    "Evaluation",
    "InputError",
    "SmoothedClassifier",
    "Smoothing",
    "SoundnessError",
    "Status",
    "ThreatModel",
    "Verdict",
    "__version__",
    "benchmark",
    "evaluate",
    "evaluate_grid",
    "evaluate_smoothed",
    "load_dataset",
    "load_model",
]

# Imported at first use: `dynbench --help` must not wait for torch.
_HOMES = {
    "Dataset": "datasets",
    "DynbenchError": "errors",
    "Evaluation": "evaluation.api",
    "InputError": "errors",
    "SmoothedClassifier": "smoothing.classifier",
    "Smoothing": "smoothing.statistics",
    "SoundnessError": "errors",
    "Status": "results.verdicts",
    "ThreatModel": "threat_models",
    "Verdict": "results.verdicts",
    "benchmark": "evaluation.api",
    "evaluate": "evaluation.api",
    "evaluate_grid": "evaluation.api",
    "evaluate_smoothed": "smoothing.api",
    "load_dataset": "datasets",
    "load_model": "models.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"robustbench_dyn.{_HOMES[name]}"), name)
