"""The work of a run and the time that it still takes, from measured speed and the stages' plans.

The unit of work is a second. Of the stage at work it is known how many passes it has made, and an
attack says how many it still plans; of a stage to come, how many passes an example takes there, as
measured at earlier eps or else as planned, and how many examples are expected to reach it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robustbench_dyn.progress.report import Work

# The fewest examples that an audit takes (evaluation.audit), whatever its share.
_FEWEST_AUDITED = 6
# The share, and the fewest examples, that a sampled attack takes (results.sampling).
_SAMPLED, _FEWEST_SAMPLED = 0.1, 5
# Of a batch that takes longer than planned, so much of what it took is expected to remain.
_STILL = 0.05
# Of a search that takes longer than promised, this share of the promise remains.
_LEAST = 0.3
# The speed before a batch counts like so many passes of each of its examples at its own speed.
_BEFORE = 10
# The share of the broken examples that a smaller eps of the same run decides anew.
_AGAIN = 0.7


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is expected of a stage.

    passes: forwards and backwards of one example that goes all the way. makes_passes: whether these
    are the model's own; a certifier's are those that take as long as its proof. kept: the share of
    examples that it leaves undecided. on_signs: whether it is run on signs of masked gradients
    alone, which are not expected. sampled: whether it is run on a sample of the examples.
    """

    name: str
    passes: float
    kept: float = 1.0
    makes_passes: bool = False
    is_attack: bool = False
    on_signs: bool = False
    sampled: bool = False


class Tally(NamedTuple):
    """How many examples wait for a stage, are decided, and of these certified and broken.

    attacked: those of the waiting that survived the attacks at a larger eps, and need them no more.
    """

    waiting: int
    attacked: int = 0
    decided: int = 0
    certified: int = 0
    broken: int = 0


@dataclass
class _Measured:
    """What a stage took so far, at all eps."""

    examples: int = 0
    undecided: int = 0
    passes: int = 0
    seconds: float = 0.0


