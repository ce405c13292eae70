"""What follows for one example: from a first pass, from a stage, from its verdicts at other eps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

_ATTACKED = (Outcome.SURVIVED, Outcome.BROKEN, Outcome.FAILED)


class Tool(NamedTuple):
    """An attack, or a certifier that looks at one ball (proves), by its name."""

    name: str
    proves: bool


def first_verdict(
    example_id: int, label: int, prediction: int, eps: float, radius: float, certifier: str,
    passes: int, seconds: float, tools: Sequence[Tool], trail: tuple[Step, ...] = (),
) -> Verdict:  # fmt: skip
    """Say what a clean pass and the certifiers tell; radius is NaN where nothing is proved.

    tools: all that may come after. trail: the stages that the example has behind it.
    """
    reason, next_stage = "", ""
    if prediction == -1:
        status, reason = Status.ERROR, "the logits are not finite"
    elif prediction != label:
        status = Status.MISCLASSIFIED
    elif radius >= eps:
        status = Status.CERTIFIED
        trail = (Step(certifier, Outcome.CERTIFIED, eps), *trail)
    else:
        status = Status.UNDECIDED
        next_stage = _next_stage(status, trail, eps, tools)
    correct = status in (Status.CERTIFIED, Status.UNDECIDED)
    return Verdict(
        example_id=example_id, label=label, prediction=prediction, status=status, eps=eps,
        certified_radius=radius if correct else math.nan, certifier=certifier if correct else "",
        forward_passes=passes, seconds=seconds, next_stage=next_stage, trail=trail,
        reason=reason or explain(status, next_stage, trail, eps),
    )  # fmt: skip


def advance(verdict: Verdict, later: Iterable[Tool], *steps: Step) -> Verdict:
    """Send an example that is not decided, or that is audited, on to its next stage.

    steps: what it has just gone through. later: the tools after that, in their order. What is
    certified has attacks alone before it. An attack that an example survived at this eps or at a
    larger one is not run again.
    """
    trail = (*verdict.trail, *steps)
    return waiting_for(verdict, _next_stage(verdict.status, trail, verdict.eps, later), trail)


def waiting_for(verdict: Verdict, stage: str, trail: tuple[Step, ...] | None = None) -> Verdict:
    """Let an example wait for a stage; none, and its verdict is final."""
    trail = verdict.trail if trail is None else trail
    reason = explain(verdict.status, stage, trail, verdict.eps)
    return replace(verdict, next_stage=stage, trail=trail, reason=reason)


def broken(
    verdict: Verdict, attack: str, distance: float, x_adv: bytes, *, reason: str = ""
) -> Verdict:
    """Say that an adversarial example was found; nothing comes after it."""
    return replace(
        verdict, status=Status.BROKEN, attack=attack, adversarial_distance=distance, x_adv=x_adv,
        next_stage="", reason=reason,
        trail=(*verdict.trail, Step(attack, Outcome.BROKEN, verdict.eps)),
    )  # fmt: skip


def certified(verdict: Verdict, certifier: str, radius: float) -> Verdict:
    """Say that a certifier proved a radius of at least eps; nothing comes after it but an audit."""
    return replace(
        verdict, status=Status.CERTIFIED, certified_radius=radius, certifier=certifier,
        next_stage="", reason="",
        trail=(*verdict.trail, Step(certifier, Outcome.CERTIFIED, verdict.eps)),
    )  # fmt: skip


def without_certificate(verdict: Verdict, why: str, tools: Iterable[Tool]) -> Verdict:
    """Withdraw what was proved of an example: it waits for the attacks that it was spared."""
    if not verdict.certifier:
        return verdict
    if verdict.status not in (Status.CERTIFIED, Status.UNDECIDED):
        return replace(verdict, certifier="", certified_radius=math.nan)
    bare = replace(
        verdict, certifier="", certified_radius=math.nan, status=Status.UNDECIDED, reason=why
    )
    return advance(bare, tools, Step(verdict.certifier, Outcome.WITHDRAWN, verdict.eps, why))


def unattacked_by(verdict: Verdict, tools: Iterable[Tool]) -> str:
    """Name the first attack that an audit still has to run on a certified example, or nothing."""
    ran = {s.stage for s in verdict.trail if s.outcome in _ATTACKED and s.eps >= verdict.eps}
    return next((tool.name for tool in tools if not tool.proves and tool.name not in ran), "")


def infer_from_other_eps(known: list[Verdict], eps: float, tools: Sequence[Tool]) -> Verdict:
    """Say at eps what follows from one example's verdicts at other eps, without any pass.

    What is certified at a radius is certified below it, what is broken at a distance is broken
    above it, and attacks that were survived within a radius are survived below it. tools: all that
    may come after.
    """
    for verdict in known:
        if verdict.status is Status.BROKEN and verdict.adversarial_distance <= eps:
            return replace(verdict, eps=eps, forward_passes=0, backward_passes=0, seconds=0.0)
    trail, again = dict[str, Step](), {tool.name for tool in tools}
    for verdict in known:
        # Where one attack found something, none of the others is taken at its word further down.
        closed = not verdict.next_stage and verdict.status is not Status.BROKEN
        for step in verdict.trail:
            survived = closed and step.outcome is Outcome.SURVIVED and step.eps >= eps
            # What failed on the first pass is not tried again, since no pass is made.
            if survived or (step.outcome is Outcome.NOT_APPLICABLE and step.stage not in again):
                trail.setdefault(step.stage, step)
    # NaN, where nothing is proved, is the least.
    best = max(known, key=lambda verdict: max(0.0, verdict.certified_radius))
    return first_verdict(
        best.example_id, best.label, best.prediction, eps, best.certified_radius, best.certifier,
        0, 0.0, tools, tuple(trail.values()),
    )  # fmt: skip


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
        elif step.message:
            parts.append(
                f"{step.stage} {step.message}" if step.outcome is Outcome.OPEN
                else f"{step.stage} {step.outcome.value}: {step.message}"
            )  # fmt: skip
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


def _next_stage(
    status: Status, trail: Sequence[Step], eps: float, later: Iterable[Tool]
) -> str:  # fmt: skip
    survived = {s.stage for s in trail if s.outcome is Outcome.SURVIVED and s.eps >= eps}
    for tool in later:
        if tool.proves and status is Status.UNDECIDED:
            return tool.name
        if not tool.proves and tool.name not in survived:
            return tool.name
    return ""
