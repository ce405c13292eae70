"""The state of a run, as its progress is reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.verdicts import Status, Verdict


class Work(NamedTuple):
    """The work of a run, all stages and all eps together, as it is expected now.

    passes: forward and backward passes of the model so far. expected_passes: of the whole run.
    share: of the whole work that is done, from 0 to 1, certifiers included. seconds: since the
    start. seconds_left: to the end, NaN where nothing was measured yet.
    """

    passes: int = 0
    expected_passes: int = 0
    share: float = 0.0
    seconds: float = 0.0
    seconds_left: float = math.nan


class Progress(NamedTuple):
    """The state of a run at one eps: examples whose verdict is final, of all, and the counts.

    stage: "certify", the name of the certifier or of the attack at work, or "done". model, norm:
    what is evaluated. place, n_eps: which eps of how many this is, from 1. work: done and expected.
    sought: "radius" and "distances" where eps is no threat model of the user's, but where a curve
    runs certifiers, and where it looks for the nearest adversarial examples.
    """

    eps: float
    stage: str
    done: int
    total: int
    counts: dict[Status, int]
    model: str = ""
    norm: str = ""
    place: int = 1
    n_eps: int = 1
    work: Work = Work()
    sought: str = ""


# Returns the state at any moment; None before there is one.
Watch = Callable[[], Progress | None]


def progress_of(eps: float, stage: str, verdicts: Collection[Verdict], total: int) -> Progress:
    """Return the progress at one eps; verdicts: so far, total: how many examples there are."""
    done = sum(v.status is not Status.UNDECIDED or not v.next_stage for v in verdicts)
    return Progress(eps=eps, stage=stage, done=done, total=total, counts=count_statuses(verdicts))
