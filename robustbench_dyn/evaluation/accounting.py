"""Accounting: passes and seconds, charged to each example and stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from robustbench_dyn.evaluation.batching import Metered
from robustbench_dyn.evaluation.outcomes import Spent
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.verdicts import Verdict


def charge(
    verdicts: Sequence[Verdict], metered: Metered[Any, Any], spent: Sequence[Spent | None]
) -> list[Verdict]:
    """Add to each example what it spent, or else its equal share of the batch."""
    n = len(verdicts)
    forward, backward = _shares(metered.forward_passes, n), _shares(metered.backward_passes, n)
    charged = []
    for k, verdict in enumerate(verdicts):
        own = spent[k] or Spent(forward[k], backward[k])
        seconds = metered.seconds / n if own.seconds is None else own.seconds
        charged.append(
            replace(
                verdict,
                forward_passes=verdict.forward_passes + own.forward_passes,
                backward_passes=verdict.backward_passes + own.backward_passes,
                seconds=verdict.seconds + seconds,
            )
        )
    return charged


def stage_cost(
    stage: str,
    eps: float,
    metered: Metered[Any, Any],
    spent: Sequence[Spent | None] = (),
    *,
    examples: int,
    decided: int,
) -> StageCost:
    """Return what a batch of a stage took: what its examples spent, where the stage says so."""
    cost = StageCost(
        eps=eps,
        stage=stage,
        examples=examples,
        decided=decided,
        forward_passes=metered.forward_passes,
        backward_passes=metered.backward_passes,
        seconds=metered.seconds,
    )
    own = [one for one in spent if one is not None]
    if not own or len(own) < len(spent):
        return cost
    seconds = [one.seconds for one in own if one.seconds is not None]
    return replace(
        cost,
        forward_passes=sum(one.forward_passes for one in own),
        backward_passes=sum(one.backward_passes for one in own),
        seconds=sum(seconds) if len(seconds) == len(own) else cost.seconds,
    )


def _shares(total: int, n: int) -> list[int]:
    """Split a count into n whole shares that add up to it."""
    return [total // n + (k < total % n) for k in range(n)]
