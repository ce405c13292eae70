"""The multipliers of LipSDP: a convex problem, solved by an interior-point method.

Whatever is found here proves nothing by itself; `certified_bound` does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.sdp.increments import Increments

_UNIT = 2.0**-53
_ITERATIONS = 60
# The barrier's weight at first, by what it shrinks, and where it ends, relative to the objective.
_FIRST, _SHRINK, _LAST = 1.0, 0.2, 1e-4
# The least share by which a bound is raised, until the proof holds.
_RAISES = (1e-8, 1e-6, 1e-4, 1e-2)


class Searched(NamedTuple):
    """multipliers: (n,), positive; squares: (p,), the squared bounds that they promise."""

    multipliers: Tensor
    squares: Tensor


class _Problem(NamedTuple):
    """M = [[I, -G^T L], [-L G, 2 L - L H - H^T L]] for rows (G, H) and L = diag(multipliers).

    gram: G G^T. differences: (p, d) and (p, n), the rows c whose c^T M^-1 c is to be small.
    """

    gram: Tensor
    hidden: Tensor
    inputs: Tensor
    outer: Tensor
    inner: Tensor


class _Point(NamedTuple):
    multipliers: Tensor
    factor: Tensor
    psi: Tensor
    squares: Tensor


def search(
    increments: Increments, differences: Tensor, limits: Tensor | None = None
) -> Searched | None:
    """Return multipliers with a small sum of L_k^2, L_k the bound of the difference k of logits.

    For increments s = (dx, psi), psi in its sector means psi_i (rows_i s - psi_i) >= 0, whence s^T
    M s <= |dx|^2 and, wherever M is positive, (c s)^2 <= c M^-1 c^T |dx|^2 (LipSDP-Neuron, arXiv
    1906.04893, Theorem 2, with diagonal multipliers, which are the sound ones). c M^-1 c^T is
    convex in the multipliers, and Newton's method minimises it behind the barriers -log det M - sum
    log l. differences: (p, classes). limits: (p,), positive; where they are given, L_k over the
    limit k is what counts, and the search ends once every bound is below its limit or cannot be.
    None where numbers run out of range.
    """
    d = increments.rows.shape[1] - len(increments.rows)
    outer, inner = (differences @ increments.logits).tensor_split([d], dim=1)
    inputs, hidden = increments.rows.tensor_split([d], dim=1)
    problem = _Problem(inputs @ inputs.T, hidden, inputs, outer, inner)
    multipliers = _feasible(problem, increments.layers)
    point = None if multipliers is None else _evaluate(problem, multipliers)
    if point is None:
        return None
    n = len(hidden)
    if not n:
        return Searched(point.multipliers, point.squares)
    weights = torch.ones_like(point.squares) if limits is None else limits.square().reciprocal()
    barrier = _FIRST / n
    for _ in range(_ITERATIONS):
        if limits is not None and (weights * point.squares < 1 - 1e-6).all():
            break
        # Relative to what the objective is now.
        scaled = weights / (weights * point.squares).sum()
        step, decrement = _newton_step(problem, point, scaled, barrier)
        following = _line_search(problem, point, scaled, barrier, step, decrement)
        if following is None:
            break
        point = following
        if decrement < barrier:
            # Behind a barrier of parameter 2 n + d the least sum is at most this much less.
            least = (weights * point.squares).sum() * (1 - 2 * barrier * (2 * n + d))
            if limits is not None and least > len(differences):
                break
            barrier *= _SHRINK
        if barrier * n < _LAST:
            break
    return Searched(point.multipliers, point.squares)


def certified_bound(
    increments: Increments, difference: Tensor, multipliers: Tensor, square: float
) -> float:
    """Return a proved Lipschitz bound of one difference of logits; inf where none is.

    square: the one hoped for, which is raised a little until diag(L^2 I, 0) + L^2 (M - I) - c^T c
    is positive for certain. That is shown by a Cholesky factorisation of the scaled matrix less t
    I: where it comes to its end, the matrix is positive, if t is at least the rounding of its
    entries, by their row sums, and (n + 2) u times the trace (Rump, Verification of positive
    definiteness, BIT 46, 2006; Higham, Accuracy and Stability, Theorem 10.3).
    """
    if not 0 <= square < torch.inf:
        return torch.inf
    for raised in _RAISES:
        # Also where the network is constant in this direction.
        squared = square * (1 + raised) + 1e-280
        if _is_positive(increments, difference, multipliers * squared, squared):
            return float(squared**0.5) * (1 + 1e-12)
    return torch.inf


def _is_positive(
    increments: Increments, difference: Tensor, multipliers: Tensor, square: float
) -> bool:
    rows, n = increments.rows, len(increments.rows)
    d = rows.shape[1] - n
    c = difference @ increments.logits
    c_size = difference.abs() @ increments.logit_sizes
    diagonal = torch.cat([torch.full_like(c[:d], square), 2 * multipliers])
    matrix, size = torch.diag(diagonal), torch.diag(diagonal)
    weighted, weighted_size = (
        multipliers[:, None] * rows,
        multipliers[:, None] * (increments.row_sizes),
    )
    matrix[d:] -= weighted
    matrix[:, d:] -= weighted.T
    matrix -= c[:, None] * c
    size[d:] += weighted_size
    size[:, d:] += weighted_size.T
    size += c_size[:, None] * c_size
    if not (matrix.diagonal() > 0).all():
        return False
    scale = matrix.diagonal().rsqrt()
    matrix, size = scale[:, None] * matrix * scale, scale[:, None] * size * scale
    # c and c^T err by the rounding of logits and of a sum over the classes.
    rounding = 4 * increments.rounding + (4 * len(difference) + 32) * _UNIT
    shift = rounding * size.sum(dim=1).max() + 2 * (len(matrix) + 4) * _UNIT * matrix.trace()
    matrix.diagonal().sub_(1.01 * shift)
    _, failed = torch.linalg.cholesky_ex(matrix)
    return bool(shift.isfinite()) and not int(failed)


def _feasible(problem: _Problem, layers: tuple[int, ...]) -> Tensor | None:
    """Return multipliers for which M is positive, layer after layer.

    The changes z of one layer satisfy z^T E^-1 z <= |dx|^2, with E made of what comes before, and
    multipliers 1 / T, where T is diagonal and at least E (as in SLL, arXiv 2303.03169), keep M
    positive.
    """
    multipliers = problem.gram.new_zeros(len(problem.gram))
    start = 0
    for size in layers:
        here, before = slice(start, start + size), slice(0, start)
        covariance = problem.gram[here, here]
        if start:
            known = multipliers[before]
            factor, failed = torch.linalg.cholesky_ex(
                _schur(problem.gram[before, before], problem.hidden[before, before], known)
            )
            if int(failed):
                return None
            mixed = problem.hidden[here, before] + problem.gram[here, before] * known
            covariance = covariance + mixed @ torch.cholesky_solve(mixed.T, factor)
        q = covariance.diagonal().clamp_min(1e-200).sqrt()
        bound = covariance.abs() @ q / q
        multipliers[here] = 1 / bound.clamp_min(1e-12)
        start += size
    return multipliers


def _schur(gram: Tensor, hidden: Tensor, multipliers: Tensor) -> Tensor:
    """Return the Schur complement of I in M."""
    weighted = multipliers[:, None] * hidden
    return torch.diag(2 * multipliers) - weighted - weighted.T - (
        multipliers[:, None] * gram * multipliers
    )  # fmt: skip


def _evaluate(problem: _Problem, multipliers: Tensor) -> _Point | None:
    factor, failed = torch.linalg.cholesky_ex(_schur(problem.gram, problem.hidden, multipliers))
    if int(failed):
        return None
    sides = (problem.inner + multipliers * (problem.outer @ problem.inputs.T)).T
    psi = torch.cholesky_solve(sides, factor)
    squares = problem.outer.square().sum(dim=1) + (sides * psi).sum(dim=0)
    return _Point(multipliers, factor, psi, squares) if squares.isfinite().all() else None


def _objective(point: _Point, weights: Tensor, barrier: float) -> float:
    logs = point.multipliers.log().sum() + 2 * point.factor.diagonal().log().sum()
    return float((weights * point.squares).sum() - barrier * logs)


def _newton_step(
    problem: _Problem, point: _Point, weights: Tensor, barrier: float
) -> tuple[Tensor, float]:
    """Return the step of the multipliers' logarithms, and by how much it promises to descend.

    dM / dl_i = e_i w_i^T + w_i e_i^T with w_i = e_i - row_i: all that is needed of M^-1 are the
    products e M^-1 e, e M^-1 w and w M^-1 w, and of the solutions u = M^-1 c the products e u
    (psi) and w u.
    """
    multipliers, factor, psi, _ = point
    n = len(multipliers)
    gram, one = problem.gram, torch.eye(n, dtype=psi.dtype, device=psi.device)
    w_u = psi - problem.inputs @ problem.outer.T - gram @ (multipliers[:, None] * psi)
    w_u = w_u - problem.hidden @ psi
    w = one - problem.hidden - gram * multipliers
    halves = torch.linalg.solve_triangular(factor, torch.cat([one, w.T], dim=1), upper=False)
    half_e, half_w = halves[:, :n], halves[:, n:]
    ee, ew, ww = half_e.T @ half_e, half_e.T @ half_w, gram + half_w.T @ half_w
    gradient = -2 * (weights * psi * w_u).sum(dim=1) - 2 * barrier * ew.diagonal()
    mixed = (w_u * weights) @ psi.T * ew
    hessian = (w_u * weights) @ w_u.T * ee + mixed + mixed.T + (psi * weights) @ psi.T * ww
    hessian = 2 * hessian + 2 * barrier * (ee * ww + ew * ew.T)
    gradient = multipliers * gradient - barrier
    hessian = multipliers[:, None] * hessian * multipliers + barrier * one
    step = -torch.linalg.solve_ex(hessian, gradient).result
    return step, -float(gradient @ step)


def _line_search(
    problem: _Problem, point: _Point, weights: Tensor, barrier: float, step: Tensor,
    decrement: float,
) -> _Point | None:  # fmt: skip
    """Return the first point of a shrinking step that keeps M positive and descends."""
    if not decrement > 0:
        return None
    before = _objective(point, weights, barrier)
    length = min(1.0, 0.95 / max(float((-step).max()), 1e-30))
    for _ in range(15):
        following = _evaluate(problem, point.multipliers * (1 + length * step))
        if following is not None:
            promised = before - 0.1 * length * decrement
            if _objective(following, weights, barrier) <= promised:
                return following
        length /= 2
    return None
