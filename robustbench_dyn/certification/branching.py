"""Branch and bound over binary variables, whose bounds do not depend on a solver being right.

Solvers of mixed-integer programs reason in floating point, and their presolve has been seen to cut
off points that fulfil every constraint to the last digit. So what they say of a minimum is checked
here: in each node the dual values of a linear program give a lower bound by arithmetic of our own
(Neumaier & Shcherbina, Safe bounds in linear and mixed-integer linear programming, 2004), whatever
the solver was, as long as all variables are bounded.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

Array = NDArray[np.float64]
Places = NDArray[np.intp]

_UNIT = float(np.finfo(np.float64).eps)
# A slack that makes every program feasible is at most this.
_MOST_SLACK = 1e3
# In units of the rounding: what a bound on a slack must exceed to prove that there is no point.
_CLEARLY = 10.0


class LinearProgram(NamedTuple):
    """Minimise cost x + constant where at_most x <= sides, equal x = values; no box.

    at_most: (m, n) and equal: (k, n), sparse.
    """

    cost: Array
    constant: float
    at_most: sparse.csr_matrix
    sides: Array
    equal: sparse.csr_matrix
    values: Array


class Bound(NamedTuple):
    """A proven lower bound, what rounding was allowed in it, and the solver's point, if any."""

    value: float
    rounding: float
    x: Array | None


class Answer(NamedTuple):
    """proved: it is so. Else x is a point that speaks against it, or None: the time ran out."""

    proved: bool
    x: Array | None


def prove_above(
    program: LinearProgram, low: Array, high: Array, places: Places, weights: Array,
    threshold: float, *, seconds: float,
) -> Answer:  # fmt: skip
    """Prove that every x in [low, high] with 0 or 1 at `places` costs more than the threshold.

    weights: (len(places),), how much an undecided variable at a place relaxes the program.
    """
    until = time.monotonic() + seconds
    feasibility: LinearProgram | None = None
    nodes = [(low, high)]
    while nodes:
        if time.monotonic() > until:
            return Answer(False, None)
        low, high = nodes.pop()
        bound = lower_bound(program, low, high)
        if bound.value > threshold:
            continue
        if bound.x is None:
            feasibility = feasibility or _elastic(program)
            slack = lower_bound(feasibility, np.append(low, 0.0), np.append(high, _MOST_SLACK))
            if slack.value > _CLEARLY * slack.rounding:
                continue
        open_ = low[places] < high[places]
        if not open_.any():
            return Answer(False, bound.x)
        at = np.full(len(places), 0.5) if bound.x is None else bound.x[places].clip(0, 1)
        k = int(np.where(open_, weights * np.minimum(at, 1 - at), -1.0).argmax())
        place, likelier = int(places[k]), float(at[k] >= 0.5)
        # The last one pushed is looked at first.
        for value in (1 - likelier, likelier):
            lower, upper = low.copy(), high.copy()
            lower[place] = upper[place] = value
            nodes.append((lower, upper))
    return Answer(True, None)


def lower_bound(program: LinearProgram, low: Array, high: Array) -> Bound:
    """Bound a program over a box from below by the dual values that the solver finds.

    For u >= 0 and any v, and all feasible x: cost x >= (cost + at_most^T u + equal^T v) x - u sides
    - v values, and the first term is least at a corner of the box.
    """
    found = linprog(
        program.cost, A_ub=program.at_most, b_ub=program.sides, A_eq=program.equal,
        b_eq=program.values, bounds=np.stack([low, high], axis=1), method="highs",
    )  # fmt: skip
    solved = found.x is not None and found.status == 0
    u, v = np.zeros(len(program.sides)), np.zeros(len(program.values))
    if solved:
        u = np.maximum(-np.asarray(found.ineqlin.marginals), 0.0)
        v = -np.asarray(found.eqlin.marginals)
    slope = program.cost + program.at_most.T @ u + program.equal.T @ v
    value = np.minimum(slope * low, slope * high).sum() - u @ program.sides - v @ program.values
    largest = np.maximum(np.abs(low), np.abs(high))
    size = np.abs(program.cost) + abs(program.at_most).T @ u + abs(program.equal).T @ np.abs(v)
    terms = size @ largest + u @ np.abs(program.sides) + np.abs(v) @ np.abs(program.values)
    # Each number comes of sums of at most so many products; twice for those of `terms` themselves.
    n = len(program.cost) + len(program.sides) + len(program.values) + 10
    rounding = 2 * n * _UNIT * (float(terms) + abs(program.constant))
    return Bound(float(value) + program.constant - rounding, rounding, found.x if solved else None)


def _elastic(program: LinearProgram) -> LinearProgram:
    """Return the program of the least slack with which all constraints hold; last variable."""
    rows = sparse.vstack([program.at_most, program.equal, -program.equal])
    slack = sparse.csr_matrix(-np.ones((rows.shape[0], 1)))
    n = rows.shape[1] + 1
    return LinearProgram(
        cost=np.append(np.zeros(n - 1), 1.0), constant=0.0,
        at_most=sparse.hstack([rows, slack]).tocsr(),
        sides=np.concatenate([program.sides, program.values, -program.values]),
        equal=sparse.csr_matrix((0, n)), values=np.zeros(0),
    )  # fmt: skip
