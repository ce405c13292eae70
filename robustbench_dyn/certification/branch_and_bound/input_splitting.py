"""Branch and bound over the input, for networks of few inputs and of any activations.

The box around a ball is cut into parts, and each part is bounded by a linear relaxation of its own.
A part is left out once it lies outside of the ball or all margins are proved on it; another one is
cut again. Relaxations are exact in the limit of small parts, so that all of a ball is proved or an
input is found, unless its least margin is 0 within rounding. (Wang et al., ReluVal, arXiv
1804.10829, Section 4.3, with intervals in place of relaxations.) The parts of many balls are
bounded in one pass, which takes hardly longer than those of one.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball, Box
from robustbench_dyn.certification.bounds.intermediate import RelaxationState, intermediate_bounds
from robustbench_dyn.certification.branch_and_bound.parts import Parts, cut, inside
from robustbench_dyn.certification.objectives import Objectives
from robustbench_dyn.threat_models import ThreatModel, project

# Each cut halves a part; the first ones are made before anything is bounded, which fills a batch.
_FIRST_CUTS, _CUTS = 4, 2
# Parts of one ball that are bounded at a time; of several balls, as many as these numbers allow: of
# parts, and of the outputs of the network for all of them.
_BATCH, _TOGETHER, _MOST_NUMBERS = 512, 2048, 20_000_000
# A search is given up after so many parts: networks of the plane took a sixth of them at most.
_MOST_PARTS = 2_000
# Parts that are narrower than this share of the ball tell no more.
_NARROWEST = 2.0**-22


class InputSearch(NamedTuple):
    """What the searches of some examples decided.

    proved: (objectives,) bool, which are above 0 on all of the ball. found: (examples,) bool, where
    there is an input at which the exact network has a margin below 0; x: (examples, *input_shape),
    that input, and the example itself elsewhere. within_rounding: (examples,) bool, where a search
    ended since rounding forbids a proof somewhere. gave_up: (examples,) bool, where it ended after
    too many parts. seconds: that all of them took.
    """

    proved: Tensor
    found: Tensor
    x: Tensor
    within_rounding: Tensor
    gave_up: Tensor
    seconds: float


@dataclass
class _Waiting:
    """What is left of one example's ball, the last parts first, and what was spent on it."""

    example: int
    parts: list[Parts]
    n_done: int = 0
    seconds: float = 0.0

    def take(self) -> Parts:
        """Take the parts that are bounded next, whatever other examples there are."""
        parts = self.parts.pop()
        if len(parts.lower) > _BATCH:
            self.parts.append(parts.at(slice(_BATCH, None)))
        return parts.at(slice(_BATCH))


def search_inputs(
    state: RelaxationState,
    x: Tensor,
    objectives: Objectives,
    threat_model: ThreatModel,
    *,
    seconds_per_example: float,
    seconds: float,
) -> InputSearch:
    """Prove objectives of some examples over their balls, or find inputs that refute them.

    x: (examples, *input_shape). Objectives that are neither within the time stay unproved: each
    example's share of the passes counts against its own time, and all of them against `seconds`.
    """
    return _InputSearches(state, x, objectives, threat_model).run(seconds_per_example, seconds)


