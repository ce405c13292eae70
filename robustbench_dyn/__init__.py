"""robustbench-dyn brackets the robustness of networks between attacks and certificates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustbench_dyn.version import __version__

if TYPE_CHECKING:
    from robustbench_dyn.datasets import Dataset, load_dataset
    from robustbench_dyn.errors import DynbenchError, InputError, SoundnessError
    from robustbench_dyn.evaluation import Evaluation, benchmark, evaluate, evaluate_grid
    from robustbench_dyn.registry import load_model
    from robustbench_dyn.smoothing import SmoothedClassifier, Smoothing, evaluate_smoothed
    from robustbench_dyn.threat_models import ThreatModel
    from robustbench_dyn.verdicts import Status, Verdict

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
    "Evaluation": "evaluation",
    "InputError": "errors",
    "SmoothedClassifier": "smoothing",
    "Smoothing": "smoothing",
    "SoundnessError": "errors",
    "Status": "verdicts",
    "ThreatModel": "threat_models",
    "Verdict": "verdicts",
    "benchmark": "evaluation",
    "evaluate": "evaluation",
    "evaluate_grid": "evaluation",
    "evaluate_smoothed": "smoothing",
    "load_dataset": "datasets",
    "load_model": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"robustbench_dyn.{_HOMES[name]}"), name)
