"""Rows in groups of equal size, of which each has one example's bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Gives the part of one output's values that each group uses, (groups, entries), from those of all
# examples, (examples, *shape), and the output's index.
Pick = Callable[[Tensor, int], Tensor]
# Groups are filled up by rows that are there already: by this part of all rows, or by so few
# numbers that another chunk would cost more.
_FILLED, _FEW = 0.25, 100_000


def of_examples(owners: Tensor) -> Pick:
    """Return what gives each group the values of its example, owners[g]."""
    return lambda values, _: values.flatten(1).index_select(0, owners)


def grouped(keys: Tensor, row_numbers: int, chunk_numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of rows that are grouped by their keys: the groups' keys, and their rows.

    keys: (n,), at least 0. The chunk's keys are (groups,), in ascending order, and its rows
    (groups, rows), as indices into keys; a group that is smaller than others has its last row
    several times. row_numbers: how many numbers a row takes; chunk_numbers: how many a chunk may.
    """
    if not len(keys):
        return
    most = max(1, chunk_numbers // row_numbers)
    order = keys.argsort(stable=True)
    names, counts = torch.unique_consecutive(keys[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    pieces = [
        (min(most, count - done), name, start + done)
        for name, start, count in zip(names.tolist(), starts.tolist(), counts.tolist(), strict=True)
        for done in range(0, count, most)
    ]
    pieces.sort(key=lambda piece: -piece[0])
    while pieces:
        n_rows = pieces[0][0]
        n_groups = n_filled = 0
        while n_groups < min(len(pieces), max(1, most // n_rows)):
            n_filled += n_rows - pieces[n_groups][0]
            if n_filled > _FILLED * n_rows * (n_groups + 1) and n_filled * row_numbers > _FEW:
                break
            n_groups += 1
        chunk, pieces = sorted(pieces[:n_groups], key=lambda piece: piece[1]), pieces[n_groups:]
        sizes, chunk_keys, first = torch.tensor(chunk, device=keys.device).T
        place = torch.arange(n_rows, device=keys.device).minimum(sizes[:, None] - 1)
        yield chunk_keys, order[first[:, None] + place]
