"""Flags: what runs find out about a model. They are results, and no verdict's key depends on them.

A flag is a name, or NAME:VALUE in a row. docs/flags.md lists all of them.
"""

from __future__ import annotations

RANDOM = "random_outputs"
COUPLED = "batch_coupled"
GRAD_MODE = "depends_on_grad_mode"
CHANGED = "changed_during_run"
WRITES_INTO_INPUT = "writes_into_input"
SOFTMAX_OUTPUTS = "softmax_outputs"
# Outputs with which gradients say little: their differences are lost in rounding, or most of them
# do not change with small changes of the input.
TINY_LOGITS = "tiny_logits"
PIECEWISE_CONSTANT = "piecewise_constant"
NO_GRADIENTS = "no_gradients"
# The attributes of the model changed during a run, such as a counter or a memory.
KEEPS_STATE = "keeps_state"
# A certificate rests on a bound that a module states of itself; such a bound was found wrong.
SELF_DECLARED = "self_declared_bound"
REFUTED_BOUND = "refuted_bound"
# Attacks ran, and none of them on a certified example, or none of those to its end.
NOT_AUDITED = "not_audited"
CERTIFIED_ELSEWHERE = "certified_in_plugin_process"

# With one of these flags no certificate counts.
NOT_A_FUNCTION = frozenset({RANDOM, COUPLED, GRAD_MODE, CHANGED})
