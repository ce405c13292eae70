"""Smoothed classifiers: models of their own, made of a network and noise."""

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
