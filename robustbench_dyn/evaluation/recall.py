"""Hold an unregistered model to the predictions that the store has of it.

Equal weights and equal logits at the probes are not the same function everywhere. A verdict that is
taken over has to be of a function that predicts the same at that example.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.determinism import differ
from robustbench_dyn.results.verdicts import Verdict


def check_recalled(logits: Tensor, verdicts: Sequence[Verdict]) -> None:
    """Raise InputError where logits contradict the predictions of verdicts that the store has.

    logits: (n, classes), at the examples of the verdicts. A tie up to rounding is no contradiction.
    """
    for row, verdict in zip(logits.cpu(), verdicts, strict=True):
        kept = verdict.prediction
        # Without a usable prediction, there is nothing to compare with.
        if kept < 0 or (kept < len(row) and not differ(row.max()[None], row[kept][None])):
            continue
        now = int(torch.argmax(row)) if row.isfinite().all() else -1
        raise InputError(
            f"the store has verdicts of another function of these weights: it predicted class "
            f"{kept} for example {verdict.example_id}, and this model predicts {now}; give another "
            "store or another name"
        )
