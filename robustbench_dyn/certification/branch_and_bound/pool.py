"""The subdomains that are left to be bounded, of each example those with the least bounds first."""

from __future__ import annotations

import heapq
import itertools

import torch

from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains

# Beyond so many bytes, subdomains that are nearly proved come first, so that fewer are left.
_MOST_BYTES = 1_500_000_000


class Pool:
    """Queues of subdomains, one for each example, by the least bound of them or their parents.

    unproved: (examples, margins), how many of the example's subdomains have the margin unproved.
    """

    def __init__(
        self, n_examples: int, n_margins: int, *, device: torch.device | None = None
    ) -> None:
        self.unproved = torch.zeros(n_examples, n_margins, dtype=torch.long, device=device)
        # By example: the least bound, the order of arrival, the row of the store, and how many
        # margins are unproved.
        self._queues = [list[tuple[float, int, int, int]]() for _ in range(n_examples)]
        self._counter = itertools.count()
        self._store: Subdomains | None = None
        self._free = list[int]()

    def n_waiting(self, example: int) -> int:
        """Return how many subdomains of an example there are."""
        return len(self._queues[example])

    @property
    def is_full(self) -> bool:
        """Whether there are more subdomains than memory should hold."""
        return self._store is not None and len(self._store) - len(self._free) > self._most

    @property
    def _most(self) -> int:
        assert self._store is not None
        return _MOST_BYTES // self._store.n_bytes

    def push(self, domains: Subdomains) -> None:
        """Add subdomains."""
        if not len(domains):
            return
        self.unproved.index_add_(0, domains.example, domains.unproved.long())
        rows = self._put(domains)
        columns = (domains.example, domains.least, domains.unproved.sum(dim=1))
        for row, example, least, n in zip(rows, *(c.tolist() for c in columns), strict=True):
            heapq.heappush(self._queues[example], (least, next(self._counter), row, n))

    def pop(self, examples: list[int], n_rows: int) -> Subdomains:
        """Take subdomains of some examples, of each with about so many unproved margins."""
        assert self._store is not None
        rows = [row for example in examples for row in self._next(example, n_rows)]
        domains = self._store.at(torch.tensor(rows))
        self._free += rows
        self.unproved.index_add_(0, domains.example, -domains.unproved.long())
        return domains

    def drop(self, example: int) -> None:
        """Leave out what is left of an example."""
        self._free += [row for _, _, row, _ in self._queues[example]]
        self._queues[example].clear()

    def _next(self, example: int, n_rows: int) -> list[int]:
        queue = self._queues[example]
        crowded = len(queue) > self._most
        if crowded:
            # A sorted list is a heap, and stays one without its last elements.
            queue.sort()
        taken, n = list[int](), 0
        while queue and (not taken or n < n_rows):
            _, _, row, n_unproved = queue.pop() if crowded else heapq.heappop(queue)
            taken.append(row)
            n += n_unproved
        return taken

    def _put(self, domains: Subdomains) -> list[int]:
        """Copy subdomains into the store, and return their rows in it."""
        missing = len(domains) - len(self._free)
        if self._store is None:
            # A copy, since its rows are written over.
            self._store = Subdomains(*(part.clone() for part in domains))
            return list(range(len(domains)))
        if missing > 0:
            n = len(self._store)
            more = max(missing, n // 2)
            parts = (torch.cat([p, p.new_empty(more, *p.shape[1:])]) for p in self._store)
            self._store = Subdomains(*parts)
            self._free += range(n, n + more)
        rows = [self._free.pop() for _ in range(len(domains))]
        where = torch.tensor(rows)
        for part, new in zip(self._store, domains, strict=True):
            part[where] = new
        return rows
