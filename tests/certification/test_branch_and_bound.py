"""BranchAndBound by the decisions of neurons: exact, and never more than what is true."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracles.enumeration import least_difference, least_distance, tiny_network
from torch import nn

from robustbench_dyn import ThreatModel, load_model
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import intermediate_bounds
from robustbench_dyn.certification.branch_and_bound import search
from robustbench_dyn.certification.branch_and_bound.leaf_lp import LeafSolution
from robustbench_dyn.certification.branch_and_bound.relaxation import Subdomains
from robustbench_dyn.certification.branch_and_bound.search import BranchAndBound
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.objectives import margin_objectives
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS, project

SHAPE = (1, 1, 3)
EXACT = 1e-6  # of the enumeration's linear programs
POLYTOPES = ["Linf", "L1"]


def problem(seed, gain=1.0, slope=0.0):
    model = tiny_network(seed, widths=(4, 3), gain=gain).requires_grad_(False)
    if slope:
        model = nn.Sequential(
            *(nn.LeakyReLU(slope) if isinstance(part, nn.ReLU) else part for part in model)
        )
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed)).double()
    return model, x, model(x).argmax(dim=1)


def search_on(model, x, threat_model):
    state = Complete(split="neurons").prepare(model, SHAPE)
    ball = Ball(x, threat_model)
    bounds, _ = intermediate_bounds(state.relaxation, ball)
    return BranchAndBound(state.relaxation.exact, state.composition, bounds, ball)


@settings(max_examples=8, deadline=None, derandomize=True)
@example(seed=5278, gain=2.0)
@given(st.integers(0, 10_000), st.floats(0.3, 2.0))
def test_the_distance_in_l2_is_known_from_both_sides(seed, gain):
    model, x, y = problem(seed, gain)
    exact = min(least_distance(model, x.flatten(), int(y), j) for j in {0, 1, 2} - {int(y)})
    assume(1e-3 < exact < 1)
    with frozen_eval(model):
        (prepared,) = resolve_certifiers("complete:split=neurons", model, SHAPE, "L2")
        inside, outside = ThreatModel("L2", 0.99 * exact), ThreatModel("L2", 1.01 * exact)
        assert float(radii(prepared.prove(x, model(x), y, inside))[0]) >= inside.eps
        found = prepared.prove(x, model(x), y, outside)
        assert not float(radii(found)[0]) >= outside.eps
        assert check_candidates(model, found.candidates, x, y, outside).fooled.all()


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(POLYTOPES), st.floats(0.02, 0.5), st.floats(1e-4, 1.0)
)
def test_bounds_below_the_minimum_are_proved_others_refuted(seed, norm, eps, distance):
    model, x, y = problem(seed)
    objectives = margin_objectives(x, model(x), y)
    verifier = search_on(model, x, ThreatModel(norm, eps))
    for objective, competitor in zip(
        objectives.coefficients, objectives.competitor.tolist(), strict=True
    ):
        exact = least_difference(model, x.flatten(), int(y), competitor, norm, eps)
        assert verifier.prove_above(objective, exact - distance, seconds=60).proved
        above = verifier.prove_above(objective, exact + distance, seconds=60)
        assert not above.proved
        logits = model(above.x.view_as(x))[0]
        assert float(logits[int(y)] - logits[competitor]) <= exact + distance + EXACT


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(POLYTOPES), st.floats(0.1, 0.5))
def test_the_minimum_of_leaky_networks_is_known_from_both_sides(seed, norm, eps):
    model, x, y = problem(seed, slope=0.2)
    threat_model = ThreatModel(norm, eps)
    objectives, verifier = margin_objectives(x, model(x), y), search_on(model, x, threat_model)
    assume(len(objectives.coefficients))
    objective = objectives.coefficients[0]
    low, high = -20.0, float(model(x)[0] @ objective)
    while high - low > 1e-3:
        middle = (low + high) / 2
        answer = verifier.prove_above(objective, middle, seconds=60)
        if answer.proved:
            low = middle
            continue
        point = answer.x.view_as(x)
        assert ((point - x).abs().sum() if norm == "L1" else (point - x).abs().max()) <= eps + EXACT
        assert float(model(point)[0] @ objective) <= middle + EXACT
        high = middle
    draw = torch.Generator().manual_seed(seed)
    moved = x + eps * (2 * torch.rand(2000, *SHAPE, generator=draw).double() - 1)
    points = project(moved, x.expand_as(moved), threat_model)
    assert low <= float((model(points) @ objective).min())


def overshoot(seed, dual_variables, norm="L2"):
    """Return how far bounds lie above the values at points of their subdomains, at most."""
    model, x, y = problem(seed)
    threat_model = ThreatModel(norm, 0.4)
    verifier = search_on(model, x, threat_model)
    draw = torch.Generator().manual_seed(seed)
    moved = x + 0.4 * torch.randn(500, *SHAPE, generator=draw).double()
    points = project(moved, x.expand_as(moved), threat_model)
    values = verifier.network.outputs(points)
    activations = [verifier.network.nodes[k - 1] for k in verifier.network.activations]
    arguments = torch.cat([values[node.inputs[0]].flatten(1) for node in activations], dim=1)
    neurons = torch.rand(500, arguments.shape[1], generator=draw) < 0.5
    decisions = torch.where(arguments >= 0, 1.0, -1.0).where(neurons, 0.0)
    shape, above = decisions.shape, -np.inf
    for competitor in {0, 1, 2} - {int(y)}:
        objective = torch.zeros(3, dtype=torch.float64)
        objective[y], objective[competitor] = 1.0, -1.0
        slopes = torch.rand(shape, generator=draw).double()
        subdomains = Subdomains(decisions, slopes, dual_variables(shape, draw).double())
        found = verifier.relaxation(subdomains, objective)
        bound = found.value - found.rounding
        above = max(above, float((bound - values[-1] @ objective).max()))
    return above


@pytest.mark.parametrize("norm", NORMS)
def test_any_slopes_and_dual_variables_bound_the_subdomain(norm):
    def positive(shape, draw):
        return 3 * torch.rand(shape, generator=draw)

    assert max(overshoot(seed, positive, norm) for seed in range(10)) <= 0
    # The negative control: dual variables of the wrong sign.
    assert max(overshoot(seed, lambda *a: -positive(*a), norm) for seed in range(10)) > 0.01


def test_without_splits_the_search_times_out(monkeypatch):
    # The negative control: the relaxation alone is not exact.
    alone = 0
    for seed in range(12):
        model, x, y = problem(seed)
        exact = min(least_distance(model, x.flatten(), int(y), j) for j in {0, 1, 2} - {int(y)})
        verifier = search_on(model, x, ThreatModel("L2", 0.99 * min(exact, 1.0)))
        for competitor in {0, 1, 2} - {int(y)}:
            row = torch.zeros(3, dtype=torch.float64)
            row[int(y)], row[competitor] = 1.0, -1.0
            assert verifier.prove_above(row, 1e-4, seconds=60).proved
            with monkeypatch.context() as patched:
                patched.setattr(
                    BranchAndBound, "_split", lambda _self, subdomains, _losses: subdomains
                )
                alone += not verifier.prove_above(row, 1e-4, seconds=0.2).proved
    assert alone > 0


@pytest.mark.parametrize("norm", POLYTOPES)
def test_a_fully_split_subproblem_is_bounded_by_its_minimum(norm):
    empty = full = 0
    for seed in range(20):
        model, x, y = problem(seed)
        verifier = search_on(model, x, ThreatModel(norm, 0.4))
        objective = margin_objectives(x, model(x), y).coefficients[0]
        draw = torch.Generator().manual_seed(seed)
        unstable = verifier.neurons.unstable
        decisions = (torch.rand(1, len(unstable), generator=draw) < 0.5).double() * 2 - 1
        decisions = decisions.where(unstable, 0.0)
        subdomain = Subdomains(decisions, torch.ones_like(decisions), torch.zeros_like(decisions))
        lower_bound, x_min = verifier._solve_fully_split(subdomain, objective, np.inf)
        normals, offsets, _ = verifier._affine_pieces(decisions[0], objective)
        slack = (decisions[0] * (normals @ x_min + offsets))[unstable]
        if float(slack.min()) < -EXACT:
            empty += 1
            assert lower_bound > 10
        else:
            full += 1
            value = model(x_min.view_as(x))[0] @ objective
            assert lower_bound == pytest.approx(float(value), abs=1e-5)
            assert lower_bound <= float(value) + 1e-9
    assert min(empty, full) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("norm", POLYTOPES)
def test_wrong_solutions_of_the_linear_program_prove_nothing(norm, monkeypatch):
    # Slopes are hardly optimised, so that fully split subproblems are reached.
    monkeypatch.setattr(search, "_STEPS", 1)
    calls, solve = [], search.solve

    def wrong(slope, normals, offsets, ball):
        calls.append(len(offsets))
        noise = 1e3 * torch.rand(len(offsets), generator=draw).double()
        return LeafSolution(noise, solve(slope, normals, offsets, ball).x)

    for seed in range(6):
        model, x, y = problem(seed)
        draw = torch.Generator().manual_seed(seed)
        verifier = search_on(model, x, ThreatModel(norm, 0.4))
        objectives = margin_objectives(x, model(x), y)
        for objective, competitor in zip(
            objectives.coefficients, objectives.competitor.tolist(), strict=True
        ):
            exact = least_difference(model, x.flatten(), int(y), competitor, norm, 0.4)
            monkeypatch.setattr(search, "solve", wrong)
            assert not verifier.prove_above(objective, exact + 1e-3, seconds=60).proved
            monkeypatch.setattr(search, "solve", solve)
            assert verifier.prove_above(objective, exact - 1e-3, seconds=60).proved
    assert len(calls) >= 5


def test_a_point_that_a_mixed_integer_solver_cuts_off_is_found():
    # HiGHS, as scipy 1.17 has it, gives this program the minimum 34.9; without presolve -1.2.
    model = load_model("volume_preserving", dataset="moons")
    x = torch.tensor([0.605438232421875, 0.61572265625]).view(1, 2, 1, 1)
    y, threat_model = torch.tensor([0]), ThreatModel("Linf", 0.11166799182492239)
    with frozen_eval(model), torch.no_grad():
        (prepared,) = resolve_certifiers("complete:split=neurons", model, (2, 1, 1), "Linf")
        proof = prepared.prove(x, model(x), y, threat_model)
        assert not bool(radii(proof)[0] >= threat_model.eps)
        assert bool(check_candidates(model, proof.candidates, x, y, threat_model).fooled[0])


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_without_neurons_is_decided_too(norm):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double().requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    model[1].bias.copy_(torch.tensor([-0.3, 0.0]))
    x, y = torch.full((1, *SHAPE), 0.5).double(), torch.tensor([0])
    for eps, holds in ((0.19, True), (0.21, False)):
        threat_model = ThreatModel(norm, eps)
        (prepared,) = resolve_certifiers("complete:split=neurons", model, SHAPE, norm)
        proof = prepared.prove(x, model(x), y, threat_model)
        assert (float(radii(proof)[0]) >= eps) == holds
        assert bool(check_candidates(model, proof.candidates, x, y, threat_model).fooled) != holds


def test_out_of_time_nothing_is_proved():
    model, x, _ = problem(1)
    verifier = search_on(model, x, ThreatModel("L2", 0.1))
    answer = verifier.prove_above(torch.tensor([1.0, -1.0, 0.0]).double(), -1e9, seconds=-1.0)
    assert answer == (False, None)
