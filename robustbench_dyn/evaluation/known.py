"""Knowledge of each example from other eps: the verdicts from which another one may follow.

At each eps all earlier ones count, so that the work would grow with the square of their number.
Most verdicts say nothing that another one does not say as well; only the others are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustbench_dyn.evaluation.transitions import UNPROVED
from robustbench_dyn.results.verdicts import Outcome, Status, Verdict


class KnownElsewhere:
    """The informative verdicts of each example at all eps so far."""

    def __init__(self, verdicts: Iterable[Verdict] = ()) -> None:
        self._of = dict[int, list[Verdict]]()
        self.add(verdicts)

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Take up verdicts; one at an eps that is known replaces the one before."""
        for verdict in verdicts:
            kept = self._of.get(verdict.example_id, [])
            others = [other for other in kept if other.eps != verdict.eps]
            self._of[verdict.example_id] = informative([*others, verdict])

    def of(self, example_id: int) -> Sequence[Verdict]:
        """Return the verdicts of one example, by eps."""
        return self._of.get(example_id, ())


def informative(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Leave out verdicts of one example that change no inference; return the others, by eps.

    transitions.infer_from_other_eps returns the same of both, at every eps that is none of theirs.
    It takes, in the order of eps, the first hit that is near enough, the first that proved the
    largest radius, and each stage's first step that holds at eps. So a verdict counts only where
    its hit is nearer than all before it, its radius the first largest one, or a step of it holds at
    larger eps than those before it.
    """
    rising = sorted(verdicts, key=lambda verdict: verdict.eps)
    best = max(rising, key=_radius, default=None)
    nearest, survived, unproved = float("inf"), dict[str, float](), set[str]()
    kept = list[Verdict]()
    for verdict in rising:
        counts = verdict is best
        if verdict.status is Status.BROKEN and verdict.adversarial_distance < nearest:
            nearest, counts = verdict.adversarial_distance, True
        closed = not verdict.next_stage and verdict.status is not Status.BROKEN
        for step in verdict.trail:
            if step.outcome is Outcome.SURVIVED and closed:
                if step.eps > survived.get(step.stage, float("-inf")):
                    survived[step.stage], counts = step.eps, True
            elif step.outcome in UNPROVED and step.stage not in unproved:
                unproved.add(step.stage)
                counts = True
        if counts:
            kept.append(verdict)
    return kept


def _radius(verdict: Verdict) -> float:
    # NaN, where nothing is proved, is the least.
    return max(0.0, verdict.certified_radius)
