"""Lipschitz bounds that a module states of itself: whose they are, and a search that refutes them.

A bound of this package is derived from the operations of a layer that it knows. A method
`lipschitz_bound()` of any other class is a claim. It is believed only where no two inputs were
found between which the network is steeper; a claim that is wrong in a narrow place is not found so.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.lipschitz.as_written import is_of
from robustbench_dyn.lipschitz.bounds import owner_of_bound, pairwise_lipschitz
from robustbench_dyn.models.forward import call
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.isolated import IsolatedModel
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.models.validation import probes
from robustbench_dyn.plugins import SERVICE
from robustbench_dyn.resources import shipped

_PACKAGE = __name__.partition(".")[0]
# Two inputs may show a slope above the bound by so much: bounds and logits are rounded.
_TOLERANCE = 1e-3
# Units in the last place of the largest logit by which two logits may be wrong.
_ULPS = 256
_ROUNDS = 4
# Distances of the second input, in lengths of the input's diagonal.
_LENGTHS = (0.002, 0.02, 0.2, 1.0)
# Gradients may be false: at so many points they are taken by differences, in each input.
_BY_DIFFERENCES = 2
_MOST_INPUTS = 4096


def declared_bounds(model: nn.Module) -> list[str]:
    """Return the classes in model that state a bound of their own, by name, each once.

    Those of this package and of the plugins that ship with it are none of them. A model in another
    process tells them itself.
    """
    if isinstance(model, IsolatedModel):
        return list(model.facts["declared_bounds"])
    names = dict[str, None]()
    for part in model.modules():
        owner = owner_of_bound(part)
        own = "lipschitz_bound" in vars(part)
        if own or (owner is not None and "lipschitz_bound" in vars(owner) and not _is_ours(owner)):
            names[type(part).__name__] = None
    return list(names)


def _bounds_of(model: nn.Module) -> Tensor:
    if not isinstance(model, IsolatedModel):
        return pairwise_lipschitz(model)
    bounds = model.call("bounds", {}, {}, service=SERVICE).tensors["bounds"]
    # Written so that NaN fails it.
    if bounds.dtype != torch.float64 or bounds.dim() != 2 or not bool((bounds >= 0).all()):
        raise TypeError("the process of the model returned no bounds, (classes, classes)")
    return bounds


def _is_ours(kind: type) -> bool:
    """Say whether a class is really the one of that name in this package or a shipped plugin."""
    root = kind.__module__.partition(".")[0]
    if not is_of(kind, root) or root == _PACKAGE:
        return is_of(kind, _PACKAGE)
    folder = Path(getattr(sys.modules[root], "__file__", None) or "/").resolve()
    return folder.is_relative_to(shipped("plugins").resolve())


def refute_declared_bounds(model: nn.Module, x: Tensor, *, batch_size: int) -> str:
    """Return how a bound that model states of itself was found to be wrong, or nothing.

    x: a few inputs, (n, *input_shape) in [0, 1], near which the search looks first. A bound that
    cannot be tested, since the model fails there, counts as wrong. batch_size: inputs that model is
    given at once, at most.
    """
    claimed = " and ".join(declared_bounds(model))
    if not claimed:
        return ""
    said = f"the Lipschitz bound that {claimed} states of itself"
    with frozen_eval(model), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        try:
            excess = largest_excess(model, _bounds_of(model), x, batch_size=batch_size)
        # The forward of the model, and its own methods, may raise anything.
        except Exception as error:
            if is_machine_error(error):
                raise
            return f"{said} cannot be tested: {type(error).__name__}: {error}"
    # Written so that NaN fails it.
    if excess <= 1 + _TOLERANCE:
        return ""
    return (
        f"{said} is wrong: between two inputs, a difference of logits rises {excess:.4g} times as "
        "fast as it allows"
    )


def largest_excess(model: nn.Module, bounds: Tensor, x: Tensor, *, batch_size: int = 64) -> float:
    """Return the largest slope of a difference of two logits that was found, over its bound.

    bounds: (classes, classes) or (1, 1), as in pairwise_lipschitz. From each start the search goes
    along the gradient of the difference that is steepest for its bound, up and down to several
    distances, and on from there. Slopes are those between two inputs in [0, 1], by logits alone,
    less what rounding may add: a gradient only says where to look.
    """
    start = torch.cat([x, probes(tuple(x.shape[1:]), x.dtype).to(x.device)])
    best, bounds = 0.0, bounds.to(x.device)
    network = _InBatches(model, batch_size)
    if x[0].numel() <= _MOST_INPUTS:
        few = x[:_BY_DIFFERENCES]
        best = float(_climb(network, bounds, few, _by_differences(network, few))[1].max())
    for _ in range(_ROUNDS):
        start, excess = _climb(network, bounds, start, network.jacobian(start))
        best = max(best, float(excess.max()))
    return best


class _InBatches(NamedTuple):
    """A network that is given a few inputs at once."""

    model: nn.Module
    batch_size: int

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits, (n, classes)."""
        return torch.cat([call(self.model, part) for part in torch.split(x, self.batch_size)])

    def jacobian(self, x: Tensor) -> Tensor:
        """Return the gradients of all logits, (n, classes, inputs) float64; NaN without any."""
        try:
            return torch.cat([self._gradients(part) for part in torch.split(x, self.batch_size)])
        # A model without gradients has slopes all the same.
        except Exception as error:
            if is_machine_error(error):
                raise
            n_classes = self.logits(x[:1]).shape[1]
            none = torch.full((len(x), n_classes, x[0].numel()), torch.nan, dtype=torch.float64)
            return none.to(x.device)

    @torch.enable_grad()
    def _gradients(self, x: Tensor) -> Tensor:
        leaf = x.detach().clone().requires_grad_()
        rows = [
            torch.autograd.grad(logit.sum(), leaf, retain_graph=True, materialize_grads=True)[0]
            for logit in call(self.model, leaf).unbind(dim=1)
        ]
        return torch.stack(rows, dim=1).flatten(2).double()


