"""The affine maps of a small network between its activations, as matrices."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.network.graph import Affine, Network


class Composition(NamedTuple):
    """Each affine output as a function of its sources: the input and the activations before it.

    maps[k][s]: (entries of k, entries of s); offsets[k]: (entries of k,). By the index of the
    output; float64.
    """

    maps: dict[int, dict[int, Tensor]]
    offsets: dict[int, Tensor]


def compose(network: Network) -> Composition:
    """Compose all affine maps between the activations; network: of float64, on the CPU."""
    zero = torch.zeros(1, *network.input_shape, dtype=network.dtype)
    maps: dict[int, dict[int, Tensor]] = {}
    for source in (0, *network.activations):
        shape = network.shape(source)
        units = torch.eye(math.prod(shape), dtype=network.dtype).view(-1, *shape)
        columns = {source: units}
        for k, node in enumerate(network.nodes[source:], start=source + 1):
            if not isinstance(node, Affine) or not any(i in columns for i in node.inputs):
                continue
            zeros = [zero.new_zeros(len(units), *network.shape(i)) for i in node.inputs]
            inputs = [columns.get(i, z) for i, z in zip(node.inputs, zeros, strict=True)]
            columns[k] = node.linear(*inputs)
        for k, column in columns.items():
            maps.setdefault(k, {})[source] = column.flatten(1).T.contiguous()
    outputs: list[Tensor] = [zero]
    for k, node in enumerate(network.nodes, start=1):
        if isinstance(node, Affine):
            value = node.linear(*(outputs[i] for i in node.inputs))
            outputs.append(value if node.bias is None else value + node.bias)
        else:
            outputs.append(zero.new_zeros(1, *network.shape(k)))
    return Composition(maps, {k: value[0].flatten() for k, value in enumerate(outputs)})
