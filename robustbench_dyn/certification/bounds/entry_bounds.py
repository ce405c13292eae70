"""Bounds of single entries of an output, by back-substitution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LinearBounds
from robustbench_dyn.certification.bounds.back_substitution import (
    CHUNK,
    back_substitute,
    concretise,
)
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.groups import grouped, of_examples
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.bounds.windows import Windows
from robustbench_dyn.certification.network.graph import Network


def unit_rows(entries: Tensor, signs: Tensor, n: int) -> Tensor:
    """Return rows of n numbers that are 0 but for the sign at the entry, (*entries.shape, n)."""
    rows = signs.new_zeros(*entries.shape, n)
    return rows.scatter_(-1, entries[..., None], signs[..., None])


def entry_bounds(
    network: Network,
    ball: Ball,
    bounds: Bounds,
    k: int,
    owners: Tensor,
    entries: Tensor,
    signs: Tensor,
    linear_bounds: Mapping[int, LinearBounds],
    *,
    windows: Windows | None = None,
    rounded: bool = True,
) -> Tensor:
    """Return lower bounds of signs[i] times an entry of output k, (n,), float64.

    owners, entries: (n,), the example and the entry; signs: (n,), 1 or -1, of the network's dtype.
    They are bounds of what the model computes, unless `rounded` is false: see `back_substitute`.
    windows: of the network's output k, where it has any.
    """
    found = bounds.lower[k].new_zeros(len(owners), dtype=torch.float64)
    n, keys = len(ball.centre), owners
    n_entries, row_numbers = bounds.lower[k][0].numel(), network.numbers_up_to(k)
    if windows is not None:
        keys = owners + n * windows.of_entry[entries]
        entries, n_entries, row_numbers = windows.place[entries], windows.size(k), windows.n_numbers
    for groups, rows in grouped(keys, row_numbers, CHUNK):
        units = unit_rows(entries[rows], signs[rows], n_entries)
        pick, local = of_examples(groups), network
        if windows is not None:
            pick, local = windows.pick(groups % n, groups // n), windows.network(groups // n)
        bound = back_substitute(local, bounds, k, units, pick, linear_bounds, rounded=rounded)
        value = concretise(bound, ball, bounds, pick)
        found[rows] = value - bound.rounding if rounded else value
    return found
