"""robustbench-dyn brackets the robustness of networks between attacks and certificates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustbench_dyn.version import __version__

if TYPE_CHECKING:
    from robustbench_dyn.attacks.base import Attack
    from robustbench_dyn.certification.base import Certifier, Proof
    from robustbench_dyn.datasets import Dataset, DatasetInfo, load_dataset
    from robustbench_dyn.errors import DynbenchError, InputError, SoundnessError
    from robustbench_dyn.evaluation.api import benchmark, evaluate, evaluate_grid
    from robustbench_dyn.evaluation.certificate_audit import audit_certificates
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.evaluation.result import CurveEvaluation, Evaluation
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.plugins import load_plugins
    from robustbench_dyn.reporting.curves import curve
    from robustbench_dyn.results.spec import EvaluationSpec
    from robustbench_dyn.results.store import Store
    from robustbench_dyn.results.verdicts import Status, Verdict
    from robustbench_dyn.smoothing.api import evaluate_smoothed
    from robustbench_dyn.smoothing.classifier import SmoothedClassifier
    from robustbench_dyn.smoothing.result import SmoothedEvaluation
    from robustbench_dyn.smoothing.statistics import Smoothing
    from robustbench_dyn.threat_models import ThreatModel

__all__ = [
    "Attack",
    "Certifier",
    "CurveEvaluation",
    "Dataset",
    "DatasetInfo",
    "DynbenchError",
    "Evaluation",
    "EvaluationSpec",
    "InputError",
    "Proof",
    "SmoothedClassifier",
    "SmoothedEvaluation",
    "Smoothing",
    "SoundnessError",
    "Status",
    "Store",
    "ThreatModel",
    "Verdict",
    "__version__",
    "audit_certificates",
    "benchmark",
    "curve",
    "evaluate",
    "evaluate_distances",
    "evaluate_grid",
    "evaluate_smoothed",
    "load_dataset",
    "load_model",
    "load_plugins",
]

# Imported at first use: `dynbench --help` must not wait for torch.
_HOMES = {
    "Attack": "attacks.base",
    "Certifier": "certification.base",
    "CurveEvaluation": "evaluation.result",
    "Dataset": "datasets",
    "DatasetInfo": "datasets",
    "DynbenchError": "errors",
    "Evaluation": "evaluation.result",
    "EvaluationSpec": "results.spec",
    "InputError": "errors",
    "Proof": "certification.base",
    "SmoothedClassifier": "smoothing.classifier",
    "SmoothedEvaluation": "smoothing.result",
    "Smoothing": "smoothing.statistics",
    "SoundnessError": "errors",
    "Status": "results.verdicts",
    "Store": "results.store",
    "ThreatModel": "threat_models",
    "Verdict": "results.verdicts",
    "audit_certificates": "evaluation.certificate_audit",
    "benchmark": "evaluation.api",
    "curve": "reporting.curves",
    "evaluate": "evaluation.api",
    "evaluate_distances": "evaluation.distances",
    "evaluate_grid": "evaluation.api",
    "evaluate_smoothed": "smoothing.api",
    "load_dataset": "datasets",
    "load_model": "models.loading",
    "load_plugins": "plugins",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"robustbench_dyn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
