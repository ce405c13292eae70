"""Branch and bound by the signs of neurons: exact, and never more than what is true."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracles.enumeration import least_difference, least_distance, tiny_network
from oracles.skips import deep_sorting_network
from torch import nn

from robustbench_dyn import ThreatModel, load_model
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import intermediate_bounds
from robustbench_dyn.certification.branch_and_bound import affine, bounding, leaf, reduction, search
from robustbench_dyn.certification.branch_and_bound import pool as pool_module
from robustbench_dyn.certification.branch_and_bound.ascent import ascend
from robustbench_dyn.certification.branch_and_bound.descent import from_points
from robustbench_dyn.certification.branch_and_bound.giving_up import Spent
from robustbench_dyn.certification.branch_and_bound.leaf import minima
from robustbench_dyn.certification.branch_and_bound.leaf_lp import LeafSolution
from robustbench_dyn.certification.branch_and_bound.margins import Margins
from robustbench_dyn.certification.branch_and_bound.pool import Pool
from robustbench_dyn.certification.branch_and_bound.problem import Problem, whole
from robustbench_dyn.certification.branch_and_bound.reduction import reduced
from robustbench_dyn.certification.branch_and_bound.relaxation import Functions, Lines, relax
from robustbench_dyn.certification.branch_and_bound.search import Search
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains
from robustbench_dyn.certification.branch_and_bound.tightening import Tightening
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.network.graph import Affine
from robustbench_dyn.certification.objectives import margin_objectives
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.flows import EulerStep
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS, project

SHAPE = (1, 1, 3)
EXACT = 1e-6  # of the enumeration's linear programs
POLYTOPES = ["Linf", "L1"]
KINDS = ["reduced", "whole"]


def problem(seed, gain=1.0, slope=0.0):
    model = tiny_network(seed, widths=(4, 3), gain=gain).requires_grad_(False)
    if slope:
        model = nn.Sequential(
            *(nn.LeakyReLU(slope) if isinstance(part, nn.ReLU) else part for part in model)
        )
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed)).double()
    return model, x, model(x).argmax(dim=1)


def problem_of(model, x, threat_model, kind="reduced") -> Problem:
    """Return what is searched, without the stable neurons or with all."""
    state = Complete(split="neurons").prepare(model, tuple(x.shape[1:]))
    ball = Ball(x, threat_model)
    bounds, _ = intermediate_bounds(state.relaxation, ball)
    if kind == "whole":
        return whole(state.relaxation.exact, state.relaxation.fast, bounds, ball)
    return reduced(state.relaxation.exact, state.composition, bounds, ball)


def prove_above(found, model, objective, threshold, *, seconds=60.0):
    """Return the result of the search for one margin."""
    thresholds = torch.tensor([threshold], dtype=torch.float64)
    the_search = Search(found, objective[None], thresholds, torch.tensor([0]), model)
    return the_search.run(Spent(), seconds_per_example=seconds, seconds=seconds)


def moved_points(x, threat_model, n, seed):
    draw = torch.Generator().manual_seed(seed)
    moved = x + threat_model.eps * torch.randn(n, *x.shape[1:], generator=draw).double()
    return project(moved, x.expand_as(moved), threat_model)


def decided_at(found, points, draw, share=0.5):
    """Return decisions of some neurons as they are at points, with the bounds that follow."""
    values = found.exact.outputs(points)
    parts = [values[layer.argument].flatten(1) for layer in found.layers]
    arguments = torch.cat([*parts, points.new_zeros(len(points), 0)], dim=1)
    chosen = torch.rand(arguments.shape, generator=draw) < share
    decisions = torch.where(arguments >= 0, 1.0, -1.0).where(chosen, 0.0)
    lower = found.lower.expand_as(decisions).clone()
    upper = found.upper.expand_as(decisions).clone()
    return decisions, lower.where(~(decisions > 0), 0.0), upper.where(~(decisions < 0), 0.0)


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
    st.integers(0, 10_000),
    st.sampled_from(POLYTOPES),
    st.floats(0.02, 0.5),
    st.floats(1e-3, 1.0),
    st.sampled_from(KINDS),
)
def test_bounds_below_the_minimum_are_proved_others_refuted(seed, norm, eps, distance, kind):
    model, x, y = problem(seed)
    objectives = margin_objectives(x, model(x), y)
    found = problem_of(model, x, ThreatModel(norm, eps), kind)
    for objective, competitor in zip(
        objectives.coefficients, objectives.competitor.tolist(), strict=True
    ):
        exact = least_difference(model, x.flatten(), int(y), competitor, norm, eps)
        assert bool(prove_above(found, model, objective, exact - distance).proved)
        above = prove_above(found, model, objective, exact + distance)
        assert not bool(above.proved)
        logits = model(above.x[0].view_as(x))[0]
        assert float(logits[int(y)] - logits[competitor]) <= exact + distance + EXACT


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(POLYTOPES), st.floats(0.1, 0.5))
def test_the_minimum_of_leaky_networks_is_known_from_both_sides(seed, norm, eps):
    model, x, y = problem(seed, slope=0.2)
    threat_model = ThreatModel(norm, eps)
    objectives, found = margin_objectives(x, model(x), y), problem_of(model, x, threat_model)
    assume(len(objectives.coefficients))
    objective = objectives.coefficients[0]
    low, high = -20.0, float(model(x)[0] @ objective)
    while high - low > 1e-3:
        middle = (low + high) / 2
        answer = prove_above(found, model, objective, middle)
        if bool(answer.proved):
            low = middle
            continue
        point = answer.x[0].view_as(x)
        assert ((point - x).abs().sum() if norm == "L1" else (point - x).abs().max()) <= eps + EXACT
        assert float(model(point)[0] @ objective) <= middle + EXACT
        high = middle
    points = moved_points(x, threat_model, 2000, seed)
    assert low <= float((model(points) @ objective).min())


def first_of(rows):
    """Say that rows are of the only example there is."""
    return torch.zeros(len(rows), dtype=torch.long)


def overshoot(seed, dual_variables, norm, kind):
    """Return how far bounds lie above the values at points of their subdomains, at most."""
    model, x, y = problem(seed)
    threat_model = ThreatModel(norm, 0.4)
    found = problem_of(model, x, threat_model, kind)
    points = moved_points(x, threat_model, 500, seed)
    draw, above = torch.Generator().manual_seed(seed), -np.inf
    decisions, lower, upper = decided_at(found, points, draw)
    lines = Lines.of(found, first_of(points), lower, upper, decisions, torch.float64)
    for competitor in {0, 1, 2} - {int(y)}:
        objective = torch.zeros(500, 3, dtype=torch.float64)
        objective[:, y], objective[:, competitor] = 1.0, -1.0
        slopes = torch.rand(decisions.shape, generator=draw).double()
        bound = relax(
            found,
            found.exact,
            Functions.of(found.exact, objective),
            lines,
            slopes,
            dual_variables(decisions.shape, draw).double(),
            proving=True,
        ).value
        above = max(above, float((bound - (model(points) * objective).sum(dim=1)).max()))
    return above


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_any_slopes_and_dual_variables_bound_the_subdomain(norm, kind):
    def positive(shape, draw):
        return 3 * torch.rand(shape, generator=draw)

    assert max(overshoot(seed, positive, norm, kind) for seed in range(10)) <= 0
    # The negative control: dual variables of the wrong sign.
    assert max(overshoot(seed, lambda *a: -positive(*a), norm, kind) for seed in range(10)) > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_each_row_is_bounded_over_the_ball_of_its_example(norm, kind):
    model, _, _ = problem(3)
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    threat_model = ThreatModel(norm, 0.1)
    found = problem_of(model, x, threat_model, kind)
    assert found.n_examples == 4
    points = [moved_points(one[None], threat_model, 300, 0) for one in x]
    for z in points:
        assert torch.allclose(found.exact.outputs(z)[-1], model(z), atol=1e-12, rtol=0)
    rows = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    least = torch.cat([model(z).amin(dim=0) for z in points])
    example = torch.arange(4).repeat_interleave(3)

    def bounds(example):
        lines = Lines.over_balls(found, example, torch.float64)
        functions, slopes = Functions.of(found.exact, rows), found.start_slopes[example]
        return relax(found, found.exact, functions, lines, slopes, proving=True).value

    assert (bounds(example) <= least).all()
    alone = [problem_of(model, one[None], threat_model, kind) for one in x]
    assert all((one.lower.shape[1] <= found.lower.shape[1]) for one in alone)
    # Negative control: the ball of another example.
    assert (bounds(example.roll(3)) > least).any()


def residual(dtype=torch.float32, scale=1.0):
    """A network with skip connections, leaky neurons and an activation that is read twice."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            block = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.1), nn.Linear(8, 6))
            self.first, self.step = nn.Linear(3, 6), EulerStep(block, step_size=0.5)
            self.skip, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            z = torch.relu(self.first(x.flatten(1)))
            return scale * self.last(torch.relu(self.step(z)) + self.skip(z))

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Residual().to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_the_reduced_network_computes_what_the_whole_does(eps):
    model, x = residual(torch.float64), torch.full((1, *SHAPE), 0.4).double()
    threat_model = ThreatModel("Linf", eps)
    small = problem_of(model, x, threat_model)
    large = problem_of(model, x, threat_model, "whole")
    points = moved_points(x, threat_model, 200, 0)
    assert small.lower.shape[1] < large.lower.shape[1]
    assert torch.allclose(small.exact.outputs(points)[-1], model(points), atol=1e-12, rtol=0)
    # Negative control: outside the ball other neurons are active.
    far = torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    assert not torch.allclose(small.exact.outputs(far)[-1], model(far), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_for_the_network_as_it_is_computed(kind):
    model, x = residual(scale=1e3), torch.full((1, *SHAPE), 0.4)
    threat_model = ThreatModel("Linf", 1e-7)
    found = problem_of(model, x, threat_model, kind)
    rows = torch.eye(3, dtype=torch.float64)
    lines = Lines.over_balls(found, first_of(rows), torch.float64)
    slopes = torch.ones(3, found.lower.shape[1], dtype=torch.float64)
    functions = Functions.of(found.exact, rows)
    points = moved_points(x, threat_model, 500, 0).float()
    computed = model(points).double().amin(dim=0)
    bound = relax(found, found.exact, functions, lines, slopes, proving=True).value
    assert (bound <= computed).all()
    # Negative control: bounds of exact arithmetic lie above what float32 gives.
    bare = found.without_rounding()
    bound = relax(bare, bare.exact, functions, lines, slopes, proving=True).value
    assert (bound > computed).any()


@pytest.mark.parametrize("norm", NORMS)
def test_tightened_bounds_hold_in_their_subdomains(norm):
    tighter = outside = 0
    for seed in range(6):
        model, x, _ = problem(seed)
        threat_model = ThreatModel(norm, 0.4)
        tightening = Tightening(problem_of(model, x, threat_model))
        tightening.over_balls(torch.tensor([0]), n_steps=5)
        found = tightening.problem
        points = moved_points(x, threat_model, 300, seed)
        draw = torch.Generator().manual_seed(seed)
        decisions, lower, upper = decided_at(found, points, draw)
        before = (upper - lower).sum()
        nothing = torch.ones(len(points), 0, dtype=torch.bool)
        whole_balls = Subdomains.whole(found, first_of(points), nothing)
        changed = {"decisions": decisions.to(torch.int8), "lower": lower, "upper": upper}
        domains = Subdomains(**{**whole_balls._asdict(), **changed})
        tightening.tighten(domains, first_of(points))
        tighter += bool((upper - lower).sum() < before)
        values = found.exact.outputs(points)
        parts = [values[layer.argument].flatten(1) for layer in found.layers]
        arguments = torch.cat(parts, dim=1)
        assert (lower <= arguments).all()
        assert (arguments <= upper).all()
        # Negative control: another point's subdomain does not contain this one.
        outside += bool(((lower.roll(1, 0) > arguments) | (upper.roll(1, 0) < arguments)).any())
    assert tighter >= 3
    assert outside >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_without_splits_the_search_times_out(kind, monkeypatch):
    # The negative control: the relaxation alone is not exact.
    alone = 0
    for seed in range(8):
        model, x, y = problem(seed)
        exact = min(least_distance(model, x.flatten(), int(y), j) for j in {0, 1, 2} - {int(y)})
        found = problem_of(model, x, ThreatModel("L2", 0.99 * min(exact, 1.0)), kind)
        for competitor in {0, 1, 2} - {int(y)}:
            row = torch.zeros(3, dtype=torch.float64)
            row[int(y)], row[competitor] = 1.0, -1.0
            assert bool(prove_above(found, model, row, 1e-4).proved)
            with monkeypatch.context() as patched:
                patched.setattr(
                    Search, "_split", lambda _self, domains, left, _rows: domains.at(left)
                )
                alone += not bool(prove_above(found, model, row, 1e-4, seconds=0.2).proved)
    assert alone > 0


def test_a_bound_that_is_too_high_proves_what_is_false(monkeypatch):
    # The tests above can fail: with bounds that are too high they do.
    def too_high(*args, **options):
        found = relax(*args, **options)
        return found._replace(value=found.value + 0.5)

    def too_high_as_well(*args, **options):
        found = ascend(*args, **options)
        return found._replace(value=found.value + 0.5)

    model, x, y = problem(2)
    objective = margin_objectives(x, model(x), y).coefficients[0]
    competitor = int(objective.argmin())
    exact = least_difference(model, x.flatten(), int(y), competitor, "Linf", 0.3)
    found = problem_of(model, x, ThreatModel("Linf", 0.3))
    assert not bool(prove_above(found, model, objective, exact + 0.2).proved)
    monkeypatch.setattr(bounding, "relax", too_high)
    monkeypatch.setattr(bounding, "ascend", too_high_as_well)
    assert bool(prove_above(found, model, objective + 0.0, exact + 0.2).proved)


@pytest.mark.parametrize("norm", POLYTOPES)
def test_a_fully_split_subproblem_is_bounded_by_its_minimum(norm):
    empty = full = 0
    for seed in range(20):
        model, x, y = problem(seed)
        found = problem_of(model, x, ThreatModel(norm, 0.4))
        objective = margin_objectives(x, model(x), y).coefficients[:1]
        draw = torch.Generator().manual_seed(seed)
        decisions = (torch.rand(found.lower.shape, generator=draw) < 0.5).double() * 2 - 1
        lower = found.lower.where(decisions < 0, 0.0)
        upper = found.upper.where(decisions > 0, 0.0)
        lines = Lines.of(found, first_of(lower), lower, upper, decisions, torch.float64)
        solved = minima(found, objective, lines, torch.zeros_like(decisions))
        normals, offsets = leaf._split_neurons(found, lines, torch.arange(found.lower.shape[1]))
        slack = normals @ solved.x.flatten() + offsets
        if len(slack) and float(slack.min()) < -EXACT:
            empty += 1
            assert solved.lower_bound > 10
        else:
            full += 1
            value = float(model(solved.x.view_as(x))[0] @ objective[0])
            assert solved.lower_bound == pytest.approx(value, abs=1e-5)
            assert solved.lower_bound <= value + 1e-9
    assert min(empty, full) >= 3


@pytest.mark.parametrize("norm", NORMS)
def test_fully_split_subproblems_are_bounded_alike_together_and_alone(norm):
    model, x, y = problem(3)
    found = problem_of(model, x, ThreatModel(norm, 0.4))
    objectives = margin_objectives(x, model(x), y).coefficients[:1].expand(4, -1)
    # The signs at points of the ball, so that no subproblem is empty: those have no maximum.
    draw = torch.Generator().manual_seed(0)
    steps = torch.nn.functional.normalize(torch.randn(4, x.numel(), generator=draw), p=1, dim=1)
    outputs = found.exact.outputs((x + 0.4 * steps.view(4, *x.shape[1:])).double())
    signs = torch.cat([outputs[layer.argument] for layer in found.layers], dim=1).sign()
    lower, upper = found.lower.where(signs < 0, 0.0), found.upper.where(signs > 0, 0.0)
    example = torch.zeros(4, dtype=torch.long)
    lines = Lines.of(found, example, lower, upper, signs, torch.float64)
    together = minima(found, objectives, lines, torch.zeros_like(signs))
    for row in range(4):
        one = torch.tensor([row])
        alone = minima(found, objectives[one], lines.at(one), torch.zeros_like(signs[one]))
        # Sums are rounded otherwise in a batch, and 400 steps of ascent go on from there.
        torch.testing.assert_close(alone.lower_bound, together.lower_bound[one], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.x, together.x[one], atol=1e-2, rtol=0)
    gaps = together.lower_bound.sort().values.diff()
    assert float(gaps.max()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("norm", POLYTOPES)
def test_wrong_solutions_of_the_linear_program_prove_nothing(norm, monkeypatch):
    # Slopes are hardly optimised, so that fully split subproblems are reached.
    monkeypatch.setattr(search, "_STEPS", 1)
    monkeypatch.setattr(search, "_FIRST_STEPS", 1)
    calls, solve = [], leaf.solve

    def wrong(slope, normals, offsets, ball, *, example):
        calls.append(len(offsets))
        noise = 1e3 * torch.rand(len(offsets), generator=draw).double()
        return LeafSolution(noise, solve(slope, normals, offsets, ball, example=example).x)

    for seed in range(10):
        model, x, y = problem(seed, gain=2.0)
        draw = torch.Generator().manual_seed(seed)
        found = problem_of(model, x, ThreatModel(norm, 0.4))
        objectives = margin_objectives(x, model(x), y)
        for objective, competitor in zip(
            objectives.coefficients, objectives.competitor.tolist(), strict=True
        ):
            exact = least_difference(model, x.flatten(), int(y), competitor, norm, 0.4)
            monkeypatch.setattr(leaf, "solve", wrong)
            assert not bool(prove_above(found, model, objective, exact + 1e-3).proved)
            monkeypatch.setattr(leaf, "solve", solve)
            assert bool(prove_above(found, model, objective, exact - 1e-3).proved)
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
    found = problem_of(model, x, ThreatModel("L2", 0.1))
    answer = prove_above(found, model, torch.tensor([1.0, -1.0, 0.0]).double(), -1e9, seconds=-1)
    assert not bool(answer.proved)
    assert not answer.x


def subdomains(values, n_margins=2, example=None):
    """Subdomains of three neurons with these bounds of all margins."""
    n = len(values)
    zeros = torch.zeros(n, 3, dtype=torch.float64)
    slopes = torch.zeros(n, n_margins, 3)
    return Subdomains(
        example=torch.zeros(n, dtype=torch.long) if example is None else torch.tensor(example),
        decisions=zeros.to(torch.int8),
        lower=zeros - 1,
        upper=zeros + 1,
        unproved=torch.ones(n, n_margins, dtype=torch.bool),
        slopes=slopes,
        dual_variables=slopes.clone(),
        value=torch.tensor(values)[:, None].expand(n, n_margins).clone(),
    )


def test_the_pool_gives_the_least_bounds_first_until_it_is_full(monkeypatch):
    pool = Pool(1, 2)
    first = subdomains([-1.0, -3.0, -2.0, -5.0])
    pool.push(first)
    assert pool.pop([0], 4).value[:, 0].tolist() == [-5.0, -3.0]
    assert pool.unproved.tolist() == [[2, 2]]
    assert not pool.is_full
    pool.push(subdomains([-4.0, -0.5]))
    monkeypatch.setattr(pool_module, "_MOST_BYTES", first.n_bytes)
    assert pool.is_full
    assert pool.pop([0], 4).value[:, 0].tolist() == [-0.5, -1.0]
    assert pool.n_waiting(0) == 2


def test_each_example_has_a_queue_of_its_own_in_the_pool():
    pool = Pool(3, 2)
    pool.push(subdomains([-1.0, -3.0, -2.0, -5.0, -4.0], example=[0, 1, 0, 1, 2]))
    taken = pool.pop([0, 1], 1)
    assert taken.value[:, 0].tolist() == [-2.0, -5.0]
    assert taken.example.tolist() == [0, 1]
    # More than there was room for, some in the place of those that were taken.
    pool.push(subdomains([-7.0, -6.0, -8.0, -9.0], example=[0, 1, 1, 0]))
    assert pool.unproved.tolist() == [[3, 3], [3, 3], [1, 1]]
    pool.drop(0)
    assert [pool.n_waiting(example) for example in range(3)] == [0, 3, 1]
    assert pool.pop([1, 2], 9).value[:, 0].tolist() == [-8.0, -6.0, -3.0, -4.0]


@pytest.mark.parametrize("norm", NORMS)
def test_descent_ends_at_a_counterexample_within_the_ball(norm):
    model, x, y = problem(4)
    objective = margin_objectives(x, model(x), y).coefficients
    example, nothing = first_of(objective), torch.zeros(len(objective), dtype=torch.float64)
    margins, which = Margins.of(objective, nothing, example, 1), torch.arange(len(objective))
    found = {}
    for eps in (0.05, 0.9):
        ball = Ball(x, ThreatModel(norm, eps))
        start = x.expand(len(objective), *SHAPE)
        found[eps] = from_points(model, ball, margins, example, which, start, n_steps=20)
    assert not found[0.05]
    point = found[0.9][0]
    assert float((model(point[None]) @ objective.T).min()) <= 0
    checked = check_candidates(model, point[None], x, y, ThreatModel(norm, 0.9))
    assert bool(checked.fooled[0])


def test_what_is_rounded_before_a_sum_is_passed_on(monkeypatch):
    model = deep_sorting_network(7)
    state = Complete(split="neurons").prepare(model, (2, 1, 1))
    network = state.relaxation.exact
    x = torch.full((1, 2, 1, 1), 0.5)
    bounds, _ = intermediate_bounds(state.relaxation, Ball(x, ThreatModel("Linf", 0.1)))
    found = reduction._own_roundings(network, state.composition, bounds)
    logits = len(network.nodes)
    for k in (*network.preactivations, logits):
        # Each step's rounding, times the slopes of output k in its output.
        least = torch.zeros(1, found[k].shape[1], dtype=torch.float64)
        for j, node in enumerate(network.nodes, start=1):
            if isinstance(node, Affine) and node.rounding_units:
                step = node.rounding_units * network.unit * bounds.magnitudes[j].flatten(1)
                map_to = torch.eye(step.shape[1], dtype=torch.float64) if j == k else None
                map_to = affine._maps_from(network, j, {k}).get(k, map_to)
                least += 0.0 if map_to is None else step @ map_to.abs().T
        assert bool((found[k] >= least).all())
    monkeypatch.setattr(affine, "_MOST_AFTER_SUMS", 0)
    loose = reduction._own_roundings(network, affine.compose(network), bounds)
    assert float(loose[logits].max()) > 10 * float(found[logits].max())


@pytest.mark.parametrize("norm", NORMS)
def test_a_deep_network_of_skip_connections_is_decided(norm):
    model = deep_sorting_network(7)
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(6, 2, 1, 1, generator=draw)
    logits = model(x)
    y, eps = logits.argmax(dim=1), 0.1
    prepared = Complete(split="neurons").prepared(model, (2, 1, 1))
    proof = prepared.prove(x, logits, y, ThreatModel(norm, eps))
    proved = radii(proof) >= eps
    broken = model(proof.candidates).argmax(dim=1) != y
    assert bool((proved ^ broken).all())
    assert 0 < int(proved.sum()) < 6
