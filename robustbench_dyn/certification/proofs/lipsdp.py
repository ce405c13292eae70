"""Semidefinite Lipschitz bounds that hold everywhere."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import combinations

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.bounds.traced_network import parameter_dtype, traced_network
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.certification.network.tracer import trace
from robustbench_dyn.certification.proofs.lipschitz import LipschitzState
from robustbench_dyn.certification.rounding.allowance import layer_rounding
from robustbench_dyn.certification.sdp.incremental_system import (
    global_sectors,
    incremental_system,
)
from robustbench_dyn.certification.sdp.solver import certified_bound, optimise_dual
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.bounds import pairwise_lipschitz

_ACTIVATIONS = frozenset({"leaky_relu", "relu", "sigmoid", "softplus", "tanh"})


def prepare(
    model: nn.Module, input_shape: tuple[int, ...], *, max_units: int, max_inputs: int
) -> LipschitzState:
    """Raise CertificateError where model is too large, or has activations without a sector."""
    network = small_network(model, input_shape, max_units=max_units, max_inputs=max_inputs)
    bounds = pairwise_lipsdp(network)
    # The last digits of layers that are nonexpansive by design may be beyond the optimisation.
    with suppress(CertificateError):
        bounds = bounds.minimum(pairwise_lipschitz(model))
    # Such networks are small enough for the worst case.
    return LipschitzState(bounds, layer_rounding(model, strict=True))


@torch.no_grad()
def pairwise_lipsdp(network: Network) -> Tensor:
    """Return upper bounds on the L2 Lipschitz constants of all logit differences, proved.

    Returns (classes, classes), float64, on the CPU. All pairs share one set of dual variables.
    """
    system = incremental_system(network, global_sectors(network))
    classes = network.n_classes
    pairs = list(combinations(range(classes), 2))
    units = torch.eye(classes, dtype=torch.float64, device=system.logits.device)
    first, second = (units[list(indices)] for indices in zip(*pairs, strict=True))
    dual = optimise_dual(system, first - second)
    bounds = torch.full((classes, classes), torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
    if dual is None:
        return bounds
    for (i, j), square in zip(pairs, dual.squares.tolist(), strict=True):
        bound = certified_bound(system, units[i] - units[j], dual.dual_variables, square)
        bounds[i, j] = bounds[j, i] = bound
    return bounds


def small_network(
    model: nn.Module, input_shape: tuple[int, ...], *, max_units: int, max_inputs: int
) -> Network:
    """Return model as a network of float64.

    Raises CertificateError where it has too many activations or inputs, or none; that is seen on
    the traced operations, before a large network's weights are converted.
    """
    operations = trace(model, input_shape, parameter_dtype(model)).operations
    n_inputs = math.prod(input_shape)

    def check(n_units: int) -> None:
        if n_units > max_units or n_inputs > max_inputs or not n_units:
            raise CertificateError(
                f"semidefinite bounds are for networks of 1 to {max_units} activations and up to "
                f"{max_inputs} inputs, and this one has {n_units} and {n_inputs}; choose another "
                "certifier"
            )

    check(max(1, sum(math.prod(o.shape) for o in operations if o.name in _ACTIVATIONS)))
    network = traced_network(model, input_shape).exact
    # Other operations are lowered to activations.
    check(network.n_neurons)
    return network
