"""The state of a run, as progress displays show it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.verdicts import Status, Verdict


class Progress(NamedTuple):
    """The state of a run at one eps: examples whose verdict is final, of all, and the counts.

    stage: "certify", the name of the certifier or of the attack at work, or "done".
    """

    eps: float
    stage: str
    done: int
    total: int
    counts: dict[Status, int]


def progress_of(eps: float, stage: str, verdicts: Collection[Verdict], total: int) -> Progress:
    """Return the progress at one eps; verdicts: so far, total: how many examples there are."""
    done = sum(v.status is not Status.UNDECIDED or not v.next_stage for v in verdicts)
    return Progress(eps=eps, stage=stage, done=done, total=total, counts=count_statuses(verdicts))
