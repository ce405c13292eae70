"""The order of searches: those that start, go on and end, by what was spent on each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.giving_up import Spent


@dataclass
class Progress:
    """One example's search: what was spent on it, and what it came to once it ended.

    n_done: how many subdomains were bounded. decided: whether all margins were, or None while it
    goes on. gave_up, x: of SearchResult.
    """

    number: int
    n_done: int = 0
    seconds: float = 0.0
    decided: bool | None = None
    gave_up: bool = False
    x: Tensor | None = None


@dataclass
class Turn:
    """Which searches are next: the examples' numbers; and those that are to end."""

    starting: list[int] = field(default_factory=list)
    going_on: list[int] = field(default_factory=list)
    timed_out: list[int] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)


def next_turn(
    searches: Sequence[Progress], spent: Spent, seconds_per_example: float, *, over: bool
) -> Turn:
    """Return what is next; over: whether the time of all searches together is.

    A search whose limit depends on those before it waits until these have ended.
    """
    turn, all_before_ended = Turn(), True
    limits = spent.most_subdomains([one.decided for one in searches])
    for one, limit in zip(searches, limits, strict=True):
        if one.decided is not None:
            continue
        if over or one.seconds > seconds_per_example:
            turn.timed_out.append(one.number)
        elif one.n_done < limit:
            (turn.going_on if one.n_done else turn.starting).append(one.number)
            all_before_ended = False
        elif all_before_ended:
            turn.given_up.append(one.number)
        else:
            all_before_ended = False
    return turn
