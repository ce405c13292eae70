"""The subdomains that are left to be bounded, those with the least bounds first."""

from __future__ import annotations

import heapq
from collections import defaultdict

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains


class Pool:
    """A queue of subdomains by the least bound that was reached of them or their parents."""

    def __init__(self, first: Subdomains) -> None:
        self._parts = dict[int, Subdomains]()
        self._left = dict[int, int]()
        self._queue = list[tuple[float, int, int, int]]()
        self._n_parts = 0
        self.unproved = torch.zeros_like(first.unproved[0], dtype=torch.long)
        self.push(first)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def least(self) -> float:
        """The least bound."""
        return self._queue[0][0] if self._queue else torch.inf

    def push(self, domains: Subdomains) -> None:
        """Add subdomains."""
        if not len(domains):
            return
        key, self._n_parts = self._n_parts, self._n_parts + 1
        self._parts[key], self._left[key] = domains, len(domains)
        self.unproved += domains.unproved.sum(dim=0)
        n_rows = domains.unproved.sum(dim=1).tolist()
        for row, (least, n) in enumerate(zip(domains.least.tolist(), n_rows, strict=True)):
            heapq.heappush(self._queue, (least, key, row, n))

    def pop(self, n_rows: int) -> Subdomains:
        """Take subdomains with about so many unproved margins all together."""
        taken, n = defaultdict[int, list[int]](list), 0
        while self._queue and (not taken or n < n_rows):
            _, key, row, m = heapq.heappop(self._queue)
            taken[key].append(row)
            n += m
        found = [self._parts[key].at(torch.tensor(rows)) for key, rows in taken.items()]
        for key, rows in taken.items():
            self._left[key] -= len(rows)
            if not self._left[key]:
                del self._parts[key], self._left[key]
        domains = Subdomains.joined(found)
        self.unproved -= domains.unproved.sum(dim=0)
        return domains
