"""The contract of an architecture: rules without which verdicts have no meaning."""

from robustbench_dyn.evaluation.contract.check import RULES, check_model, subject_of
from robustbench_dyn.evaluation.contract.rules import ModelFinding, Subject

__all__ = ["RULES", "ModelFinding", "Subject", "check_model", "subject_of"]
