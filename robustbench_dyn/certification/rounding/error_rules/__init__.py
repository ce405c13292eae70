"""Error rules: how each operation changes the drift and the error of its inputs."""

from robustbench_dyn.certification.rounding.error_rules import functions, moves, sums, weights
from robustbench_dyn.certification.rounding.error_rules.base import (
    ERROR_RULES,
    KEEP_ENTRIES,
    MOVES,
    Call,
    ErrorBounds,
    Tracked,
    combined,
    size_of,
)

__all__ = [
    "ERROR_RULES",
    "KEEP_ENTRIES",
    "MOVES",
    "Call",
    "ErrorBounds",
    "Tracked",
    "combined",
    "functions",
    "moves",
    "size_of",
    "sums",
    "weights",
]
