"""Smoothed classifiers: models of their own, made of a network and noise."""

from robustbench_dyn.certification.smoothing import Smoothing
from robustbench_dyn.smoothing.classifier import SmoothedClassifier
from robustbench_dyn.smoothing.evaluation import (
    CertifiedExample,
    SmoothedEvaluation,
    evaluate_smoothed,
)

__all__ = [
    "CertifiedExample",
    "SmoothedClassifier",
    "SmoothedEvaluation",
    "Smoothing",
    "evaluate_smoothed",
]
