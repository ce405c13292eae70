"""Windows: the parts of a network that a few entries of one output depend on.

A neuron of an early convolution sees a small part of the image. Its bound by back-substitution
needs the coefficients of this part alone, and all neurons at the same place share the part, and the
matrices that lead to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.groups import Pick
from robustbench_dyn.certification.network.graph import Affine, Network

# Windows pay where they hold at most this part of the numbers, and where a row takes at most this
# many products for each number of the whole network.
_WORTH, _MOST_PRODUCTS = 0.5, 20
# The most numbers in the matrix of one node, in the matrices of all windows of one output, and in
# what its entries depend on.
_MOST_ENTRIES, _MOST_NUMBERS, _MOST_PATTERNS = 16_000_000, 16_000_000, 64_000_000


@dataclass(frozen=True)
class Windows:
    """The windows of output k, each a few of its entries and all that they depend on.

    of_entry, place: (entries of k,), an entry's window, and where it is there. indices: by output,
    (windows, size), the entries that are in each window; a smaller window has others, too, on which
    nothing depends. nodes: by output, the parts of affine nodes.
    """

    whole: Network
    of_entry: Tensor
    place: Tensor
    indices: Mapping[int, Tensor]
    nodes: Mapping[int, _WindowNode]

    @property
    def n_numbers(self) -> int:
        """How many numbers a window has, all outputs together."""
        return sum(part.shape[1] for part in self.indices.values())

    def size(self, k: int) -> int:
        """Return how many entries of output k a window has."""
        return self.indices[k].shape[1]

    def pick(self, owners: Tensor, windows: Tensor) -> Pick:
        """Return what gives each group its window of its example."""

        def window(values: Tensor, i: int) -> Tensor:
            values = values.flatten(1)
            places = self.indices[i][windows] + (owners * values.shape[1])[:, None]
            return values.flatten().index_select(0, places.flatten()).view(places.shape)

        return window

    def network(self, windows: Tensor) -> Network:
        """Return the network of groups with these windows, in ascending order."""
        names, counts = torch.unique_consecutive(windows, return_counts=True)
        segments = list(zip(names.tolist(), counts.tolist(), strict=True))
        nodes = list(self.whole.nodes)
        for i, part in self.nodes.items():
            node = nodes[i - 1]
            assert isinstance(node, Affine)
            nodes[i - 1] = replace(
                node,
                shape=(self.size(i),),
                adjoint=_Adjoint(part.matrices, segments),
                bias=None if part.bias is None else part.bias[windows],
                # The matrices may be rounded, and so are products with them.
                fan_out=node.adjoint_units + part.fan_out,
            )
        return replace(self.whole, nodes=tuple(nodes))


class _WindowNode(NamedTuple):
    """The parts of an affine node that the windows hold.

    matrices: of its adjoint, one a source, (windows, size of the output, size of the source). bias:
    (windows, size of the output). fan_out: how many outputs one input adds to.
    """

    matrices: Sequence[Tensor]
    bias: Tensor | None
    fan_out: int


class WindowsOfOutputs:
    """The windows of each output of a network, found when they are first needed."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._found: dict[int, Windows | None] = {}

    @torch.no_grad()
    def of(self, k: int) -> Windows | None:
        """Return the windows of output k; None where they would not pay."""
        if k not in self._found:
            self._found[k] = windows(self._network, k)
        return self._found[k]


