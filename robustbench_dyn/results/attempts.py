"""The certifiers of a run: on how many examples each was tried, what it proved, what it lacked.

All of it is read from verdicts: radii, and the trail of stages that each example went through.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from robustbench_dyn.results.flags import NOT_A_FUNCTION
from robustbench_dyn.results.spec import EvaluationSpec, StageSpec
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict


class Spread(NamedTuple):
    """The largest and the median of the numbers that a certifier reached on some examples."""

    largest: float
    median: float


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One certifier at one eps.

    certifier: its label in tables. not_applicable: why it cannot treat the model, or why nothing of
    it counts; empty where it was run. tried: examples that it was run on; proved: those of them
    that it certifies. radii: the radii below eps that it proved of others, in the threat model's
    norm. margins: its lower bounds of the least margin over the ball, of those that it did not
    certify; a proof needs one above 0. unproved: how many examples it left for a reason of its own,
    by this reason, such as the end of its time. Both spreads are None where there is no number.
    """

    certifier: str
    eps: float
    not_applicable: str = ""
    tried: int = 0
    proved: int = 0
    radii: Spread | None = None
    margins: Spread | None = None
    unproved: Mapping[str, int] = field(default_factory=dict)


def attempts_of(
    verdicts: Sequence[Verdict],
    spec: EvaluationSpec,
    *,
    eps: float,
    flags: Collection[str] = (),
    not_applicable: Mapping[str, str] | None = None,
) -> tuple[Attempt, ...]:
    """Return an attempt for each certifier of a run, and for each that `auto` could not use.

    verdicts: all of one run at eps. flags: what was found out about the model. not_applicable: of
    the record; the certifiers that cannot treat the model, by name or label, with the reason.
    """
    reasons, found = dict(not_applicable or {}), list[Attempt]()
    void = ""
    if spec.voids_certificates(flags):
        told = ", ".join(sorted(NOT_A_FUNCTION.intersection(flags)))
        void = f"the model is no function of its input: {told}"
    for stage in spec.certifiers:
        reason = reasons.pop(stage.label, "") or reasons.pop(stage.name, "") or void
        if reason:
            found.append(Attempt(certifier=stage.label, eps=eps, not_applicable=reason))
        else:
            found.append(_attempt(verdicts, stage, eps, votes=spec.smoothing is not None))
    found += [
        Attempt(certifier=name, eps=eps, not_applicable=reason) for name, reason in reasons.items()
    ]
    return tuple(found)


def _attempt(verdicts: Sequence[Verdict], stage: StageSpec, eps: float, *, votes: bool) -> Attempt:
    """Read one certifier's part of the verdicts; votes: a smoothed classifier leaves no steps."""
    tried = proved = 0
    radii, margins, unproved = list[float](), list[float](), Counter[str]()
    for verdict in verdicts:
        steps = [step for step in verdict.trail if step.stage in (stage.name, stage.label)]
        is_its_own = verdict.certifier == stage.label
        certified = is_its_own and verdict.status is Status.CERTIFIED
        correct = verdict.prediction == verdict.label
        tried += certified or (correct and (bool(steps) or is_its_own or votes))
        proved += certified
        if certified:
            continue
        if is_its_own and math.isfinite(verdict.certified_radius):
            radii.append(verdict.certified_radius)
        for step in steps[-1:]:
            if step.margin is not None:
                margins.append(step.margin)
            if reason := _reason(step):
                unproved[reason] += 1
    return Attempt(
        certifier=stage.label,
        eps=eps,
        tried=tried,
        proved=proved,
        radii=_spread(radii),
        margins=_spread(margins),
        unproved=dict(unproved.most_common()),
    )


def _reason(step: Step) -> str:
    """Return why a certifier left an example, besides that its bound fell short."""
    if step.outcome in (Outcome.CERTIFIED, Outcome.OPEN):
        return step.message
    return f"{step.outcome.value}: {step.message}" if step.message else step.outcome.value


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(max(values), median(values)) if values else None
