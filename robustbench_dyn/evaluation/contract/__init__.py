"""The contract of an architecture: rules without which verdicts have no meaning."""

from robustbench_dyn.evaluation.contract.check import check_model, subject_of
from robustbench_dyn.evaluation.contract.rules import ModelFinding, Subject

__all__ = ["ModelFinding", "Subject", "check_model", "subject_of"]
