"""A small piecewise-linear network over one ball as a mixed-integer linear program."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds as VariableBounds
from scipy.optimize import LinearConstraint, milp
from torch import Tensor

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.balls import Ball
from robustbench_dyn.certification.bounds import Bounds
from robustbench_dyn.certification.branching import (
    Answer,
    Array,
    LinearProgram,
    Places,
    prove_above,
)
from robustbench_dyn.certification.network import Affine, Network, Pointwise


class Composition(NamedTuple):
    """Each affine value as a function of its sources: the input and the activations before it.

    maps[k][s]: (entries of k, entries of s); offsets[k]: (entries of k,). By value.
    """

    maps: dict[int, dict[int, Array]]
    offsets: dict[int, Array]


def compose(network: Network) -> Composition:
    """Compose all affine maps between the activations; network: of float64."""
    zero = torch.zeros(1, *network.input_shape, dtype=network.dtype)
    maps: dict[int, dict[int, Array]] = {}
    for source in (0, *network.activations):
        shape = network.shape(source)
        units = torch.eye(int(np.prod(shape)), dtype=network.dtype).view(-1, *shape)
        columns = {source: units}
        for k, node in enumerate(network.nodes[source:], start=source + 1):
            if not isinstance(node, Affine) or not any(i in columns for i in node.inputs):
                continue
            nothing = [zero.new_zeros(len(units), *network.shape(i)) for i in node.inputs]
            inputs = [columns.get(i, z) for i, z in zip(node.inputs, nothing, strict=True)]
            columns[k] = node.linear(*inputs)
        for k, column in columns.items():
            maps.setdefault(k, {})[source] = column.flatten(1).T.numpy()
    values: list[Tensor] = [zero]
    for k, node in enumerate(network.nodes, start=1):
        if isinstance(node, Affine):
            value = node.linear(*(values[i] for i in node.inputs))
            values.append(value if node.bias is None else value + node.bias)
        else:
            values.append(zero.new_zeros(1, *network.shape(k)))
    return Composition(maps, {k: value[0].flatten().numpy() for k, value in enumerate(values)})


class Minimum(NamedTuple):
    """above: what HiGHS takes for a lower bound, -inf where it has none; x: the best point found.

    No proof: see branching.
    """

    above: float
    below: float
    x: Array | None


class Program:
    """The network's graph over the ball of one example.

    A neuron whose sign is open has a binary variable, 1 where it is active; its big-M constants
    are the bounds of its argument (Tjeng et al., arXiv 1711.07356, Section 4.1).
    """

    def __init__(
        self, network: Network, composition: Composition, bounds: Bounds, ball: Ball, example: int
    ) -> None:
        def of_example(values: list[Tensor], k: int) -> Array:
            return cast(Array, values[k][example].flatten().numpy())

        self.composition = composition
        self.lows, self.highs, self.whole = list[Array](), list[Array](), list[Array]()
        self.n = 0
        self._rows, self._sides = list[sparse.spmatrix](), list[tuple[Array, Array]]()
        low, high = ball.lower[example].numpy(), ball.upper[example].numpy()
        self.places = {0: self._variables(low, high)}
        neurons = []
        for k in network.activations:
            node = network.nodes[k - 1]
            assert isinstance(node, Pointwise)
            assert isinstance(node.activation, LeakyReLU)
            (i,) = node.inputs
            self.places[k] = self._variables(
                of_example(bounds.lower, k), of_example(bounds.upper, k)
            )
            arguments = of_example(bounds.lower, i), of_example(bounds.upper, i)
            neurons.append((k, i, node.activation.a, *arguments))
        binaries, relaxed = [], list[Array]()
        for _, _, a, lower, upper in neurons:
            unstable = np.flatnonzero((lower < 0) & (upper > 0) & (a < 1))
            ones = np.ones(len(unstable))
            binaries.append((unstable, self._variables(0 * ones, ones, whole=True)))
            # How far above the graph a relaxed neuron may be.
            down, up = -lower[unstable], upper[unstable]
            relaxed.append((1 - a) * up * down / (up + down))
        self.relaxed = np.concatenate(relaxed) if relaxed else np.zeros(0)
        moves = self._variables(0 * low, high - low) if ball.norm == "L1" else None
        for neuron, (unstable, place) in zip(neurons, binaries, strict=True):
            self._add_neurons(*neuron, unstable, place)
        if moves is not None:
            self._add_budget(moves, ball.centre[example].numpy(), ball.eps)
        self._constraints = self._assemble()

    def minimise(self, value: int, row: Array, *, seconds: float) -> Minimum:
        """Minimise <row, value> until its sign is known, or for so many seconds."""
        program = self._program(value, row)
        # HiGHS measures its gap by the objective, of which the constant has to be part: a variable
        # that is 1.
        matrix = sparse.vstack([program.at_most, program.equal])
        matrix = sparse.hstack([matrix, sparse.csr_matrix((matrix.shape[0], 1))]).tocsr()
        low = np.concatenate([np.full(len(program.sides), -np.inf), program.values])
        high = np.concatenate([program.sides, program.values])
        found = milp(
            np.append(program.cost, program.constant),
            integrality=np.concatenate([*self.whole, [0.0]]),
            bounds=VariableBounds(
                np.concatenate([*self.lows, [1.0]]), np.concatenate([*self.highs, [1.0]])
            ),
            constraints=LinearConstraint(matrix, low, high),
            # Within this share of the value, both bounds have one sign.
            options={"time_limit": max(seconds, 0.01), "mip_rel_gap": 0.99},
        )
        # A program without open signs is linear: solved, its value is its bound.
        bound = found.mip_dual_bound
        if bound is None and found.status == 0:
            bound = found.fun
        above = -np.inf if bound is None else float(bound)
        if found.x is None:
            return Minimum(above, np.inf, None)
        return Minimum(above, float(found.fun), self._input(found.x))

    def prove_above(self, value: int, row: Array, threshold: float, *, seconds: float) -> Answer:
        """Prove that <row, value> exceeds the threshold on all of the ball, or find an input."""
        places = np.flatnonzero(np.concatenate(self.whole))
        answer = prove_above(
            self._program(value, row), np.concatenate(self.lows), np.concatenate(self.highs),
            places, self.relaxed, threshold, seconds=seconds,
        )  # fmt: skip
        return answer if answer.x is None else answer._replace(x=self._input(answer.x))

    def _input(self, x: Array) -> Array:
        return x[self.places[0] : self.places[0] + len(self.lows[0])]

    def _program(self, value: int, row: Array) -> LinearProgram:
        cost = np.zeros(self.n)
        for source, matrix in self.composition.maps[value].items():
            start = self.places[source]
            cost[start : start + matrix.shape[1]] += row @ matrix
        constant = float(row @ self.composition.offsets[value])
        return self._constraints._replace(cost=cost, constant=constant)

    def _assemble(self) -> LinearProgram:
        """Return the constraints, below a cost of nothing."""
        matrix = sparse.vstack([*self._rows, sparse.csr_matrix((0, self.n))]).tocsr()
        nothing = (np.zeros(0), np.zeros(0))
        low, high = (np.concatenate(part) for part in zip(*self._sides, nothing, strict=True))
        equal = low == high
        above, below = np.isfinite(low) & ~equal, np.isfinite(high) & ~equal
        return LinearProgram(
            cost=np.zeros(self.n), constant=0.0,
            at_most=sparse.vstack([matrix[below], -matrix[above]]).tocsr(),
            sides=np.concatenate([high[below], -low[above]]),
            equal=matrix[equal], values=low[equal],
        )  # fmt: skip

    def _variables(self, low: Array, high: Array, *, whole: bool = False) -> int:
        """Add variables between low and high; return the place of the first."""
        self.lows.append(low)
        self.highs.append(np.maximum(high, low))
        self.whole.append(np.full(len(low), float(whole)))
        self.n += len(low)
        return self.n - len(low)

    def _constrain(self, matrix: sparse.spmatrix, low: Array, high: Array) -> None:
        self._rows.append(matrix.tocsr())
        self._sides.append((low, high))

    def _argument(self, i: int, entries: Places) -> tuple[sparse.spmatrix, Array]:
        """Return the matrix and the offset that give some entries of an affine value."""
        matrix = np.zeros((len(entries), self.n))
        for source, block in self.composition.maps[i].items():
            start = self.places[source]
            matrix[:, start : start + block.shape[1]] += block[entries]
        return sparse.csr_matrix(matrix), self.composition.offsets[i][entries]

    def _add_neurons(
        self, k: int, i: int, a: float, lower: Array, upper: Array, unstable: Places, place: int
    ) -> None:
        stable = np.setdiff1d(np.arange(len(lower)), unstable)
        if len(stable):
            z, offset = self._argument(i, stable)
            slopes = np.where(lower >= 0, 1.0, a)[stable]
            y = self._units(self.places[k] + stable)
            self._constrain(y - sparse.diags(slopes) @ z, slopes * offset, slopes * offset)
        if len(unstable):
            z, offset = self._argument(i, unstable)
            y = self._units(self.places[k] + unstable)
            b = self._units(place + np.arange(len(unstable)))
            low, high = (1 - a) * lower[unstable], (1 - a) * upper[unstable]
            free = np.full(len(unstable), np.inf)
            self._constrain(y - z, offset, free)
            self._constrain(y - a * z, a * offset, free)
            # y <= z - (1 - a) l (1 - b) and y <= a z + (1 - a) u b
            self._constrain(y - z - sparse.diags(low) @ b, -free, offset - low)
            self._constrain(y - a * z - sparse.diags(high) @ b, -free, a * offset)

    def _add_budget(self, moves: int, centre: Array, eps: float) -> None:
        places = np.arange(len(centre))
        x, move = self._units(self.places[0] + places), self._units(moves + places)
        free = np.full(len(centre), np.inf)
        self._constrain(x - move, -free, centre)
        self._constrain(x + move, centre, free)
        total = sparse.csr_matrix(move.sum(axis=0))
        self._constrain(total, np.array([-np.inf]), np.array([eps]))

    def _units(self, columns: Places) -> sparse.spmatrix:
        n = len(columns)
        return sparse.csr_matrix((np.ones(n), (np.arange(n), columns)), shape=(n, self.n))