class Forecast:
    """Passes and seconds of a run, done and to come.

    count: returns how many passes the model has made. speed: returns the fewest seconds that a
    forward pass of one example took, or 0. n_eps: how many eps the run goes through. audit_share:
    of the certified examples, attacked all the same. clock: seconds from any start. The pipeline
    says what happens; any thread may ask for `work`.
    """

    def __init__(
        self,
        count: Callable[[], int],
        *,
        speed: Callable[[], float] = lambda: 0.0,
        n_eps: int = 1,
        audit_share: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_eps, self.place = n_eps, 0
        self._count, self._speed, self._clock = count, speed, clock
        self._audit_share = audit_share
        self._started, self._passes_before = clock(), count()
        self._stages: Sequence[Outlook] = ()
        self._measured: dict[str, _Measured] = {}
        # The stage at work: its examples, how many are done, and the batch under way.
        self._at: Outlook | None = None
        self._place_of_stage = 0
        self._left = self._in_batch = 0
        self._batch_started, self._batch_passes = clock(), count()
        # What an attack said of the passes to come, and when: after how many passes.
        self._told: tuple[float, int] | None = None
        self._tally = Tally(0)
        # Of a search that is no row of stages: its start, what share is done, and since when.
        self._outer: tuple[float, float, float] | None = None

    # What happens

    def begin(self, stages: Sequence[Outlook], n: int) -> None:
        """Begin an eps; n: the examples that the first stage gets."""
        self._stages, self._at = stages, None
        self.place = min(self.place + 1, self.n_eps)
        self._tally, self._place_of_stage = Tally(n), 0

    def enter(self, stage: str, n: int, tally: Tally) -> None:
        """Begin a stage on n examples; tally: of all, before it."""
        for place, outlook in enumerate(self._stages):
            if outlook.name == stage:
                self._at, self._place_of_stage = outlook, place
        self._measured.setdefault(stage, _Measured())
        self._left, self._tally = n, tally
        self.batch(n)

    def batch(self, n: int) -> None:
        """Begin a batch of n examples."""
        self._in_batch, self._told = min(n, self._left), None
        self._batch_started, self._batch_passes = self._clock(), self._count()

    def tell(self, passes: float) -> None:
        """Take an attack's word for how many passes its batch still makes."""
        if self._told is None:
            # Neither does it later.
            self._batch_started, self._batch_passes = self._clock(), self._count()
        self._told = (passes, self._count())

    def finish(self, n: int, tally: Tally) -> None:
        """End a batch of n examples; tally: of all, after it."""
        if self._at is not None:
            measured = self._measured[self._at.name]
            measured.examples += n
            # Of an attack's examples, those of the audit stay certified.
            decided = max(0, tally.decided - self._tally.decided)
            measured.undecided += max(0, n - decided)
            measured.passes += self._count() - self._batch_passes
            measured.seconds += self._clock() - self._batch_started
        self._left = max(0, self._left - n)
        self._tally = tally
        self.batch(self._left)

    def leave(self) -> None:
        """End the stage at work."""
        self._left = self._in_batch = 0

    def search(self, share: float) -> None:
        """Say what share is done of a search that runs the stages over and over."""
        now = self._clock()
        began = now if self._outer is None else self._outer[0]
        self._outer = (began, share, now)

    # What is expected

    def work(self) -> Work:
        """Return the work done and to come, at this moment."""
        now, passes = self._clock(), self._count() - self._passes_before
        spent = now - self._started
        if self._outer is not None:
            began, share, at = self._outer
            left = (at - began) * (1 - share) / share if share > 0 else math.nan
            # Until the next share is known, the time goes by; a part of it remains.
            left = max(left - (now - at), left * _LEAST)
            return Work(passes, passes, _share(spent, left), spent, left)
        left, passes_left = self._stage_left(now)
        n = self._undecided_after()
        for outlook in self._stages[self._place_of_stage + 1 :] if self._at else self._stages:
            if outlook.on_signs:
                continue
            reaching = n * self._to_attack() + self._audited() if outlook.is_attack else n
            if outlook.sampled:
                reaching = min(reaching, max(_FEWEST_SAMPLED, _SAMPLED * reaching))
            each = self._passes_of(outlook)
            left += reaching * self._seconds_of(outlook)
            passes_left += reaching * each if outlook.makes_passes else 0
            n *= self._kept_of(outlook)
        left += (self.n_eps - self.place) * self._another_eps()
        if not self._speed() and not any(one.seconds for one in self._measured.values()):
            left = math.nan
        return Work(passes, passes + int(passes_left), _share(spent, left), spent, left)

    def _stage_left(self, now: float) -> tuple[float, float]:
        """Return seconds and passes that the stage at work still takes."""
        if self._at is None or not self._left:
            return 0.0, 0.0
        spent, made = now - self._batch_started, self._count() - self._batch_passes
        later = self._left - self._in_batch
        if self._at.makes_passes:
            if self._told is not None:
                told, at = self._told
                left = max(told - (self._count() - at), 0.0)
            else:
                left = max(self._in_batch * self._passes_of(self._at) - made, _STILL * made)
            passes = left + later * self._passes_of(self._at)
            return passes * self._seconds_per_pass(self._at, made, spent), passes
        each = self._seconds_of(self._at)
        left = max(self._in_batch * each - spent, _STILL * spent)
        return left + later * each, 0.0

    def _undecided_after(self) -> float:
        """Return how many examples the stage at work is expected to leave undecided."""
        if self._at is None:
            return self._tally.waiting
        return max(0.0, self._tally.waiting - self._left * (1 - self._kept_of(self._at)))

    def _to_attack(self) -> float:
        """Return the share of the waiting examples that attacks are run on."""
        return 1 - self._tally.attacked / max(1, self._tally.waiting)

    def _audited(self) -> float:
        certified = self._tally.certified
        if not self._audit_share:
            return 0.0
        return min(certified, max(_FEWEST_AUDITED, math.ceil(self._audit_share * certified)))

    def _another_eps(self) -> float:
        """Return the seconds that one more eps takes: what is broken here may stand there."""
        kept, seconds = 1.0, 0.0
        for outlook in self._stages[self._place_of_stage :]:
            if outlook.is_attack and not outlook.on_signs:
                kept *= self._kept_of(outlook)
        n = _AGAIN * (self._tally.broken + self._tally.waiting * (1 - kept))
        for outlook in self._stages[1:]:
            if not outlook.on_signs:
                seconds += n * self._seconds_of(outlook)
                n *= self._kept_of(outlook)
        return seconds

    def _passes_of(self, outlook: Outlook) -> float:
        measured = self._measured.get(outlook.name)
        if measured is not None and measured.examples and outlook.makes_passes:
            return measured.passes / measured.examples
        return outlook.passes

    def _kept_of(self, outlook: Outlook) -> float:
        measured = self._measured.get(outlook.name)
        if measured is not None and measured.examples:
            return measured.undecided / measured.examples
        return outlook.kept

    def _seconds_of(self, outlook: Outlook) -> float:
        """Return the seconds that one example takes in a stage."""
        measured = self._measured.get(outlook.name)
        if measured is not None and measured.examples:
            return measured.seconds / measured.examples
        return outlook.passes * self._seconds_per_pass(outlook, 0, 0.0)

    def _seconds_per_pass(self, outlook: Outlook, made: int, spent: float) -> float:
        """Return the speed of a stage; made, spent: in its batch under way."""
        own = self._measured.get(outlook.name) or _Measured()
        # As fast as the attacks before it, or else as the forward passes so far.
        attacks = [
            self._measured[one.name]
            for one in self._stages
            if one.makes_passes and one.name != outlook.name and one.name in self._measured
        ]
        passes, seconds = sum(one.passes for one in attacks), sum(one.seconds for one in attacks)
        if self._told is not None and self._at is not None and self._at.name != outlook.name:
            passes += self._count() - self._batch_passes
            seconds += self._clock() - self._batch_started
        before = seconds / passes if passes else self._speed()
        if not outlook.makes_passes:
            return before
        weight = _BEFORE * max(1, self._in_batch)
        if self._told is None and made < weight:
            # What comes before an attack's first step says nothing of its speed.
            made, spent = 0, 0.0
        made, spent = own.passes + made, own.seconds + spent
        return (spent + weight * before) / (made + weight)


def _share(spent: float, left: float) -> float:
    return spent / (spent + left) if spent + left > 0 else 0.0
