"""What follows for one example: from a first pass, and from its verdicts at other eps."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from robustbench_dyn.verdicts import Status, Verdict

# The reason of an example that waits for an attack: these words and the attack's name.
NEXT = "next: "
# Behind the reason of an example that survived at a larger eps: that eps.
_WITHIN = " within eps "


def first_verdict(
    example_id: int, label: int, prediction: int, eps: float, radius: float, certifier: str,
    passes: int, seconds: float, first_attack: str,
) -> Verdict:  # fmt: skip
    """Say what a clean pass and the certifiers tell; radius is NaN where nothing is proved."""
    reason = ""
    if prediction == -1:
        status, reason = Status.ERROR, "the logits are not finite"
    elif prediction != label:
        status = Status.MISCLASSIFIED
    elif radius >= eps:
        status = Status.CERTIFIED
    else:
        status = Status.UNDECIDED
        reason = NEXT + first_attack if first_attack else "no attack was asked for"
    correct = status in (Status.CERTIFIED, Status.UNDECIDED)
    return Verdict(
        example_id=example_id, label=label, prediction=prediction, status=status, eps=eps,
        certified_radius=radius if correct else math.nan, certifier=certifier if correct else "",
        forward_passes=passes, seconds=seconds, reason=reason,
    )  # fmt: skip


def next_attack(verdict: Verdict) -> str:
    """Name the attack that the example waits for, or nothing."""
    turn, *_ = verdict.reason.split("; ")
    return turn.removeprefix(NEXT) if turn.startswith(NEXT) else ""


def carry_over(known: list[Verdict], eps: float, first_attack: str) -> Verdict:
    """Say at eps what follows from one example's verdicts at other eps, without any pass."""
    at_no_cost = partial(replace, eps=eps, forward_passes=0, backward_passes=0, seconds=0.0)
    for verdict in known:
        if verdict.status is Status.BROKEN and verdict.adversarial_distance <= eps:
            return at_no_cost(verdict)
    for verdict in known:
        survived = verdict.reason.removeprefix("audited: ").startswith("survived ")
        if verdict.eps > eps and survived:
            reason = verdict.reason
            if _WITHIN not in reason:
                reason += f"{_WITHIN}{verdict.eps:g}"
            if verdict.status is Status.UNDECIDED and verdict.certified_radius >= eps:
                return at_no_cost(verdict, status=Status.CERTIFIED, reason=f"audited: {reason}")
            return at_no_cost(verdict, reason=reason)
    first = known[0]
    return first_verdict(
        first.example_id, first.label, first.prediction, eps, first.certified_radius,
        first.certifier, 0, 0.0, first_attack,
    )  # fmt: skip
