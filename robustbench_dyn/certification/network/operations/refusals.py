"""The reasons why some operations have no handler: they continue a sentence after the name."""

from __future__ import annotations

_ELIMINATION = (
    ", whose elimination exchanges rows by their values: no useful bound of its rounding is known "
    "(only that entries grow by at most 2^(n - 1))"
)
_DECISION = ", which decides by the values of the input"

REASONS = {
    "_linalg_solve_ex": _ELIMINATION,
    "linalg_inv_ex": _ELIMINATION,
    "mkldnn_rnn_layer": (
        ", whose rounding is not known; with torch.backends.mkldnn.enabled = False the network "
        "consists of operations that are supported"
    ),
    **dict.fromkeys(("argmax", "argmin", "eq", "ge", "gt", "le", "lt", "ne"), _DECISION),
}
