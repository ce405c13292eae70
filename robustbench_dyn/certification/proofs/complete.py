"""The complete certifier: branch and bound says of a small network what is true."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    Relaxed,
    interval_bounds,
    relax,
    relaxed_bounds,
)
from robustbench_dyn.certification.branch_and_bound.affine import Composition, compose
from robustbench_dyn.certification.branch_and_bound.search import Splitting
from robustbench_dyn.certification.network.graph import Pointwise
from robustbench_dyn.certification.objectives import (
    compared,
    examples_among,
    pairs_to_prove,
    radii_of,
)
from robustbench_dyn.certification.proofs.linear_relaxation import relaxed_differences
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import ThreatModel

# What a bound must exceed 0 by, in logits of size 1: more than the rounding of what is composed.
_TOLERANCE = 1e-4


class Searchable(NamedTuple):
    """A relaxed network with its affine maps composed."""

    relaxed: Relaxed
    composition: Composition


def prepare(model: nn.Module, input_shape: tuple[int, ...], *, max_neurons: int) -> Searchable:
    """Raise CertificateError where a network has too many neurons, or others than ReLU."""
    relaxed = relax(model, input_shape)
    network = relaxed.exact
    for k in network.activations:
        node = network.nodes[k - 1]
        if isinstance(node, Pointwise) and not isinstance(node.activation, LeakyReLU):
            raise CertificateError(
                f"complete knows ReLU and leaky ReLU, not {type(node.activation).__name__}; "
                "choose linear_relaxation"
            )
    n_neurons = sum(math.prod(network.shape(k)) for k in network.activations)
    if n_neurons > max_neurons:
        raise CertificateError(
            f"the network has {n_neurons} neurons, and complete searches at most {max_neurons}; "
            "choose linear_relaxation"
        )
    return Searchable(relaxed, compose(network))


@torch.no_grad()
def prove(
    state: Searchable,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seconds_per_example: float,
) -> Proof:
    """Exclude rivals by the relaxation, and then find the least difference of each that is left.

    An example whose every rival is excluded is certified; one where a difference falls below 0
    has the point as a candidate; one that takes more than seconds_per_example stays open.
    """
    # The search is done on the CPU; small networks lose nothing there.
    bounds = interval_bounds(state.relaxed, Ball(x, threat_model))
    pairs = pairs_to_prove(x, logits, y)
    pairs = compared(pairs, state.relaxed, bounds, x, logits, y, threat_model)
    allowed = pairs.allowed(pairs.possible)
    least = relaxed_differences(state.relaxed, x, pairs, threat_model)
    candidates = x.clone()
    scale = logits.detach().double().abs().amax(dim=1).clamp_min(1.0).cpu()
    for example in torch.unique(pairs.example).tolist():
        rows = (pairs.example == example).nonzero().flatten()
        rows = rows[least[rows] <= 0]
        if not len(rows):
            continue
        # The rival that the relaxation fears most is the likeliest to win.
        rows = rows[least[rows].argsort()]
        proved, found = _search(
            state, x[example : example + 1], pairs.at(rows).differences, threat_model,
            allowed[rows] + _TOLERANCE * float(scale[example]), seconds_per_example,
        )  # fmt: skip
        least[rows[proved]] = torch.inf
        if found is not None:
            candidates[example] = found.to(candidates).view_as(candidates[example])
    proved_pairs = pairs.at(least > 0)
    radii = radii_of(proved_pairs, logits, y, threat_model.eps)
    within_rounding = examples_among(allowed.isinf() & (least <= 0), pairs, len(x))
    return Proof(radii, candidates, within_rounding=within_rounding)


def _search(
    state: Searchable, x: Tensor, differences: Tensor, threat_model: ThreatModel,
    thresholds: Tensor, seconds: float,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Say which of one example's differences exceed their thresholds, and where one is negative."""
    until = time.monotonic() + seconds
    ball = Ball(x.cpu(), threat_model)
    bounds, _ = relaxed_bounds(state.relaxed, ball)
    splitting = Splitting(state.relaxed.exact, state.composition, bounds, ball)
    proved = torch.zeros(len(differences), dtype=torch.bool, device=differences.device)
    for k, objective in enumerate(differences.cpu()):
        left = until - time.monotonic()
        if left <= 0:
            break
        # A neuron is what the composed maps say but for the rounding of their entries.
        threshold = float(thresholds[k])
        if threshold == math.inf:
            # Rounding forbids a proof; a counterexample is worth a look all the same.
            threshold = 0.0
            answer = splitting.prove_above(objective, threshold, seconds=left)
            return proved, None if answer.proved else answer.x
        answer = splitting.prove_above(objective, threshold, seconds=left)
        if not answer.proved:
            # One rival that stays open leaves the example open.
            return proved, answer.x
        proved[k] = True
    return proved, None
