"""The complete certifier: branch and bound says of a small network what is true."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification import Certifier, Cost, Proof
from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.balls import Ball
from robustbench_dyn.certification.branching import Answer, Array
from robustbench_dyn.certification.linear_relaxation import relaxed_differences
from robustbench_dyn.certification.network import Pointwise
from robustbench_dyn.certification.pairs import Pairs, pairs_to_prove, radii_of
from robustbench_dyn.certification.programs import Composition, Program, compose
from robustbench_dyn.certification.splitting import Splitting
from robustbench_dyn.certification.tightening import Relaxed, relax, relaxed_bounds
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import NORMS, ThreatModel

SECONDS_AN_EXAMPLE = 60.0
_MOST_NEURONS = 600
# What a bound must exceed 0 by, in logits of size 1: more than the rounding in a program's numbers.
_TOLERANCE = 1e-4


class Searchable(NamedTuple):
    """A relaxed network with its affine maps composed."""

    relaxed: Relaxed
    composition: Composition


def _prepare(model: nn.Module, input_shape: tuple[int, ...]) -> Searchable:
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
    if n_neurons > _MOST_NEURONS:
        raise CertificateError(
            f"the network has {n_neurons} neurons, and complete searches at most {_MOST_NEURONS}; "
            "choose linear_relaxation"
        )
    return Searchable(relaxed, compose(network))


@torch.no_grad()
def prove(
    state: Searchable, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Exclude rivals by the relaxation, and then find the least difference of each that is left.

    An example whose every rival is excluded is certified; one where a difference falls below 0
    has the point as a candidate; one that takes more than SECONDS_AN_EXAMPLE stays open. In Linf
    and L1 HiGHS looks for the point and says whether a proof is to be had, and the proof is that of
    branching; in L2 both are those of splitting.
    """
    # The program's arithmetic is done on the CPU; small networks lose nothing there.
    pairs = pairs_to_prove(x, logits, y)
    least = relaxed_differences(state.relaxed, x, pairs, threat_model)
    candidates = x.clone()
    scale = logits.detach().double().abs().amax(dim=1).clamp_min(1.0).cpu()
    for example in torch.unique(pairs.example).tolist():
        rows = (pairs.example == example).nonzero().flatten()
        rows = rows[least[rows] <= pairs.rounding[rows]]
        if not len(rows):
            continue
        # The rival that the relaxation fears most is the likeliest to win.
        rows = rows[least[rows].argsort()]
        proved, found = _search(
            state, x[example : example + 1], pairs.at(rows), threat_model,
            _TOLERANCE * float(scale[example]),
        )  # fmt: skip
        least[rows] = least[rows].maximum(proved)
        if found is not None:
            candidates[example] = found.to(candidates).view_as(candidates[example])
    proved_pairs = pairs.at(least > pairs.rounding)
    return Proof(radii_of(proved_pairs, logits, y, threat_model.eps), candidates)


def _search(
    state: Searchable, x: Tensor, pairs: Pairs, threat_model: ThreatModel, tolerance: float
) -> tuple[Tensor, Tensor | None]:
    """Return proven lower bounds of one example's pairs, and a point where one is negative."""
    network, until = state.relaxed.exact, time.monotonic() + SECONDS_AN_EXAMPLE
    ball = Ball(x.cpu(), threat_model)
    bounds, _ = relaxed_bounds(state.relaxed, ball)
    prove_above: Callable[..., Answer]
    if threat_model.norm == "L2":
        prove_above = Splitting(network, state.composition, bounds, ball).prove_above
    else:
        program = Program(network, state.composition, bounds, ball, 0)
        prove_above = partial(_decide, program, len(network.nodes))
    proved = pairs.differences.new_full((len(pairs.differences),), -torch.inf)
    for k, row in enumerate(pairs.differences.cpu().numpy()):
        left = until - time.monotonic()
        if left <= 0:
            break
        # A neuron is what the program says but for the rounding of its coefficients.
        threshold = float(pairs.rounding[k]) + tolerance
        answer = prove_above(row, threshold, seconds=left)
        if not answer.proved:
            # One rival that stays open leaves the example open.
            return proved, None if answer.x is None else torch.from_numpy(answer.x)
        proved[k] = threshold
    return proved, None


def _decide(
    program: Program, value: int, row: Array, threshold: float, *, seconds: float
) -> Answer:
    """Look for an input where <row, value> is at most 0; where there seems to be none, prove it."""
    until = time.monotonic() + seconds
    minimum = program.minimise(value, row, seconds=seconds)
    if minimum.x is not None and minimum.below <= 0:
        return Answer(False, minimum.x)
    if not minimum.above > threshold:
        return Answer(False, None)
    return program.prove_above(value, row, threshold, seconds=until - time.monotonic())


CERTIFIER = Certifier(
    name="complete",
    description="branch and bound: exact for small networks of ReLU",
    deterministic=True,
    prepare=_prepare,
    prove=prove,
    norms=frozenset(NORMS),
    cost=Cost.EXHAUSTIVE,
)
