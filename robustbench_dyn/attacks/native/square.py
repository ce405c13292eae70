"""Square, random search on the scores alone (Andriushchenko et al., arXiv 1912.00049).

Most proposals are rejected, so several successive ones are made from the same point and evaluated
in one batch; those after the first accepted one are dropped and made anew. Each proposal depends on
its number in the example's own random stream, so the outcome is that of one query at a time, in far
fewer and fuller batches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.batched_search import logits_of, margins_of
from robustbench_dyn.attacks.square_layout import from_squares, to_squares
from robustbench_dyn.random_streams import Streams

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem

_P_INIT = 0.8
# The share of pixels that a proposal changes is halved at these queries (section 4.1).
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# A batch is filled up to so many rows: on CPUs a smaller one costs hardly less.
_FULL = 64
_TINY = 1e-12
_START = -1  # the counter of the first point's draws
# At these shares of all queries progress is checked. From the second check on the search gives up
# where the margin is more than so many times the fall that remains if each doubling of the queries
# lowers it as the last one did. (It lowers it less: the squares shrink.)
_CHECKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_HOPELESS = 3.0
# The share of the examples that do not give up at the second check: hardly any did on three
# networks.
_GOING_ON = 0.03


def square(problem: AttackProblem, *, n_queries: int = 5000, gives_up: bool = True) -> Tensor:
    """Return the adversarial examples found, (n, C, H, W), and x where there is none.

    Lowers the margin z_y - max of the others, with up to n_queries queries. gives_up: an example
    whose margin falls far too slowly is left earlier. L2 and Linf.
    """
    squares = problem if problem.threat_model.norm == "Linf" else to_squares(problem)
    found = squares.x.clone()
    size = max(_FULL, problem.batch_size)
    for examples in torch.split(torch.arange(len(found), device=found.device), size):
        found[examples] = _search(squares.rows(examples), n_queries, gives_up=gives_up)
    return from_squares(found, problem.x.shape[1:])


def _search(problem: AttackProblem, n_queries: int, *, gives_up: bool) -> Tensor:
    found = problem.x.clone()
    proposals = _Proposals(problem)
    alive = torch.arange(len(found), device=found.device)
    x, y = problem.x, problem.y
    streams = Streams.of(x, y, problem.seed)
    best = proposals.first(x, streams)
    margin = margins_of(logits_of(problem, best), y)
    query, check = torch.zeros_like(y), torch.zeros_like(y)
    # Few queries have fewer checks.
    counts = sorted({math.ceil(share * n_queries) for share in _CHECKS})
    checks = torch.tensor(counts, device=y.device)
    margin_then = margin
    accepted = 1.0
    while True:
        fooled = margin < 0
        found[alive[fooled]] = best[fooled]
        checking = query == checks[check]
        still_to_fall = (margin_then - margin) * torch.log2(n_queries / checks[check])
        hopeless = checking & (check > 0) & (margin > _HOPELESS * still_to_fall) & gives_up
        margin_then = torch.where(checking, margin, margin_then)
        check = (check + checking.long()).clamp_max(len(checks) - 1)
        going = ~fooled & ~hopeless & (query < n_queries)
        if not going.all():
            alive, x, y, best, margin, query, check, margin_then = (
                t[going] for t in (alive, x, y, best, margin, query, check, margin_then)
            )
            streams = streams.select(going)
        if len(alive) == 0:
            return found
        problem.tell(float(_left(query, n_queries, gives_up=gives_up).sum()))
        # As many as are likely to be tried before one is accepted, and as a batch holds.
        ahead = max(1, min(int(0.5 / accepted), _FULL // len(alive)))
        number = query[:, None] + torch.arange(ahead, device=query.device)
        rows = torch.arange(len(alive), device=query.device).repeat_interleave(ahead)
        points = proposals.next(x[rows], best[rows], streams.select(rows), number.flatten())
        margins = margins_of(logits_of(problem, points), y[rows]).reshape(-1, ahead)
        # No further than to the next check, however many proposals fit into the batch.
        better = (margins < margin[:, None]) & (number < checks[check][:, None])
        first = better.float().argmax(dim=1)
        hit = better.any(dim=1)
        point = points.reshape(-1, ahead, *x.shape[1:])[torch.arange(len(alive)), first]
        best = torch.where(hit.reshape(-1, 1, 1, 1), point, best)
        margin = torch.where(hit, margins.gather(1, first[:, None]).squeeze(1), margin)
        queried = torch.where(hit, first + 1, (checks[check] - query).clamp_max(ahead))
        query = query + queried
        accepted += 0.05 * (float(hit.sum()) / float(queried.sum()) - accepted)
        accepted = max(accepted, 1e-3)


def expected_queries(n_queries: int, *, gives_up: bool) -> float:
    """Return how many queries an example takes on average that is not broken."""
    none = torch.zeros(1, dtype=torch.int64)
    return float(_left(none, n_queries, gives_up=gives_up))


def _left(query: Tensor, n_queries: int, *, gives_up: bool) -> Tensor:
    """Return how many queries are expected after so many, (rows,)."""
    left = (n_queries - query).double()
    check = math.ceil(_CHECKS[1] * n_queries)
    early = check - query + _GOING_ON * (n_queries - check)
    return torch.where(query < check, early, left) if gives_up else left


class _Proposals:
    """The distribution of proposals of one norm and shape of image."""

    def __init__(self, problem: AttackProblem) -> None:
        self.norm, self.eps = problem.threat_model.norm, problem.threat_model.eps
        self.channels, self.height, self.width = problem.x.shape[1:]
        device = problem.x.device
        self.down = torch.arange(self.height, device=device)
        self.right = torch.arange(self.width, device=device)
        n_stages = len(_HALVED_AT) + 1
        self.halved_at = torch.tensor(_HALVED_AT, device=device)
        sides = [self._side(stage) for stage in range(n_stages)]
        self.sides = torch.tensor(sides, device=device)
        self.tiles = torch.zeros(n_stages, self.height, self.width, device=device)
        self.turned = self.tiles.clone()
        for stage, side in enumerate(sides):
            self.tiles[stage, :side, :side] = _tile(side)
            self.turned[stage, :side, :side] = _tile(side).T

    def _side(self, stage: int) -> int:
        """Return the side of the square at a stage: its area is the share p of the image."""
        area = _P_INIT / 2**stage * self.height * self.width
        side = max(1, round(math.sqrt(area)))
        if self.norm == "L2":
            # Odd and at least 3: a tile needs a middle.
            side = max(3, side)
            side += side % 2 == 0
        return min(side, self.height, self.width)

    def first(self, x: Tensor, streams: Streams) -> Tensor:
        """Return the first points: vertical stripes (Linf), a grid of tiles (L2)."""
        rows = len(x)
        if self.norm == "Linf":
            stripes = streams.signs(_START, self.channels, 1, self.width)
            return (x + self.eps * stripes).clamp(0, 1)
        side = max(1, min(self.height, self.width) // 5)
        down, right = self.height // side, self.width // side
        signs = streams.signs(_START, self.channels, down, 1, right, 1)
        tile = _tile(side).to(x.device).reshape(1, 1, 1, side, 1, side)
        grid = (signs * tile).reshape(rows, self.channels, down * side, right * side)
        delta = torch.zeros_like(x)
        top, left = (self.height - down * side) // 2, (self.width - right * side) // 2
        delta[:, :, top : top + down * side, left : left + right * side] = grid
        return self._onto_sphere(x, delta)

    def next(self, x: Tensor, best: Tensor, streams: Streams, number: Tensor) -> Tensor:
        """Return proposal `number` (rows,) of each row, from its best point so far."""
        stage = torch.bucketize(number, self.halved_at)
        side = self.sides[stage]
        # Draws of one proposal have counters of their own.
        draw = number * 8
        inside, rows_at, columns_at = self._window(streams, draw, side)
        signs = streams.signs(draw + 2, self.channels, 1, 1)
        if self.norm == "Linf":
            moved = torch.where(inside, best + 2 * self.eps * signs, best)
            return torch.minimum(torch.maximum(moved, x - self.eps), x + self.eps).clamp(0, 1)
        other, _, _ = self._window(streams, draw + 3, side)
        tile = self.tiles[stage[:, None, None], rows_at[:, :, None], columns_at[:, None, :]]
        flipped = (streams.uniform(draw + 5) < 0.5).reshape(-1, 1, 1)
        turned = self.turned[stage[:, None, None], rows_at[:, :, None], columns_at[:, None, :]]
        tile = torch.where(flipped, turned, tile)[:, None]
        delta = best - x
        unused = (self.eps**2 - delta.square().sum(dim=(1, 2, 3), keepdim=True)).clamp_min(0)
        here = delta * inside
        budget = _norm_each(delta * (inside | other)).square() + unused / self.channels
        new = signs * tile * inside + here / _norm_each(here).clamp_min(_TINY)
        new = new / _norm_each(new).clamp_min(_TINY) * budget.sqrt()
        return self._onto_sphere(x, torch.where(inside, new, delta * ~other))

    def _window(
        self, streams: Streams, draw: Tensor, side: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Place a square: its mask (rows, 1, H, W), and each pixel's place in it."""
        top = streams.integers(draw, self.height - side + 1)
        left = streams.integers(draw + 1, self.width - side + 1)
        down, right = self.down - top[:, None], self.right - left[:, None]
        in_rows = (down >= 0) & (down < side[:, None])
        in_columns = (right >= 0) & (right < side[:, None])
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        return inside, down.clamp(0, self.height - 1), right.clamp(0, self.width - 1)

    def _onto_sphere(self, x: Tensor, delta: Tensor) -> Tensor:
        norm = delta.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(_TINY)
        return (x + delta * (self.eps / norm)).clamp(0, 1)


def _tile(side: int) -> Tensor:
    """Return eta of arXiv 1912.00049, section 4.2: two halves of opposite sign, of norm 1."""
    half = max(1, side // 2)
    halves = [_half_tile(half, side)] + ([-_half_tile(side - half, side)] if side > half else [])
    tile = torch.cat(halves)
    normalised: Tensor = tile / tile.norm()
    return normalised


def _half_tile(height: int, width: int) -> Tensor:
    """Return sum_{k=d}^n 1 / (k + 1)^2, d the distance from the middle, n half the longer side."""
    n = max(height, width) // 2
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    terms = 1.0 / torch.arange(1, n + 2).square()
    sums = terms.flip(0).cumsum(0).flip(0)
    return sums[torch.maximum(rows[:, None], columns[None, :])]


def _norm_each(x: Tensor) -> Tensor:
    """Return the L2 norm of each channel, (rows, C, 1, 1)."""
    return x.square().sum(dim=(2, 3), keepdim=True).sqrt()
