"""The proof by branch and bound, or a counterexample."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.budgets import N_ITERATIONS
from robustbench_dyn.certification.bounds.intermediate import (
    RelaxationState,
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.branch_and_bound.affine import Composition, compose
from robustbench_dyn.certification.branch_and_bound.giving_up import Spent, hopeless
from robustbench_dyn.certification.branch_and_bound.problem import Problem, whole
from robustbench_dyn.certification.branch_and_bound.reduction import reduced
from robustbench_dyn.certification.branch_and_bound.relaxation import rounding_over_balls
from robustbench_dyn.certification.branch_and_bound.search import Search, SearchResult
from robustbench_dyn.certification.network.graph import Pointwise
from robustbench_dyn.certification.objectives import (
    Objectives,
    examples_with,
    least_per_example,
    proved_radii,
)
from robustbench_dyn.certification.proofs.linear_relaxation import relaxed_margins
from robustbench_dyn.certification.proofs.relaxed_objectives import relaxed_objectives
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import ThreatModel

# By how much a bound must exceed 0, for logits of size 1: more than the rounding of the composed
# maps.
_TOLERANCE = 1e-4
# Steps of ascent for the neurons of networks that are not composed.
_NEURON_STEPS = 20
# Examples share a network whose composed maps have so many entries at most: where they are more,
# leaving out the neurons that are stable on one ball saves more than a joint pass.
_MOST_SHARED = 100_000


class BranchAndBoundState(NamedTuple):
    """A relaxed network with its affine maps composed, where these are small.

    spent: by threat model.
    """

    relaxation: RelaxationState
    composition: Composition | None
    spent: defaultdict[ThreatModel, Spent]


def prepare(model: nn.Module, input_shape: tuple[int, ...]) -> BranchAndBoundState:
    """Raise CertificateError where a network has other activations than ReLU."""
    relaxation = relaxation_state(model, input_shape)
    network = relaxation.exact
    for k in network.activations:
        node = network.nodes[k - 1]
        if isinstance(node, Pointwise) and not isinstance(node.activation, LeakyReLU):
            raise CertificateError(
                f"complete supports ReLU and leaky ReLU, not {type(node.activation).__name__}; "
                "choose linear_relaxation"
            )
    return BranchAndBoundState(relaxation, compose(network), defaultdict(Spent))


@torch.no_grad()
def prove(
    state: BranchAndBoundState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seconds_per_example: float,
    seconds: float,
) -> Proof:
    """Exclude classes by the relaxation, and search for the margins of those that are left.

    An example of which every class is excluded is certified; one where a margin falls below 0 has
    the point as a candidate; one that takes more than seconds_per_example stays open, and so do all
    others once the searches with this state took `seconds` at this eps.
    """
    bounds = interval_bounds(state.relaxation, Ball(x, threat_model))
    objectives = relaxed_objectives(state.relaxation, bounds, x, logits, y, threat_model)
    spent, n_neurons = state.spent[threat_model], state.relaxation.exact.n_neurons
    # A joint search optimises the slopes of all examples as quickly; where no search follows, steps
    # of ascent would go on without an end of time.
    initial = shares_a_network(state) or spent.is_over(seconds)
    n_iterations = 0 if initial else N_ITERATIONS
    lower_bound = relaxed_margins(
        state.relaxation, x, objectives, threat_model, n_iterations=n_iterations
    )
    candidates = x.clone()
    within_rounding = torch.zeros_like(lower_bound, dtype=torch.bool)
    gave_up = torch.zeros(len(x), dtype=torch.bool)
    scale = logits.detach().double().abs().amax(dim=1).clamp_min(1.0)
    examples = list[int]()
    for example in torch.unique(objectives.example[~(lower_bound > 0)]).tolist():
        rows = (objectives.example == example) & ~(lower_bound > 0)
        far = hopeless(-lower_bound[rows], objectives.margin[rows], n_neurons=n_neurons)
        gave_up[example] = far
        examples += [] if far else [example]
    size = _n_together(state, len(x))
    for some in (examples[k : k + size] for k in range(0, len(examples), size)):
        these = objectives.example.new_tensor(some)
        chosen = torch.isin(objectives.example, these) & ~(lower_bound > 0)
        rows = chosen.nonzero().flatten()
        own = objectives.at(rows)
        found, forbidden = _search(
            state,
            x[some],
            own._replace(example=torch.searchsorted(these, own.example)),
            threat_model,
            _TOLERANCE * scale[own.example],
            seconds_per_example=seconds_per_example,
            seconds=seconds - spent.seconds,
        )
        lower_bound[rows[found.proved & ~forbidden]] = torch.inf
        within_rounding[rows] = forbidden
        gave_up[torch.tensor(some)] = found.gave_up
        for k, point in found.x.items():
            candidates[some[k]] = point.to(candidates)
    radii = proved_radii(objectives.at(lower_bound > 0), logits, y, threat_model.eps)
    return Proof(
        radii,
        candidates,
        within_rounding=examples_with(within_rounding, objectives, len(x)),
        margins=least_per_example(lower_bound, objectives, len(x)),
        gave_up=gave_up,
    )


def shares_a_network(state: BranchAndBoundState) -> bool:
    """Say whether many examples are searched on one network, rather than each on its own."""
    composition = state.composition
    return composition is not None and composition.n_entries <= _MOST_SHARED


def _n_together(state: BranchAndBoundState, n: int) -> int:
    """Return how many of n examples are searched at a time."""
    alone = state.composition is not None and not shares_a_network(state)
    return 1 if alone else n


def _search(
    state: BranchAndBoundState,
    x: Tensor,
    objectives: Objectives,
    threat_model: ThreatModel,
    tolerance: Tensor,
    *,
    seconds_per_example: float,
    seconds: float,
) -> tuple[SearchResult, Tensor]:
    """Search for the margins of some examples, and say which ones rounding forbids to prove."""
    started = time.monotonic()
    exact, spent = state.relaxation.exact, state.spent[threat_model]
    problem = _problem(state, Ball(x, threat_model))
    rounding = rounding_over_balls(problem, objectives.coefficients, objectives.example)
    forbidden = objectives.allowance(rounding).isinf()
    # The bounds of a search heed the model's rounding themselves. Where it forbids a proof, a
    # counterexample may be found.
    thresholds = objectives.observed.where(~forbidden, 0.0) + tolerance
    search = Search(
        problem,
        objectives.coefficients,
        thresholds,
        objectives.example,
        lambda points: exact.outputs(points)[-1],
    )
    taken = time.monotonic() - started
    spent.seconds += taken
    found = search.run(
        spent, seconds_per_example=seconds_per_example - taken / len(x), seconds=seconds - taken
    )
    return found, forbidden


def _problem(state: BranchAndBoundState, ball: Ball) -> Problem:
    """Return what is searched: the network without its stable neurons, or all of a large one."""
    exact, fast = state.relaxation.exact, state.relaxation.fast
    if state.composition is not None:
        bounds, _ = intermediate_bounds(state.relaxation, ball)
        return reduced(exact, state.composition, bounds, ball)
    bounds, _ = intermediate_bounds(state.relaxation, ball, n_iterations=_NEURON_STEPS)
    return whole(exact, fast, bounds, ball)