class _InputSearches:
    """The searches of some examples, which are bounded together."""

    def __init__(
        self, state: RelaxationState, x: Tensor, objectives: Objectives, threat_model: ThreatModel
    ) -> None:
        self._state, self._x, self._threat_model = state, x, threat_model
        self._objectives, self._ball = objectives, Ball(x, threat_model)
        # The objectives of each example, of which the last ones may be missing.
        counts = torch.bincount(objectives.example, minlength=len(x))
        slots = torch.arange(int(counts.max()) if len(counts) else 0, device=x.device)
        self._has = slots < counts[:, None]
        self._index = torch.zeros_like(self._has, dtype=torch.long)
        order = objectives.example.argsort(stable=True)
        self._index[self._has] = order
        whole = Parts(
            self._ball.lower, self._ball.upper, self._has, torch.arange(len(x), device=x.device)
        )
        parts = cut(whole, _FIRST_CUTS)
        parts = parts.at(inside(parts, self._ball))
        self._waiting = deque[_Waiting]()
        for example in counts.nonzero().flatten().tolist():
            self._waiting.append(_Waiting(example, [parts.at(parts.example == example)]))
        n_numbers = max(1, state.exact.n_numbers)
        self._together = max(_BATCH, min(_TOGETHER, _MOST_NUMBERS // n_numbers))
        nothing = torch.zeros(len(x), dtype=torch.bool)
        self._result = InputSearch(
            proved=torch.ones_like(objectives.example, dtype=torch.bool),
            found=nothing,
            x=x.clone(),
            within_rounding=nothing.clone(),
            gave_up=nothing.clone(),
            seconds=0.0,
        )

    def run(self, seconds_per_example: float, seconds: float) -> InputSearch:
        """Search until all is decided or the time is over."""
        started = time.monotonic()
        while self._waiting:
            searches, parts = self._take()
            begun = time.monotonic()
            points, margins = self._middles(parts)
            refuted = (margins < 0).any(dim=1)
            self._spend(searches, parts, time.monotonic() - begun)
            over = time.monotonic() - started > seconds
            going = list[_Waiting]()
            for search in searches:
                own = (parts.example == search.example).nonzero().flatten()
                against = own[refuted[own]]
                if len(against):
                    self._result.found[search.example] = True
                    self._result.x[search.example] = points[against[0]]
                if len(against) or over or search.seconds > seconds_per_example:
                    self._end(search, parts.at(own))
                elif search.n_done > _MOST_PARTS:
                    self._result.gave_up[search.example] = True
                    self._end(search, parts.at(own))
                else:
                    search.n_done += len(own)
                    going.append(search)
            if not going:
                continue
            chosen = torch.isin(parts.example, parts.example.new_tensor([s.example for s in going]))
            begun = time.monotonic()
            parts, lost = self._bounded(parts.at(chosen), margins[chosen])
            self._spend(going, parts, time.monotonic() - begun)
            for search in going:
                own = parts.example == search.example
                self._go_on(search, parts.at(own), within_rounding=bool(lost[own].any()))
        return self._result._replace(seconds=time.monotonic() - started)

    def _take(self) -> tuple[list[_Waiting], Parts]:
        """Take parts of as many examples as are bounded together."""
        searches, taken, n = list[_Waiting](), list[Parts](), 0
        while self._waiting and (not taken or n < self._together):
            searches.append(self._waiting.popleft())
            taken.append(searches[-1].take())
            n += len(taken[-1].lower)
        return searches, Parts(*(torch.cat(column) for column in zip(*taken, strict=True)))

    def _spend(self, searches: list[_Waiting], parts: Parts, seconds: float) -> None:
        """Charge each search with the share of a pass that its parts are."""
        counts = torch.bincount(parts.example, minlength=len(self._x)).tolist()
        for search in searches:
            search.seconds += seconds * counts[search.example] / max(1, len(parts.example))

    def _go_on(self, search: _Waiting, parts: Parts, *, within_rounding: bool) -> None:
        """Cut what is unproved of an example's parts, or end its search."""
        if within_rounding:
            self._result.within_rounding[search.example] = True
            self._end(search, parts)
            return
        parts = cut(parts.at(parts.left.any(dim=1)), _CUTS)
        parts = parts.at(inside(parts, self._ball))
        if len(parts.lower):
            search.parts.append(parts)
        if search.parts:
            self._waiting.append(search)

    def _end(self, search: _Waiting, parts: Parts) -> None:
        """End a search with the objectives that are proved on all parts."""
        left = torch.cat([some.left for some in (parts, *search.parts)]).any(dim=0)
        self._result.proved[self._index[search.example, left]] = False

    def _middles(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """Return the middles of parts, put into the ball, and the exact margins there.

        They are (parts, *input_shape), of x's dtype, and (parts, objectives), float64; inf where
        an example has fewer objectives than others.
        """
        x = self._x[parts.example]
        middle = ((parts.lower + parts.upper) / 2).view(-1, *x.shape[1:]).to(x)
        points = project(middle, x, self._threat_model)
        logits = self._state.exact.outputs(points.double())[-1]
        coefficients = self._objectives.coefficients[self._index[parts.example]]
        margins = (coefficients * logits[:, None]).sum(dim=2)
        return points, margins.where(self._has[parts.example], torch.inf)

    def _bounded(self, parts: Parts, margins: Tensor) -> tuple[Parts, Tensor]:
        """Return parts without what is proved on them, and where rounding forbids the rest.

        margins: (parts, objectives), at their middles. Where one is no more than rounding, and so
        is what its bound lacks, no smaller part has a better bound: (parts,) bool.
        """
        state, ball = self._state, self._ball
        box = Box(parts.lower, parts.upper, ball.shape)
        bounds, linear_bounds = intermediate_bounds(state, box)
        owners, slots = parts.left.nonzero(as_tuple=True)
        chosen = self._objectives.at(self._index[parts.example[owners], slots])
        found = objective_bounds(
            state.exact, bounds, box, chosen.coefficients, owners, linear_bounds=linear_bounds
        )
        # Written so that NaN stays unproved.
        proved = found.value > chosen.allowance(found.rounding)
        left = parts.left.clone()
        left[owners, slots] = ~proved
        rounding = found.rounding + chosen.observed
        margin = margins[owners, slots]
        lost = (margin <= rounding) & (margin - found.value <= rounding) & rounding.isfinite()
        narrow = (parts.upper - parts.lower).amax(dim=1) < _NARROWEST * ball.eps
        hopeless = torch.zeros_like(narrow)
        hopeless[owners[(lost | narrow[owners]) & ~proved]] = True
        return parts._replace(left=left), hopeless