def _climb(
    network: _InBatches, bounds: Tensor, x: Tensor, jacobian: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the far ends of the steepest lines from x, and their slopes over the bounds, (n,).

    jacobian: (n, classes, inputs) float64.
    """
    with torch.no_grad():
        differences = jacobian[:, :, None, :] - jacobian[:, None, :, :]
        steep = (differences.norm(dim=3) / bounds).nan_to_num(0, posinf=0).flatten(1).argmax(dim=1)
        n_classes = jacobian.shape[1]
        rows = torch.arange(len(x), device=x.device)
        way = differences[rows, steep // n_classes, steep % n_classes]
        # Without a gradient, any direction is as good as another.
        lost = ~(way.isfinite().all(dim=1) & (way != 0).any(dim=1))
        way[lost] = torch.randn(way.shape, dtype=torch.float64).to(x.device)[lost]
        way = (way / way.norm(dim=1, keepdim=True)).reshape(x.shape)
        diagonal = x[0].numel() ** 0.5
        best = torch.full((len(x),), -1.0, dtype=torch.float64, device=x.device)
        ends = x
        for length in _LENGTHS:
            up = (x.double() + length * diagonal * way).clamp(0, 1).to(x.dtype)
            down = (x.double() - length * diagonal * way).clamp(0, 1).to(x.dtype)
            for one, other in ((up, down), (up, x), (down, x)):
                excess = _slopes(network, one, other) / bounds
                # 0 / 0: equal inputs, or a difference of logits that may not change and does not.
                found = excess.nan_to_num(0, posinf=torch.inf).flatten(1).amax(dim=1)
                better = found > best
                best = torch.where(better, found, best)
                ends = torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), one, ends)
    return ends, best


def _slopes(network: _InBatches, one: Tensor, other: Tensor) -> Tensor:
    """Return |F_i - F_j| over the distance for all pairs, (n, classes, classes), less rounding."""
    a, b = network.logits(one), network.logits(other)
    unit = torch.finfo(a.dtype).eps
    rounding = 4 * _ULPS * unit * torch.maximum(a.abs().amax(dim=1), b.abs().amax(dim=1)).double()
    change = a.double() - b.double()
    rise = (change[:, :, None] - change[:, None, :]).abs() - rounding[:, None, None]
    distance = (one.double() - other.double()).flatten(1).norm(dim=1)
    return rise.clamp(min=0) / distance[:, None, None]


def _by_differences(network: _InBatches, x: Tensor) -> Tensor:
    """Return the Jacobian at each x by differences of logits, (n, classes, inputs) float64."""
    step = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:]) / 32
    found = []
    for point in x:
        up, down = (point + step).clamp(0, 1), (point - step).clamp(0, 1)
        distance = (up.double() - down.double()).flatten(1).norm(dim=1, keepdim=True)
        found.append(((network.logits(up).double() - network.logits(down).double()) / distance).T)
    return torch.stack(found)
