"""Branch and bound: what it proves is true, whatever the solver of linear programs says."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from enumeration import least_difference, tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from robustbench_dyn import ThreatModel, load_model
from robustbench_dyn.certification import branching, complete, programs, radii, resolve_certifiers
from robustbench_dyn.certification.balls import Ball
from robustbench_dyn.certification.branching import LinearProgram, lower_bound, prove_above
from robustbench_dyn.certification.pairs import pairs_to_prove
from robustbench_dyn.certification.programs import Program
from robustbench_dyn.certification.tightening import relaxed_bounds
from robustbench_dyn.flows import frozen
from robustbench_dyn.judging import judge

EXACT = 1e-6  # of the enumeration's linear programs


def network(seed, norm, eps):
    """Return a model, x and y, its program, and the pairs (label, rival)."""
    model = tiny_network(seed, widths=(3, 2)).requires_grad_(False)
    x = torch.rand(1, 1, 1, 3, generator=torch.Generator().manual_seed(seed)).double()
    y = model(x).argmax(dim=1)
    (prepared,) = resolve_certifiers("complete", model, (1, 1, 3), norm)
    state, ball = prepared.state, Ball(x, ThreatModel(norm, eps))
    bounds, _ = relaxed_bounds(state.relaxed, ball)
    program = Program(state.relaxed.exact, state.composition, bounds, ball, 0)
    return model, x, y, program, pairs_to_prove(x, model(x), y)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(["Linf", "L1"]), st.floats(0.02, 0.5),
    st.floats(1e-4, 1.0),
)  # fmt: skip
def test_what_lies_below_the_minimum_is_proved_and_what_lies_above_is_refuted(
    seed, norm, eps, distance
):
    model, x, y, program, pairs = network(seed, norm, eps)
    last = max(program.composition.maps)
    for row, rival in zip(pairs.differences.numpy(), pairs.rival.tolist(), strict=True):
        exact = least_difference(model, x.flatten(), int(y), rival, norm, eps)
        below = program.prove_above(last, row, exact - distance, seconds=60)
        assert below.proved
        above = program.prove_above(last, row, exact + distance, seconds=60)
        assert not above.proved
        logits = model(torch.from_numpy(above.x).view_as(x))[0]
        assert float(logits[int(y)] - logits[rival]) <= exact + distance + EXACT


def problem(seed, n=6, m=4):
    """Return a random program over [0, 1]^n with a feasible point."""
    draw = np.random.default_rng(seed)
    inside = draw.random(n)
    at_most, equal = draw.normal(size=(m, n)), draw.normal(size=(1, n))
    return LinearProgram(
        cost=draw.normal(size=n), constant=float(draw.normal()),
        at_most=sparse.csr_matrix(at_most), sides=at_most @ inside + 0.1 * draw.random(m),
        equal=sparse.csr_matrix(equal), values=equal @ inside,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_no_dual_values_give_a_bound_above_the_minimum(seed, monkeypatch):
    program, low, high = problem(seed), np.zeros(6), np.ones(6)
    honest = lower_bound(program, low, high)
    minimum = float(program.cost @ honest.x) + program.constant
    # The solver ends within 1e-7 of the optimum.
    assert minimum - 1e-6 < honest.value <= minimum + 1e-7
    draw = np.random.default_rng(seed)

    def lying(*_arguments, **_options):
        marginals = [SimpleNamespace(marginals=draw.normal(size=k) * 3) for k in (4, 1)]
        return SimpleNamespace(x=low, status=0, ineqlin=marginals[0], eqlin=marginals[1])

    monkeypatch.setattr(branching, "linprog", lying)
    for _ in range(20):
        assert lower_bound(program, low, high).value <= minimum + 1e-7


def test_dual_values_of_the_wrong_sign_would_be_caught(monkeypatch):
    # Negative control for the test above: without u >= 0 bounds exceed the minimum.
    monkeypatch.setattr(branching.np, "maximum", lambda a, _b: a)
    with pytest.raises(AssertionError):
        for seed in range(20):
            test_no_dual_values_give_a_bound_above_the_minimum(seed, monkeypatch)


def test_where_there_is_no_point_everything_is_proved_and_the_solvers_word_is_not_enough(
    monkeypatch,
):
    empty = problem(0)._replace(
        at_most=sparse.csr_matrix(np.ones((1, 6))), sides=np.array([-0.5]),
        equal=sparse.csr_matrix((0, 6)), values=np.zeros(0),
    )  # fmt: skip
    box, none = (np.zeros(6), np.ones(6)), np.zeros(0, dtype=int)
    assert prove_above(empty, *box, none, np.zeros(0), 1e6, seconds=5).proved
    monkeypatch.setattr(
        branching, "linprog", lambda *_a, **_k: SimpleNamespace(x=None, status=2, fun=None)
    )
    assert not prove_above(empty, *box, none, np.zeros(0), 1e6, seconds=5).proved
    assert not prove_above(problem(0), *box, none, np.zeros(0), -1e6, seconds=0).proved


def test_a_solver_that_claims_too_high_a_bound_is_not_believed(monkeypatch):
    honest, eps = programs.milp, 0.4

    def lying(*arguments, **options):
        said = dict(honest(*arguments, **options)) | {"mip_dual_bound": 1e6, "x": None}
        return SimpleNamespace(**said)

    monkeypatch.setattr(programs, "milp", lying)
    wrong = believed = 0
    for seed in range(30):
        model, x, y, _, pairs = network(seed, "Linf", eps)
        exact = min(least_difference(model, x.flatten(), int(y), j, "Linf", eps)
                    for j in pairs.rival.tolist())  # fmt: skip
        with frozen(model):
            (prepared,) = resolve_certifiers("complete", model, (1, 1, 3), "Linf")
            proof = prepared.prove(x, model(x), y, ThreatModel("Linf", eps))
        certified = bool(radii(proof)[0] >= eps)
        assert not certified or exact > 0
        believed += certified
        wrong += exact < 0
    assert wrong >= 2
    assert believed >= 2


def test_a_point_that_a_presolve_cuts_off_is_found(monkeypatch):
    # HiGHS, as scipy 1.17 has it, gives this program the minimum 34.9; without presolve -1.2.
    monkeypatch.setattr(complete, "SECONDS_AN_EXAMPLE", 60.0)
    model = load_model("volume_preserving", dataset="moons")
    x = torch.tensor([0.605438232421875, 0.61572265625]).view(1, 2, 1, 1)
    y, threat_model = torch.tensor([0]), ThreatModel("Linf", 0.11166799182492239)
    with frozen(model), torch.no_grad():
        (prepared,) = resolve_certifiers("complete", model, (2, 1, 1), "Linf")
        proof = prepared.prove(x, model(x), y, threat_model)
        assert not bool(radii(proof)[0] >= threat_model.eps)
        assert bool(judge(model, proof.candidates, x, y, threat_model).fooled[0])
