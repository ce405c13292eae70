"""What follows for one example: from a first pass, from a tool, from its verdicts at other eps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from robustbench_dyn.verdicts import Status, Verdict

# The reason of an example that waits for an attack or a certifier: these words and its name. What
# is known so far stands behind it.
NEXT = "next: "
# Behind the reason of an example that survived at a larger eps: that eps.
_WITHIN = " within eps "
NOT_ATTACKED = "no attack was asked for"
SURVIVED = "survived "


class Tool(NamedTuple):
    """An attack, or a certifier that looks at one ball, by its name."""

    name: str
    proves: bool


def first_verdict(
    example_id: int, label: int, prediction: int, eps: float, radius: float, certifier: str,
    passes: int, seconds: float, first_tool: str,
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
        reason = NEXT + first_tool if first_tool else NOT_ATTACKED
    correct = status in (Status.CERTIFIED, Status.UNDECIDED)
    return Verdict(
        example_id=example_id, label=label, prediction=prediction, status=status, eps=eps,
        certified_radius=radius if correct else math.nan, certifier=certifier if correct else "",
        forward_passes=passes, seconds=seconds, reason=reason,
    )  # fmt: skip


def next_tool(verdict: Verdict) -> str:
    """Name the attack or the certifier that the example waits for, or nothing."""
    turn, *_ = verdict.reason.split("; ")
    return turn.removeprefix(NEXT) if turn.startswith(NEXT) else ""


def hand_on(verdict: Verdict, later: Iterable[Tool], attacks: Sequence[str]) -> Verdict:
    """Say who comes next for an example that a tool left as it was, or that nobody does.

    What is certified has attacks alone before it, and what survived them at a larger eps has proofs
    alone. later: what comes after the tool, in order. attacks: the names of all.
    """
    notes = verdict.reason.split("; ")[1:]
    survived = [note for note in notes if note.startswith(SURVIVED)]
    is_certified = verdict.status is Status.CERTIFIED
    for tool in later:
        if not (is_certified if tool.proves else survived):
            return replace(verdict, reason="; ".join([NEXT + tool.name, *notes]))
    if not survived:
        survived = [SURVIVED + "+".join(attacks) if attacks else NOT_ATTACKED]
    failures = [note for note in notes if not note.startswith(SURVIVED)]
    if is_certified:
        return replace(verdict, reason=f"audited: {'; '.join(failures) or survived[0]}")
    if failures:
        return replace(verdict, status=Status.ERROR, reason="; ".join(failures))
    return replace(verdict, reason=survived[0])


def carry_over(known: list[Verdict], eps: float, first_tool: str, first_proof: str = "") -> Verdict:
    """Say at eps what follows from one example's verdicts at other eps, without any pass.

    first_tool: what an example waits for of which nothing is known. first_proof: the certifier,
    if there is one, that may prove at eps what nobody could at a larger one.
    """
    at_no_cost = partial(replace, eps=eps, forward_passes=0, backward_passes=0, seconds=0.0)
    for verdict in known:
        if verdict.status is Status.BROKEN and verdict.adversarial_distance <= eps:
            return at_no_cost(verdict)
    for verdict in known:
        survived = verdict.reason.removeprefix("audited: ").startswith(SURVIVED)
        if verdict.eps > eps and survived:
            reason = verdict.reason
            if _WITHIN not in reason:
                reason += f"{_WITHIN}{verdict.eps:g}"
            if verdict.status is Status.UNDECIDED and verdict.certified_radius >= eps:
                return at_no_cost(verdict, status=Status.CERTIFIED, reason=f"audited: {reason}")
            if verdict.status is Status.UNDECIDED and first_proof:
                return at_no_cost(verdict, reason=f"{NEXT}{first_proof}; {reason}")
            return at_no_cost(verdict, reason=reason)
    # NaN, where nothing is proved, is the least.
    first = max(known, key=lambda verdict: max(0.0, verdict.certified_radius))
    return first_verdict(
        first.example_id, first.label, first.prediction, eps, first.certified_radius,
        first.certifier, 0, 0.0, first_tool,
    )  # fmt: skip
