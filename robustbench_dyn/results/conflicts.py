"""The rule for two verdicts of one example, where two stores have one each: one of them stands.

The choice depends on the verdicts alone, not on the order in which stores are merged.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from robustbench_dyn.results.flags import REFUTED_BOUND
from robustbench_dyn.results.spec import EvaluationSpec
from robustbench_dyn.results.verdicts import Outcome, Status, Verdict

# How much a status says of an example: a counterexample is checked by one pass, a proof is not.
_TELLING = {
    Status.ERROR: 0,
    Status.UNDECIDED: 1,
    Status.CERTIFIED: 2,
    Status.BROKEN: 3,
    Status.MISCLASSIFIED: 4,
}


def prevailing(first: Verdict, second: Verdict) -> Verdict:
    """Return the verdict of an example at one eps that stands where two stores have one each.

    A final verdict stands before one that waits for a stage; then misclassified, broken, certified,
    undecided, error, in this order; of two broken ones the nearer, of two others the one with the
    larger radius. A broken one takes over a larger radius that the other one certifies, so that a
    counterexample to a certificate is seen.
    """
    stands = max(first, second, key=_rank)
    if stands.status is not Status.BROKEN:
        return stands
    radius, certifier = max(_proof(v) for v in (first, second) if _is_evidence(v))
    return replace(stands, certified_radius=radius if certifier else math.nan, certifier=certifier)


def _is_evidence(verdict: Verdict) -> bool:
    return verdict.status in (Status.BROKEN, Status.CERTIFIED) and not verdict.next_stage


def _proof(verdict: Verdict) -> tuple[float, str]:
    radius, certifier = verdict.certified_radius, verdict.certifier
    return (radius, certifier) if certifier and radius > 0 else (0.0, "")


def _rank(verdict: Verdict) -> tuple[Any, ...]:
    broken = verdict.status is Status.BROKEN
    # What is proved of a broken example is of both verdicts, and ranks none before the other.
    proof = (0.0, "") if broken else _proof(verdict)
    alike = replace(verdict, certified_radius=math.nan, certifier="") if broken else verdict
    return (
        not verdict.next_stage,
        _TELLING[verdict.status],
        -verdict.adversarial_distance if broken else 0.0,
        proof,
        # An attack that ran tells more than one that was spared.
        sum(step.outcome is not Outcome.SPARED for step in verdict.trail),
        verdict.x_adv is not None,
        # Any order, so that the choice between equal verdicts does not depend on theirs.
        f"{alike!r}",
        verdict.x_adv or b"",
    )


def voiding_flags(spec: EvaluationSpec, flags: list[str]) -> set[str]:
    """Return the flags with which certificates of an evaluation do not count."""
    return {f for f in flags if f == REFUTED_BOUND or spec.voids_certificates([f])}


def without_proof(verdict: Verdict) -> Verdict | None:
    """Return what is left of a verdict whose certificate does not count; None where nothing is."""
    if not verdict.certifier:
        return verdict
    if verdict.status in (Status.CERTIFIED, Status.UNDECIDED):
        # It is to be evaluated again: a stage that the certificate has spared it is not known here.
        return None
    return replace(verdict, certifier="", certified_radius=math.nan)
