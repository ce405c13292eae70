"""The subdomains that are left to be bounded, those with the least bounds first."""

from __future__ import annotations

import heapq
import itertools

import torch

from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains

# Beyond so many bytes, subdomains that are nearly proved come first, so that fewer are left.
_MOST_BYTES = 1_500_000_000


class Pool:
    """A queue of subdomains by the least bound that was reached of them or their parents."""

    def __init__(self, first: Subdomains) -> None:
        self._queue = list[tuple[float, int, Subdomains]]()
        self._counter = itertools.count()
        self._most = _MOST_BYTES // first.n_bytes
        self.unproved = torch.zeros_like(first.unproved[0], dtype=torch.long)
        self.push(first)

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, domains: Subdomains) -> None:
        """Add subdomains."""
        self.unproved += domains.unproved.sum(dim=0)
        for row, least in enumerate(domains.least.tolist()):
            # A copy, since a view would keep all others.
            one = Subdomains(*(part[row : row + 1].clone() for part in domains))
            heapq.heappush(self._queue, (least, next(self._counter), one))

    def pop(self, n_rows: int) -> Subdomains:
        """Take subdomains with about so many unproved margins all together."""
        crowded = len(self._queue) > self._most
        if crowded:
            # A sorted list is a heap, and stays one without its last elements.
            self._queue.sort()
        taken, n = list[Subdomains](), 0
        while self._queue and (not taken or n < n_rows):
            _, _, one = self._queue.pop() if crowded else heapq.heappop(self._queue)
            taken.append(one)
            n += int(one.unproved.sum())
        domains = Subdomains.joined(taken)
        self.unproved -= domains.unproved.sum(dim=0)
        return domains
