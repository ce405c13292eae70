"""The dual variables of LipSDP: a convex problem, solved by an interior-point method.

The solution proves nothing by itself; `certified_bound` does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.sdp.incremental_system import IncrementalSystem

_UNIT = 2.0**-53
_ITERATIONS = 60
# The barrier's first weight, its factor, and its last weight, relative to the objective.
_FIRST, _SHRINK, _LAST = 1.0, 0.2, 1e-4
# By what share a bound is raised, one after another until the proof holds.
_RAISES = (1e-8, 1e-6, 1e-4, 1e-2)


class DualSolution(NamedTuple):
    """dual_variables: (n,), positive; squares: (p,), the squared bounds that they suggest."""

    dual_variables: Tensor
    squares: Tensor


class _Problem(NamedTuple):
    """M = [[I, -G^T L], [-L G, 2 L - L H - H^T L]] for rows (G, H) and L = diag(dual variables).

    gram: G G^T. inputs: G; hidden: H. outer, inner: (p, d) and (p, n), the rows c whose c^T M^-1 c
    is to be small.
    """

    gram: Tensor
    hidden: Tensor
    inputs: Tensor
    outer: Tensor
    inner: Tensor


class _Point(NamedTuple):
    dual_variables: Tensor
    factor: Tensor
    psi: Tensor
    squares: Tensor


def optimise_dual(
    system: IncrementalSystem, coefficients: Tensor, limits: Tensor | None = None
) -> DualSolution | None:
    """Return dual variables with a small sum of L_k^2, L_k the Lipschitz bound of objective k.

    coefficients: (p, classes), of the objectives. For increments s = (dx, psi), psi in its sector
    means psi_i (rows_i s - psi_i) >= 0, whence s^T M s <= |dx|^2 and, wherever M is positive,
    (c s)^2 <= c M^-1 c^T |dx|^2 (LipSDP-Neuron, arXiv 1906.04893, Theorem 2, with diagonal dual
    variables, which are the sound ones). c M^-1 c^T is convex in the dual variables, and Newton's
    method minimises it behind the barriers -log det M - sum log l. limits: (p,), positive; where
    they are given, each L_k is divided by limit k, and the optimisation ends once every bound is
    below its limit or cannot be. None where numbers run out of range.
    """
    d = system.rows.shape[1] - len(system.rows)
    outer, inner = (coefficients @ system.logits).tensor_split([d], dim=1)
    inputs, hidden = system.rows.tensor_split([d], dim=1)
    problem = _Problem(inputs @ inputs.T, hidden, inputs, outer, inner)
    dual_variables = _feasible(problem, system.layers)
    point = None if dual_variables is None else _evaluate(problem, dual_variables)
    if point is None:
        return None
    n = len(hidden)
    if not n:
        return DualSolution(point.dual_variables, point.squares)
    weights = torch.ones_like(point.squares) if limits is None else limits.square().reciprocal()
    barrier = _FIRST / n
    for _ in range(_ITERATIONS):
        if limits is not None and (weights * point.squares < 1 - 1e-6).all():
            break
        # Relative to what the objective is now.
        scaled = weights / (weights * point.squares).sum()
        step, decrement = _newton_step(problem, point, scaled, barrier)
        candidate = _line_search(problem, point, scaled, barrier, step, decrement)
        if candidate is None:
            break
        point = candidate
        if decrement < barrier:
            # Behind a barrier of parameter 2 n + d the least sum is at most this much less.
            least = (weights * point.squares).sum() * (1 - 2 * barrier * (2 * n + d))
            if limits is not None and least > len(coefficients):
                break
            barrier *= _SHRINK
        if barrier * n < _LAST:
            break
    return DualSolution(point.dual_variables, point.squares)


def certified_bound(
    system: IncrementalSystem, coefficients: Tensor, dual_variables: Tensor, square: float
) -> float:
    """Return a proved Lipschitz bound of one objective; inf where none is proved.

    coefficients: (classes,). square: the suggested square of the bound, which is raised a little
    until diag(L^2 I, 0) + L^2 (M - I) - c^T c is positive for certain. That is shown by a Cholesky
    factorisation of the scaled matrix minus t I: where it succeeds, the matrix is positive, if t is
    at least the rounding of its entries, by their row sums, and (n + 2) u times the trace (Rump,
    Verification of positive definiteness, BIT 46, 2006; Higham, Accuracy and Stability, Theorem
    10.3).
    """
    if not 0 <= square < torch.inf:
        return torch.inf
    for raised in _RAISES:
        # Positive also where the objective is constant.
        squared = square * (1 + raised) + 1e-280
        if _is_positive(system, coefficients, dual_variables * squared, squared):
            return float(squared**0.5) * (1 + 1e-12)
    return torch.inf


def _is_positive(
    system: IncrementalSystem, coefficients: Tensor, dual_variables: Tensor, square: float
) -> bool:
    rows, n = system.rows, len(system.rows)
    d = rows.shape[1] - n
    c = coefficients @ system.logits
    c_magnitude = coefficients.abs() @ system.logit_magnitudes
    diagonal = torch.cat([torch.full_like(c[:d], square), 2 * dual_variables])
    matrix, magnitude = torch.diag(diagonal), torch.diag(diagonal)
    weighted = dual_variables[:, None] * rows
    weighted_magnitude = dual_variables[:, None] * system.row_magnitudes
    matrix[d:] -= weighted
    matrix[:, d:] -= weighted.T
    matrix -= c[:, None] * c
    magnitude[d:] += weighted_magnitude
    magnitude[:, d:] += weighted_magnitude.T
    magnitude += c_magnitude[:, None] * c_magnitude
    if not (matrix.diagonal() > 0).all():
        return False
    scale = matrix.diagonal().rsqrt()
    matrix, magnitude = scale[:, None] * matrix * scale, scale[:, None] * magnitude * scale
    # c and c^T err by the rounding of logits and of a sum over the classes.
    rounding = 4 * system.rounding + (4 * len(coefficients) + 32) * _UNIT
    shift = rounding * magnitude.sum(dim=1).max() + 2 * (len(matrix) + 4) * _UNIT * matrix.trace()
    matrix.diagonal().sub_(1.01 * shift)
    _, failed = torch.linalg.cholesky_ex(matrix)
    return bool(shift.isfinite()) and not int(failed)


def _feasible(problem: _Problem, layers: tuple[int, ...]) -> Tensor | None:
    """Return dual variables for which M is positive, layer after layer.

    The changes z of one layer satisfy z^T E^-1 z <= |dx|^2, with E that follows from the layers
    before, and dual variables 1 / T, where T is diagonal and at least E (as in SLL, arXiv
    2303.03169), keep M positive.
    """
    dual_variables = problem.gram.new_zeros(len(problem.gram))
    start = 0
    for n_units in layers:
        here, before = slice(start, start + n_units), slice(0, start)
        covariance = problem.gram[here, here]
        if start:
            known = dual_variables[before]
            factor, failed = torch.linalg.cholesky_ex(
                _schur(problem.gram[before, before], problem.hidden[before, before], known)
            )
            if int(failed):
                return None
            mixed = problem.hidden[here, before] + problem.gram[here, before] * known
            covariance = covariance + mixed @ torch.cholesky_solve(mixed.T, factor)
        q = covariance.diagonal().clamp_min(1e-200).sqrt()
        bound = covariance.abs() @ q / q
        dual_variables[here] = 1 / bound.clamp_min(1e-12)
        start += n_units
    return dual_variables


def _schur(gram: Tensor, hidden: Tensor, dual_variables: Tensor) -> Tensor:
    """Return the Schur complement of I in M."""
    weighted = dual_variables[:, None] * hidden
    return (
        torch.diag(2 * dual_variables)
        - weighted
        - weighted.T
        - (dual_variables[:, None] * gram * dual_variables)
    )


def _evaluate(problem: _Problem, dual_variables: Tensor) -> _Point | None:
    factor, failed = torch.linalg.cholesky_ex(_schur(problem.gram, problem.hidden, dual_variables))
    if int(failed):
        return None
    sides = (problem.inner + dual_variables * (problem.outer @ problem.inputs.T)).T
    psi = torch.cholesky_solve(sides, factor)
    squares = problem.outer.square().sum(dim=1) + (sides * psi).sum(dim=0)
    return _Point(dual_variables, factor, psi, squares) if squares.isfinite().all() else None


def _objective(point: _Point, weights: Tensor, barrier: float) -> float:
    logs = point.dual_variables.log().sum() + 2 * point.factor.diagonal().log().sum()
    return float((weights * point.squares).sum() - barrier * logs)


def _newton_step(
    problem: _Problem, point: _Point, weights: Tensor, barrier: float
) -> tuple[Tensor, float]:
    """Return the step of the dual variables' logarithms, and the decrease that it predicts.

    dM / dl_i = e_i w_i^T + w_i e_i^T with w_i = e_i - row_i: only the products e M^-1 e, e M^-1 w
    and w M^-1 w of M^-1 are needed, and of the solutions u = M^-1 c the products e u (psi) and w u.
    """
    dual_variables, factor, psi, _ = point
    n = len(dual_variables)
    gram, one = problem.gram, torch.eye(n, dtype=psi.dtype, device=psi.device)
    w_u = psi - problem.inputs @ problem.outer.T - gram @ (dual_variables[:, None] * psi)
    w_u = w_u - problem.hidden @ psi
    w = one - problem.hidden - gram * dual_variables
    halves = torch.linalg.solve_triangular(factor, torch.cat([one, w.T], dim=1), upper=False)
    half_e, half_w = halves[:, :n], halves[:, n:]
    ee, ew, ww = half_e.T @ half_e, half_e.T @ half_w, gram + half_w.T @ half_w
    gradient = -2 * (weights * psi * w_u).sum(dim=1) - 2 * barrier * ew.diagonal()
    mixed = (w_u * weights) @ psi.T * ew
    hessian = (w_u * weights) @ w_u.T * ee + mixed + mixed.T + (psi * weights) @ psi.T * ww
    hessian = 2 * hessian + 2 * barrier * (ee * ww + ew * ew.T)
    gradient = dual_variables * gradient - barrier
    hessian = dual_variables[:, None] * hessian * dual_variables + barrier * one
    step = -torch.linalg.solve_ex(hessian, gradient).result
    return step, -float(gradient @ step)


def _line_search(
    problem: _Problem,
    point: _Point,
    weights: Tensor,
    barrier: float,
    step: Tensor,
    decrement: float,
) -> _Point | None:
    """Return the first point of a shrinking step that keeps M positive and descends."""
    if not decrement > 0:
        return None
    before = _objective(point, weights, barrier)
    length = min(1.0, 0.95 / max(float((-step).max()), 1e-30))
    for _ in range(15):
        candidate = _evaluate(problem, point.dual_variables * (1 + length * step))
        if candidate is not None:
            required = before - 0.1 * length * decrement
            if _objective(candidate, weights, barrier) <= required:
                return candidate
        length /= 2
    return None
