"""What each operation makes of the drift and the error of its inputs (see running_error.py)."""

from robustbench_dyn.certification.rounding.rules import functions, moves, sums, weights
from robustbench_dyn.certification.rounding.rules.base import (
    KEEP_FRESH,
    MOVE,
    RULES,
    Call,
    Followed,
    Ranges,
    combined,
    size_of,
)

__all__ = [
    "KEEP_FRESH",
    "MOVE",
    "RULES",
    "Call",
    "Followed",
    "Ranges",
    "combined",
    "functions",
    "moves",
    "size_of",
    "sums",
    "weights",
]
