"""The state of one example: after the clean pass, after each stage, and from other radii."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.evaluation.outcomes import Broken, Certified, Classified, Failed, Open, Result
from robustbench_dyn.results.verdicts import ABSTAINED, Outcome, Status, Step, Verdict

_ATTACKED = (Outcome.SURVIVED, Outcome.BROKEN, Outcome.FAILED)
# How a certifier may end without a proof.
UNPROVED = (Outcome.OPEN, Outcome.WITHIN_ROUNDING, Outcome.NOT_APPLICABLE)


class Later(NamedTuple):
    """A stage that may still come, by its name; proves: it is a certifier of one ball."""

    name: str
    proves: bool


def initial_verdict(
    example_id: int, label: int, found: Classified, eps: float, later: Sequence[Later]
) -> Verdict:
    """Return the verdict after the clean pass.

    later: all stages that may come after it, in their order.
    """
    correct = found.prediction == label
    reason, next_stage, trail = "", "", found.attempts
    if found.prediction == -1:
        status, reason = Status.ERROR, found.message
    elif not correct:
        status = Status.MISCLASSIFIED
        reason = "abstained" if found.prediction == ABSTAINED else ""
    elif found.radius >= eps:
        status = Status.CERTIFIED
        trail = (Step(found.certifier, Outcome.CERTIFIED, eps), *trail)
    else:
        status = Status.UNDECIDED
        next_stage = _next_stage(status, trail, eps, later)
    if not correct:
        # Nothing was to be proved of a wrong prediction.
        trail = tuple(step for step in trail if step.outcome is not Outcome.OPEN)
    return Verdict(
        example_id=example_id,
        label=label,
        prediction=found.prediction,
        status=status,
        eps=eps,
        certified_radius=found.radius if correct else math.nan,
        certifier=found.certifier if correct else "",
        next_stage=next_stage,
        trail=trail,
        reason=reason or explain(status, next_stage, trail, eps),
    )


def advance(
    verdict: Verdict, stage: str, result: Result, later: Sequence[Later], *, flag: str = ""
) -> Verdict:
    """Return the verdict after a stage that came after the clean pass.

    later: the stages after it, in their order. flag: what a hit says besides, for its reason.
    """
    match result:
        case Broken(hit=hit):
            return broken(verdict, hit, reason=flag)
        case Certified(certifier=label, radius=radius):
            return certified(verdict, label, radius)
        case Open(outcome=outcome, message=message, margin=margin):
            return skip_to(verdict, later, Step(stage, outcome, verdict.eps, message, margin))
        case Failed(outcome=outcome, message=message):
            return skip_to(verdict, later, Step(stage, outcome, verdict.eps, message))
    raise TypeError(f"{stage} returned {result!r}, which is no result of a stage")


def skip_to(verdict: Verdict, later: Iterable[Later], *steps: Step) -> Verdict:
    """Send an example that is not decided, or that is audited, on to its next stage.

    steps: those it has just gone through. later: the stages after them, in their order. A certified
    example has only attacks before it. An attack that an example survived at this eps or at a
    larger one is not run again.
    """
    trail = (*verdict.trail, *steps)
    return waiting_for(verdict, _next_stage(verdict.status, trail, verdict.eps, later), trail)


def spared(verdict: Verdict, attack: str, later: Sequence[Later]) -> Verdict:
    """Send an example past an attack that is run on a sample without it."""
    return skip_to(verdict, later, Step(attack, Outcome.SPARED, verdict.eps))


def waiting_for(verdict: Verdict, stage: str, trail: tuple[Step, ...] | None = None) -> Verdict:
    """Let an example wait for a stage, though it was spared it; without one, it is final."""
    trail = verdict.trail if trail is None else trail
    trail = tuple(s for s in trail if (s.stage, s.outcome) != (stage, Outcome.SPARED))
    reason = explain(verdict.status, stage, trail, verdict.eps)
    return replace(verdict, next_stage=stage, trail=trail, reason=reason)


def broken(verdict: Verdict, hit: Hit, *, reason: str = "") -> Verdict:
    """Return the final verdict of an example for which an adversarial example was found."""
    return replace(
        verdict,
        status=Status.BROKEN,
        attack=hit.attack,
        adversarial_distance=hit.distance,
        x_adv=hit.x_adv,
        next_stage="",
        reason=reason,
        trail=(*verdict.trail, Step(hit.attack, Outcome.BROKEN, verdict.eps)),
    )


def certified(verdict: Verdict, certifier: str, radius: float) -> Verdict:
    """Return the verdict after a proof of at least eps; only an audit may come after it."""
    return replace(
        verdict,
        status=Status.CERTIFIED,
        certified_radius=radius,
        certifier=certifier,
        next_stage="",
        reason="",
        trail=(*verdict.trail, Step(certifier, Outcome.CERTIFIED, verdict.eps)),
    )


def without_certificate(verdict: Verdict, why: str, later: Iterable[Later]) -> Verdict:
    """Withdraw what was proved of an example: it waits for the attacks that it was spared."""
    if not verdict.certifier:
        return verdict
    if verdict.status not in (Status.CERTIFIED, Status.UNDECIDED):
        return replace(verdict, certifier="", certified_radius=math.nan)
    bare = replace(
        verdict, certifier="", certified_radius=math.nan, status=Status.UNDECIDED, reason=why
    )
    return skip_to(bare, later, Step(verdict.certifier, Outcome.WITHDRAWN, verdict.eps, why))


def unattacked_by(verdict: Verdict, later: Iterable[Later]) -> str:
    """Name the first attack that an audit still has to run on a certified example, or nothing."""
    over = (*_ATTACKED, Outcome.SPARED)
    ran = {s.stage for s in verdict.trail if s.outcome in over and s.eps >= verdict.eps}
    return next((stage.name for stage in later if not stage.proves and stage.name not in ran), "")


def infer_from_other_eps(known: Sequence[Verdict], eps: float, later: Sequence[Later]) -> Verdict:
    """Return the verdict at eps that follows from one example's verdicts at other eps.

    What is certified at a radius is certified below it, what is broken at a distance is broken
    above it, and attacks that were survived within a radius are survived below it. No pass is made.
    later: all stages that may come after the clean pass.
    """
    for verdict in known:
        if verdict.status is Status.BROKEN and verdict.adversarial_distance <= eps:
            return replace(verdict, eps=eps, forward_passes=0, backward_passes=0, seconds=0.0)
    trail, again = dict[str, Step](), {stage.name for stage in later}
    for verdict in known:
        # Where one attack found something, the others' survival is not relied on further down.
        closed = not verdict.next_stage and verdict.status is not Status.BROKEN
        for step in verdict.trail:
            if step.outcome is Outcome.SURVIVED and closed and step.eps >= eps:
                trail.setdefault(step.stage, step)
            # The certifiers of the clean pass are not run again, since no pass is made.
            elif step.outcome in UNPROVED and step.stage not in again:
                failed = step.outcome is Outcome.NOT_APPLICABLE
                trail.setdefault(step.stage, step if failed else step._replace(eps=eps))
    # NaN, where nothing is proved, is the least.
    best = max(known, key=lambda verdict: max(0.0, verdict.certified_radius))
    # Written so that NaN keeps the attempts.
    if best.certified_radius >= eps:
        trail = {name: step for name, step in trail.items() if step.outcome is not Outcome.OPEN}
    found = Classified(
        prediction=best.prediction,
        radius=best.certified_radius,
        certifier=best.certifier,
        attempts=tuple(trail.values()),
        message=best.reason,
    )
    return initial_verdict(best.example_id, best.label, found, eps, later)


def explain(status: Status, next_stage: str, trail: Sequence[Step], eps: float) -> str:
    """Put the state of an example into words, for printing alone."""
    if next_stage:
        return f"next: {next_stage}"
    survived: dict[float, list[str]] = {}
    attacked, parts = False, list[str]()
    for step in trail:
        if step.outcome is Outcome.CERTIFIED:
            attacked = False
        if step.outcome in _ATTACKED:
            attacked = True
        if step.outcome is Outcome.SURVIVED:
            survived.setdefault(step.eps, []).append(step.stage)
        elif step.outcome is Outcome.SPARED:
            parts.append(f"spared {step.stage}")
        elif step.message and step.outcome is Outcome.OPEN:
            parts.append(f"{step.stage} {step.message}")
        elif step.message:
            parts.append(f"{step.stage} {step.outcome.value}: {step.message}")
    for radius in sorted(survived, reverse=True):
        within = "" if radius == eps else f" within eps {radius:g}"
        parts.insert(0, "survived " + "+".join(survived[radius]) + within)
    if status is Status.CERTIFIED:
        return "audited: " + "; ".join(parts) if attacked else ""
    if status is not Status.UNDECIDED:
        return ""
    if not survived:
        failed = any(step.outcome is Outcome.FAILED for step in trail)
        parts.insert(0, "no attack ran to its end" if failed else "no attack was run")
    return "; ".join(parts)


def _next_stage(status: Status, trail: Sequence[Step], eps: float, later: Iterable[Later]) -> str:
    survived = {s.stage for s in trail if s.outcome is Outcome.SURVIVED and s.eps >= eps}
    for stage in later:
        if stage.proves and status is Status.UNDECIDED:
            return stage.name
        if not stage.proves and stage.name not in survived:
            return stage.name
    return ""
