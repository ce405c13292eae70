"""The plugin neural_ode: fixed steps, Lipschitz bounds, and batch coupling of adaptive solvers."""

import pytest
import torch
from oracles.networks import inputs
from oracles.networks import neural_ode as network

from robustbench_dyn import ThreatModel, evaluate, load_model
from robustbench_dyn.errors import CertificateError, RegistryError
from robustbench_dyn.flows import Flow, lipschitz_bound
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.models.loading import discover
from robustbench_dyn.properties import (
    BatchIndependent,
    Convergent,
    check_properties,
    claims_for_all,
)
from robustbench_dyn.properties.jacobians import operator_norms

FIXED = {"euler": "euler", "heun2": "heun", "rk4": "rk4_38"}


def block_and_state(**options):
    model = network(**options).double()
    return model.features[-2], model.features[:-2](inputs().double())


@pytest.mark.parametrize(("method", "name"), FIXED.items())
def test_fixed_steps_equal_those_of_flow(method, name):
    block, x = block_and_state(method=method, n_steps=3)
    flow = Flow(block.field, method=name, n_steps=3)
    # The times of the stages are summed in another order, hence the tolerance.
    torch.testing.assert_close(block(x), flow(x), rtol=0, atol=1e-12)
    expected = torch.stack([*flow.trajectory(x)])
    torch.testing.assert_close(torch.stack([*block.trajectory(x)]), expected, rtol=0, atol=1e-12)
    # Negative control: the methods differ.
    assert all(
        (block(x) - Flow(block.field, method=other, n_steps=3)(x)).abs().max() > 1e-6
        for other in ("euler", "heun", "rk4", "rk4_38")
        if other != name
    )


def test_all_solvers_converge_to_one_flow():
    block, x = block_and_state(method="rk4", n_steps=64)
    tight, _ = block_and_state(method="dopri5", rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tight(x), block(x), rtol=1e-6, atol=1e-6)
    # Negative control: loose tolerances do not converge.
    loose, _ = block_and_state(method="dopri5", rtol=1e-1, atol=1e-1)
    assert (loose(x) - block(x)).abs().max() > 1e-4


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun2", 2), ("rk4", 4)])
def test_the_convergence_order_is_the_claimed_one(method, order):
    model = network(method=method)
    claims = list(discover().get("neural_ode").claims(model))
    assert claims == [Convergent("features.2", order)]
    assert all(finding.holds for finding in check_properties(model, claims, inputs()))
    false_claim = [Convergent("features.2", order + 1)]
    assert not any(finding.holds for finding in check_properties(model, false_claim, inputs()))


# Batch coupling


def coupling(model):
    return list(check_properties(model, [BatchIndependent()], inputs(), search=False))


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_do_not_couple_a_batch(method):
    assert all(finding.holds for finding in coupling(network(method=method)))


def test_an_adaptive_solver_couples_a_batch():
    model = network(method="dopri5")
    broken = [finding for finding in coupling(model) if not finding.holds]
    assert {finding.points for finding in broken} == {"data", "random"}
    # The logits of the counterexample alone and in another batch differ.
    witness = broken[0].witness
    model.double()
    with torch.no_grad():
        alone = model(witness)
        batched = model(torch.cat([witness, 1 - inputs().double()]))[:1]
    assert (alone - batched).abs().max() > broken[0].tolerance
    # Tighter tolerances reduce the coupling.
    tight = max(f.defect for f in coupling(network(method="dopri5", rtol=1e-9, atol=1e-9)))
    assert tight < max(finding.defect for finding in broken)


# Bounds


@pytest.mark.parametrize("method", FIXED)
def test_the_bound_of_fixed_steps_exceeds_the_jacobian_norm(method):
    block, x = block_and_state(method=method)
    assert float(operator_norms(block, x).detach().max()) <= lipschitz_bound(block) < torch.inf


def test_an_adaptive_solver_has_no_bound():
    model = network(method="dopri5")
    with pytest.raises(CertificateError, match="dopri5, whose steps depend on its input"):
        lipschitz_bound(model)
    assert {claim.name for claim in claims_for_all(model)} == {"batch-independent", "deterministic"}
    assert list(discover().get("neural_ode").claims(model)) == []


# Evaluation


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("heun2", ["finer", "euler", "backbone"]),
        ("euler", ["finer", "heun2", "backbone"]),
        ("dopri5", ["rk4", "looser", "backbone"]),
    ],
)
def test_surrogates_share_weights_and_have_other_logits(method, names):
    model = network(method=method, **({"rtol": 1e-2, "atol": 1e-2} if method == "dopri5" else {}))
    surrogates = surrogates_of(model)
    assert list(surrogates) == names
    own = {id(parameter) for parameter in model.parameters()}
    for surrogate in surrogates.values():
        assert {id(parameter) for parameter in surrogate.parameters()} <= own
        with torch.no_grad():
            assert not torch.allclose(surrogate(inputs()), model(inputs()))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_a_row_has_a_vacuous_certificate_and_transfer(norm):
    model = load_model("neural_ode", dataset="moons")
    threat_model = ThreatModel(norm, 0.2)
    row = evaluate(
        model,
        "moons",
        threat_model,
        n_examples=8,
        attacks="standard",
        certifiers="lipschitz",
    ).summary
    assert row["certified_accuracy"] == 0.0
    assert row["certifiers"] == ("lipschitz" if norm == "L2" else "lipschitz-from-L2")
    assert row["attacks"].split("+")[-1] == "transfer"
    assert row["clean_accuracy"] == 1.0


def test_its_traced_steps_close_the_bracket():
    model = load_model("neural_ode", dataset="moons")
    found = evaluate(model, "moons", ThreatModel("L2", 0.04), n_examples=8, attacks="standard")
    assert found.summary["certified_accuracy"] == found.summary["empirical_accuracy"] == 1.0
    assert {"linear_relaxation", "complete"} <= set(found.summary["certifiers"].split("+"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "leapfrog"}, "'leapfrog' is unknown; choose one of euler"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"method": "dopri5", "rtol": 0.0}, "must be positive"),
        ({"shape": (1, 6, 6)}, "divisible by 4"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(RegistryError, match=message):
        network(**options)