@dataclass(frozen=True)
class _Adjoint:
    """Rows of groups, in the order of their windows, times each window's matrices."""

    matrices: Sequence[Tensor]
    segments: Sequence[tuple[int, int]]

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return coefficients on each source."""
        n_rows = len(rows) // sum(count for _, count in self.segments)
        found = tuple(rows.new_empty(len(rows), matrix.shape[2]) for matrix in self.matrices)
        first = 0
        for window, count in self.segments:
            part = slice(first, first + count * n_rows)
            for matrix, out in zip(self.matrices, found, strict=True):
                torch.mm(rows[part], matrix[window], out=out[part])
            first = part.stop
        return found


def windows(network: Network, k: int) -> Windows | None:
    """Return the windows of output k; None where the whole network is about as cheap."""
    sizes = {i: math.prod(network.shape(i)) for i in network.ancestors(k)}
    affine = {i: node for i in sizes if i and isinstance(node := network.nodes[i - 1], Affine)}
    total, middle = sum(sizes.values()), sizes[k] // 2
    largest = max(
        (sizes[i] * sizes[j] for i, node in affine.items() for j in node.inputs), default=0
    )
    if largest > _MOST_ENTRIES or sizes[k] * total > _MOST_PATTERNS:
        return None
    one = _seen(network, k, torch.tensor([middle], device=network.device))
    if sum(int(part.sum()) for part in one.values()) > _WORTH * total:
        return None
    seen = _seen(network, k, torch.arange(sizes[k], device=network.device))
    # Entries that see the same inputs share a window: different sets have different sums.
    code = torch.rand(sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, of_entry = torch.unique(seen[0].double() @ code.to(network.device), return_inverse=True)
    n_windows = int(of_entry.max()) + 1
    needed = {
        i: part.new_zeros(n_windows, sizes[i]).index_add_(0, of_entry, part) > 0
        for i, part in seen.items()
    }
    counts = {i: int(part.sum(dim=1).max()) for i, part in needed.items()}
    n_products = sum(counts[i] * counts[j] for i, node in affine.items() for j in node.inputs)
    if (
        sum(counts.values()) > _WORTH * total
        or n_products > _MOST_PRODUCTS * total
        or n_windows * n_products > _MOST_NUMBERS
    ):
        return None
    # The entries that are needed come first, in their own order.
    indices = {
        i: (~part).to(torch.uint8).argsort(dim=1, stable=True)[:, : counts[i]]
        for i, part in needed.items()
    }
    nodes = {}
    for i, node in affine.items():
        part = _window_node(network, node, i, indices, needed)
        if part is None:
            return None
        nodes[i] = part
    places = (needed[k].cumsum(dim=1) - 1).gather(0, of_entry[None])[0]
    return Windows(network, of_entry, places, indices, nodes)


def _seen(network: Network, k: int, entries: Tensor) -> dict[int, Tensor]:
    """Return which entries of each output some of output k depend on, 1 or 0, (entries, size).

    Dependences that cancel for all numbers below are missed.
    """
    units = torch.zeros(len(entries), math.prod(network.shape(k)), dtype=network.dtype)
    waiting = {k: units.to(network.device).scatter_(1, entries[:, None], 1.0)}
    seen = {}
    for i in range(k, 0, -1):
        if i not in waiting:
            continue
        seen[i] = row = waiting.pop(i)
        node = network.nodes[i - 1]
        parts: tuple[Tensor, ...] = (row,)
        if isinstance(node, Affine):
            varied = row * torch.linspace(1, 2, row.shape[1]).to(row)
            parts = node.adjoint(varied.view(len(row), *node.shape))
        for source, part in zip(node.inputs, parts, strict=True):
            found = (part.flatten(1) != 0).to(row)
            waiting[source] = found.maximum(waiting[source]) if source in waiting else found
    if 0 in waiting:
        seen[0] = waiting[0]
    return seen


def _window_node(
    network: Network,
    node: Affine,
    i: int,
    indices: Mapping[int, Tensor],
    needed: Mapping[int, Tensor],
) -> _WindowNode | None:
    """Return the part of an affine node, of output i, that each window holds.

    None where an entry depends on others than its window has.
    """
    units = torch.eye(math.prod(node.shape), dtype=network.dtype, device=network.device)
    # Windows that are smaller than others have rows that are not needed.
    rows = needed[i].gather(1, indices[i])
    parts, fan_out = [], 0
    for j, found in zip(
        node.inputs, node.adjoint(units.view(len(units), *node.shape)), strict=True
    ):
        matrix = found.flatten(1)
        nonzero = matrix != 0
        parts.append(
            torch.stack(
                [
                    matrix.index_select(0, some).index_select(1, others)
                    for some, others in zip(indices[i], indices[j], strict=True)
                ]
            )
        )
        held = ((parts[-1] != 0).sum(dim=2) * rows).sum(dim=1)
        if (held != needed[i].double() @ nonzero.sum(dim=1).double()).any():
            return None
        fan_out = max(fan_out, int(nonzero.sum(dim=0).max()))
    bias = None
    if node.bias is not None:
        bias = node.bias.expand(1, *node.shape).flatten()[indices[i]]
    return _WindowNode(parts, bias, fan_out)
