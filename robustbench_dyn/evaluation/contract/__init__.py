"""The contract of an architecture: what a network must keep, so that its verdicts mean something."""

from robustbench_dyn.evaluation.contract.check import check_model, subject_of
from robustbench_dyn.evaluation.contract.rules import ModelFinding, Subject

__all__ = ["ModelFinding", "Subject", "check_model", "subject_of"]
