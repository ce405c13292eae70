"""Branch and bound over the signs of neurons.

Each part of the ball, where some neurons are known to be active or not, is bounded by a relaxation
with slopes of its own and a multiplier for each known sign (beta-CROWN, Wang et al., arXiv
2103.06624). With all signs known that is the Lagrangian dual of a convex program, whose maximum is
its minimum: the search is complete. In L2 the maximum is reached by ascent, and in Linf and L1 by
the multipliers of a linear program. Whatever they are, what they prove is true.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.branch_and_bound.affine import Composition
from robustbench_dyn.certification.branch_and_bound.leaf_lp import solve
from robustbench_dyn.certification.network.graph import Network, Pointwise

_UNIT = 2.0**-53
# Parts that are bounded at a time; steps of ascent for each, and where all signs are known.
_PARTS, _STEPS, _LAST_STEPS = 64, 20, 400
_RATE = 0.1


class Answer(NamedTuple):
    """proved: it is so. Else x, (inputs,), speaks against it; None: the time ran out."""

    proved: bool
    x: Tensor | None


class Layer(NamedTuple):
    """The neurons of one activation: y = max(z, a z), z = sum of maps[s] y_s + offset.

    maps: from each source, the input (0) or an earlier activation, (neurons, entries of s).
    sizes: (neurons,), at least the sum of the absolute values of the terms of z. place: where they
    stand among the neurons of all layers.
    """

    value: int
    place: slice
    maps: dict[int, Tensor]
    offset: Tensor
    a: float
    lower: Tensor
    upper: Tensor
    sizes: Tensor

    def slopes(self, signs: Tensor) -> Tensor:
        """Return the slopes of neurons of known signs, or stable ones; signs: of all neurons."""
        active = (self.lower >= 0) | (signs[..., self.place] > 0)
        return torch.where(active, 1.0, self.a)


class Parts(NamedTuple):
    """Parts of the ball: sign of each neuron where it is known, else 0; (parts, neurons).

    slopes: of lower lines; multipliers: of known signs, at least 0.
    """

    signs: Tensor
    slopes: Tensor
    multipliers: Tensor

    def at(self, rows: Tensor | slice) -> Parts:
        """Return some of the parts."""
        return Parts(*(part[rows] for part in self))


class Ascent(NamedTuple):
    """least: (parts,), proven bounds; parts: as they were left; losses: (parts, neurons).

    x: (parts, inputs), where the last relaxation is least.
    """

    least: Tensor
    parts: Parts
    losses: Tensor
    x: Tensor


class Relaxation(NamedTuple):
    """value: (parts,), before rounding; losses: (parts, neurons), what each line loses at most.

    coefficients: (parts, inputs); rounding: (parts,), what value may be too large by.
    """

    value: Tensor
    losses: Tensor
    coefficients: Tensor
    rounding: Tensor


class Splitting:
    """A network of ReLU and leaky ReLU over the ball of one example, ready to be split."""

    def __init__(
        self, network: Network, composition: Composition, bounds: Bounds, ball: Ball
    ) -> None:
        self.network, self.ball = network, ball
        last = len(network.nodes)
        self.logits, self.offset = composition.maps[last], composition.offsets[last]
        largest = {0: torch.ones(bounds.lower[0][0].numel(), dtype=torch.float64)}
        self.layers, end = list[Layer](), 0
        for k in network.activations:
            node = network.nodes[k - 1]
            assert isinstance(node, Pointwise)
            assert isinstance(node.activation, LeakyReLU)
            (i,) = node.inputs
            maps, offset = composition.maps[i], composition.offsets[i]
            sizes = offset.abs() + sum(m.abs() @ largest[s] for s, m in maps.items())
            lower, upper = (side[i][0].flatten().cpu() for side in (bounds.lower, bounds.upper))
            place, a = slice(end, end + len(lower)), node.activation.a
            self.layers.append(Layer(k, place, maps, offset, a, lower, upper, sizes))
            end = place.stop
            largest[k] = sizes
        none = torch.zeros(0, dtype=torch.float64)
        self.lower = torch.cat([none, *(layer.lower for layer in self.layers)])
        self.upper = torch.cat([none, *(layer.upper for layer in self.layers)])
        slopes = (torch.full_like(layer.lower, layer.a) for layer in self.layers)
        self.flattest = torch.cat([none, *slopes])
        self.bends = (self.lower < 0) & (self.upper > 0) & (self.flattest < 1)
        width = (self.upper - self.lower).where(self.bends, 1.0)
        self.chord = (self.upper - self.flattest * self.lower) / width
        self.rise = ((1 - self.flattest) * self.upper * -self.lower / width).where(self.bends, 0.0)

    def prove_above(self, objective: Tensor, threshold: float, *, seconds: float) -> Answer:
        """Prove that <objective, logits> exceeds the threshold on the ball, or find an input.

        objective: (classes,), float64. An input that is returned has a value of at most 0 and the
        threshold, or is the best there is where all signs are known; None: the time ran out.
        """
        until = time.monotonic() + seconds
        unknown = torch.zeros(1, len(self.bends), dtype=torch.float64)
        slopes = torch.where(self.upper > -self.lower, 1.0, self.flattest)
        stack = [Parts(unknown, slopes[None], unknown)]
        while stack:
            if time.monotonic() > until:
                return Answer(False, None)
            parts = stack.pop()
            if len(parts.signs) > _PARTS:
                stack.append(parts.at(slice(_PARTS, None)))
                parts = parts.at(slice(_PARTS))
            found = self._ascend(parts, objective, threshold, _STEPS)
            values = self._values(found.x, objective)
            if bool((values <= min(threshold, 0.0)).any()):
                return Answer(False, found.x[values.argmin()])
            # Written so that NaN stays open.
            left = ~(found.least > threshold)
            known = ((parts.signs != 0) | ~self.bends).all(dim=1)
            for k in (left & known).nonzero().flatten().tolist():
                least, x = self._exhaust(found.parts.at(slice(k, k + 1)), objective, threshold)
                if not least > threshold:
                    return Answer(False, x)
            if (left & ~known).any():
                rows = left & ~known
                stack.append(self._split(found.parts.at(rows), found.losses[rows]))
        return Answer(True, None)

    def _values(self, x: Tensor, objective: Tensor) -> Tensor:
        """Return <objective, logits> at x, (points, inputs)."""
        logits = self.network.values(x.view(-1, *self.network.input_shape))[-1]
        return logits.flatten(1) @ objective

    def _exhaust(self, part: Parts, objective: Tensor, threshold: float) -> tuple[float, Tensor]:
        """Bound one part whose signs are all known by what is least there; say where that is."""
        leaf = None
        if self.ball.norm != "L2":
            normals, offsets, slope = self._affine(part.signs[0], objective)
            held = self.bends.nonzero().flatten()
            signs = part.signs[0, held]
            leaf = solve(slope, signs[:, None] * normals[held], signs * offsets[held], self.ball)
        if leaf is None:
            last = self._ascend(part, objective, threshold, _LAST_STEPS)
            return float(last.least), last.x[0]
        multipliers = torch.zeros_like(part.multipliers)
        multipliers[0, held] = leaf.multipliers
        found = self.relaxation(part._replace(multipliers=multipliers), objective)
        return float(found.value - found.rounding), leaf.x

    def _affine(self, signs: Tensor, objective: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each neuron's argument and <objective, logits> as functions of the input.

        That is what they are where the signs hold: (neurons, inputs), (neurons,) and (inputs,).
        """
        d = self.ball.centre.shape[1]
        outputs = {0: torch.eye(d, dtype=torch.float64)}
        constants = {0: torch.zeros(d, dtype=torch.float64)}
        rows, offsets = [signs.new_zeros(0, d)], [signs.new_zeros(0)]
        for layer in self.layers:
            row = signs.new_zeros(len(layer.lower), d)
            offset = layer.offset
            for s, matrix in layer.maps.items():
                row, offset = row + matrix @ outputs[s], offset + matrix @ constants[s]
            slopes = layer.slopes(signs)
            outputs[layer.value], constants[layer.value] = slopes[:, None] * row, slopes * offset
            rows.append(row)
            offsets.append(offset)
        slope = signs.new_zeros(d)
        for s, matrix in self.logits.items():
            slope = slope + objective @ matrix @ outputs[s]
        return torch.cat(rows), torch.cat(offsets), slope

    def _split(self, parts: Parts, losses: Tensor) -> Parts:
        """Return two parts of each: the neuron that loses most has one sign, and the other."""
        n = len(parts.signs)
        neuron = losses.where(self.bends & (parts.signs == 0), -torch.inf).argmax(dim=1)
        twice = Parts(*(torch.cat([part, part]) for part in parts))
        rows = torch.arange(n)
        twice.signs[rows, neuron], twice.signs[n + rows, neuron] = 1.0, -1.0
        return twice

    @torch.enable_grad()
    def _ascend(self, parts: Parts, objective: Tensor, threshold: float, steps: int) -> Ascent:
        slopes = parts.slopes.clone().requires_grad_()
        multipliers = parts.multipliers.clone().requires_grad_()
        found = self.relaxation(Parts(parts.signs, slopes, multipliers), objective)
        least = (found.value - found.rounding).detach()
        # Multipliers are measured by what they balance.
        rates = (_RATE, _RATE * max(1.0, float(found.coefficients.detach().abs().max())))
        optimizer = torch.optim.Adam(
            [{"params": [p], "lr": lr} for p, lr in zip((slopes, multipliers), rates, strict=True)]
        )
        # So that the last step is a hundredth of the first.
        decay = 0.01 ** (1 / steps)
        for _ in range(steps):
            # Without neurons there is nothing to ascend on.
            if bool((least > threshold).all()) or not found.value.requires_grad:
                break
            slopes.grad, multipliers.grad = torch.autograd.grad(
                -found.value.sum(), (slopes, multipliers)
            )
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= decay
            with torch.no_grad():
                slopes.copy_(slopes.maximum(self.flattest).clamp_max(1.0))
                multipliers.clamp_min_(0)
            found = self.relaxation(Parts(parts.signs, slopes, multipliers), objective)
            least = least.maximum((found.value - found.rounding).detach())
        owner = torch.zeros(len(least), dtype=torch.long)
        rows = found.coefficients.detach().view(-1, *self.network.input_shape)
        x = self.ball.minimiser(rows, owner).flatten(1)
        left = Parts(parts.signs, slopes.detach(), multipliers.detach())
        return Ascent(least, left, found.losses.detach(), x)

    def relaxation(self, parts: Parts, objective: Tensor) -> Relaxation:
        """Bound <objective, logits> from below over each part; differentiable."""
        signs, slopes, multipliers = parts
        n = len(signs)
        value = (objective @ self.offset).expand(n)
        # Beside all coefficients, sums of the absolute values of what they are summed of.
        size = (objective.abs() @ self.offset.abs()).expand(n)
        waiting, sizes = dict[int, Tensor](), dict[int, Tensor]()
        for s, matrix in self.logits.items():
            waiting[s] = (objective @ matrix).expand(n, -1)
            sizes[s] = (objective.abs() @ matrix.abs()).expand(n, -1)
        losses = [signs.new_zeros(n, 0)]
        for layer in reversed(self.layers):
            which = layer.place
            if layer.value not in waiting:
                losses.append(signs.new_zeros(n, len(layer.lower)))
                continue
            above, large = waiting.pop(layer.value), sizes.pop(layer.value)
            open_ = self.bends[which] & (signs[:, which] == 0)
            straight = above * layer.slopes(signs)
            positive, negative = above.clamp_min(0), above.clamp_max(0)
            bent = positive * slopes[:, which] + negative * self.chord[which]
            # Where the sign s of z is known, s z >= 0, and -m s z is at most 0.
            held = multipliers[:, which] * signs[:, which]
            passed = torch.where(open_, bent, straight) - held
            lifted = (negative * self.rise[which]).where(open_, 0.0)
            losses.append((above.abs() * self.rise[which]).where(open_, 0.0))
            value = value + lifted.sum(dim=1) + passed @ layer.offset
            large = large + held.detach().abs()
            size = size + large @ (layer.sizes + self.rise[which])
            for s, matrix in layer.maps.items():
                carried, larger = passed @ matrix, large @ matrix.abs()
                waiting[s] = waiting[s] + carried if s in waiting else carried
                sizes[s] = sizes[s] + larger if s in sizes else larger
        coefficients = waiting[0]
        owner = torch.zeros(n, dtype=torch.long)
        value = value + self.ball.minimum(coefficients.view(-1, *self.network.input_shape), owner)
        terms = len(self.bends) + coefficients.shape[1] + len(objective) + 16
        rounding = 4 * (len(self.layers) + 1) * terms * _UNIT * (size + sizes[0].sum(dim=1))
        return Relaxation(value, torch.cat(losses[::-1], dim=1), coefficients, rounding)
