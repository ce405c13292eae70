"""Flags: what runs find out about a model. They are results, and no verdict's key depends on them.

A flag is a name, or NAME:VALUE in a row. docs/data-formats.md lists all of them.
"""

from __future__ import annotations

RANDOM = "random_outputs"
COUPLED = "batch_coupled"
GRAD_MODE = "depends_on_grad_mode"
CHANGED = "changed_during_run"
WRITES_INTO_INPUT = "writes_into_input"
SOFTMAX_OUTPUTS = "softmax_outputs"

# With one of these flags no certificate counts.
NOT_A_FUNCTION = frozenset({RANDOM, COUPLED, GRAD_MODE, CHANGED})
