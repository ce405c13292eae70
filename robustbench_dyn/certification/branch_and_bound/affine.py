"""The affine maps of a small network between its activations, as matrices."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.network.graph import Affine, Network

# The matrices of a network may hold so many numbers all together, and those after sums as many.
_MOST_ENTRIES, _MOST_AFTER_SUMS = 20_000_000, 1_000_000


class Composition(NamedTuple):
    """Each affine output as a function of its sources: the input and the activations before it.

    maps[k][s]: (entries of k, entries of s); offsets[k]: (entries of k,). By the index of the
    output, for arguments of activations and for the logits; float64. after_sums[k][s]: likewise,
    the absolute values of the map from a sum s, such as one that closes a skip connection, to k;
    no s where these would be too large.
    """

    maps: dict[int, dict[int, Tensor]]
    offsets: dict[int, Tensor]
    after_sums: dict[int, dict[int, Tensor]]

    @property
    def n_entries(self) -> int:
        """How many numbers the maps have all together."""
        return sum(part.numel() for parts in self.maps.values() for part in parts.values())


def compose(network: Network) -> Composition | None:
    """Compose all affine maps between the activations; None where they would be too large.

    network: of float64.
    """
    last = len(network.nodes)
    wanted = {*network.preactivations, last}
    sizes = {k: math.prod(network.shape(k)) for k in range(last + 1)}
    sources = _sources(network)
    n_entries = sum(sizes[k] * sizes[s] for k in wanted for s in sources[k])
    if n_entries > _MOST_ENTRIES:
        return None
    maps: dict[int, dict[int, Tensor]] = {k: {} for k in wanted}
    for source in (0, *network.activations):
        for k, matrix in _maps_from(network, source, wanted).items():
            maps[k][source] = matrix
    after_sums: dict[int, dict[int, Tensor]] = {k: {} for k in wanted}
    sums = [s for s in network.sums if s not in wanted]
    if sum(sizes[k] * sizes[s] for s in sums for k in wanted if k > s) <= _MOST_AFTER_SUMS:
        for s in sums:
            for k, matrix in _maps_from(network, s, wanted).items():
                after_sums[k][s] = matrix.abs()
    zero = torch.zeros(1, *network.input_shape, dtype=network.dtype, device=network.device)
    outputs: list[Tensor] = [zero]
    for k, node in enumerate(network.nodes, start=1):
        if isinstance(node, Affine):
            value = node.linear(*(outputs[i] for i in node.inputs))
            outputs.append(value if node.bias is None else value + node.bias)
        else:
            outputs.append(zero.new_zeros(1, *network.shape(k)))
    offsets = {k: outputs[k][0].flatten() for k in wanted}
    return Composition(maps, offsets, after_sums)


def _maps_from(network: Network, source: int, wanted: set[int]) -> dict[int, Tensor]:
    """Return the linear maps from an output to those of the wanted ones that are affine in it."""
    shape = network.shape(source)
    n = math.prod(shape)
    units = torch.eye(n, dtype=network.dtype, device=network.device)
    columns = {source: units.view(n, *shape)}
    for k, node in enumerate(network.nodes[source:], start=source + 1):
        if not isinstance(node, Affine) or not any(i in columns for i in node.inputs):
            continue
        zeros = [units.new_zeros(n, *network.shape(i)) for i in node.inputs]
        inputs = [columns.get(i, z) for i, z in zip(node.inputs, zeros, strict=True)]
        columns[k] = node.linear(*inputs)
    return {k: columns[k].flatten(1).T.contiguous() for k in wanted & columns.keys() - {source}}


def _sources(network: Network) -> list[set[int]]:
    """Return, by output, the input and the activations that it is an affine function of."""
    sources: list[set[int]] = [{0}]
    for k, node in enumerate(network.nodes, start=1):
        if isinstance(node, Affine):
            sources.append(set().union(*(sources[i] for i in node.inputs)))
        else:
            sources.append({k})
    return sources
