"""Each stage by itself: it gets a batch and returns results, and touches nothing else."""

import math

import pytest
import torch
from oracles import halfspaces, points
from oracles.certifiers import proving

from robustbench_dyn import Status, ThreatModel, evaluate
from robustbench_dyn.attacks import PGD
from robustbench_dyn.certification.base import Phase, Proof
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.evaluation.inputs import as_dataset
from robustbench_dyn.evaluation.outcomes import Batch, Broken, Certified, Failed, Open
from robustbench_dyn.evaluation.plan import arrange
from robustbench_dyn.evaluation.stages import AttackStage, CertifierStage, ClassRadii, CleanStage
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.results.verdicts import Outcome

DISTANCES = (0.1, 0.2, 0.3, 0.4)
L2 = ThreatModel("L2", 0.25)


def under_test(network=None):
    return ModelUnderTest(
        network or halfspaces(),
        as_dataset(points(DISTANCES), None),
        device=torch.device("cpu"),
        seed=0,
        batch_size=16,
        name=None,
    )


def batch(audited=(False,) * 4, eps=L2.eps):
    x, y = points(DISTANCES)
    return Batch(
        ids=range(4),
        x=x,
        y=y,
        threat_model=ThreatModel("L2", eps),
        audited=audited,
        size=16,
        seed=0,
    )


def lipschitz():
    return resolve_certifiers("lipschitz", halfspaces(), (1, 4, 4), "L2")


def excluding(radius):
    """Return a certifier of one ball that excludes every class up to a radius."""

    def prove(_state, x, logits, y, threat_model):
        holds = threat_model.eps if threat_model.eps <= radius else 0.0
        return Proof(torch.full(logits.shape, holds, dtype=torch.float64))

    return proving("ball", prove)


def raises(error):
    def fail(*_):
        raise error

    return fail


def test_the_clean_stage_agrees_with_exact_distances():
    model, certifiers = under_test(), lipschitz()
    stage = CleanStage(model, certifiers, ClassRadii(model, certifiers), "L2")
    results = stage.run(batch())
    assert [result.prediction for result in results] == [0, 1, 0, 1]
    assert [result.radius for result in results] == pytest.approx(DISTANCES, rel=1e-4)
    assert all(result.radius <= d for result, d in zip(results, DISTANCES, strict=True))
    assert {result.certifier for result in results} == {"lipschitz"}
    # A certifier that proves less than the ball was tried, and stands in the trail.
    assert [len(result.attempts) for result in results] == [1, 1, 0, 0]


def test_a_certifier_that_fails_on_the_clean_pass_names_nothing():
    faulty = proving("faulty", raises(ValueError("out of order")), phase=Phase.CLEAN)
    model = under_test()
    results = CleanStage(model, [faulty], ClassRadii(model, [faulty]), "L2").run(batch())
    for result in results:
        assert (result.certifier, math.isnan(result.radius)) == ("", True)
        (step,) = result.attempts
        assert (step.stage, step.outcome) == ("faulty", Outcome.NOT_APPLICABLE)


def test_a_certifier_of_one_ball_proves_it_or_leaves_it_open():
    stage = CertifierStage(under_test(), excluding(0.25), "L2")
    assert stage.run(batch()) == [Certified(certifier="ball", radius=0.25)] * 4
    assert stage.run(batch(eps=0.3)) == [Open(outcome=Outcome.OPEN)] * 4


def test_a_counterexample_of_a_certifier_is_checked():
    def prove(_state, x, logits, y, threat_model):
        # A swap of the first two coordinates crosses the plane: near for the first example alone.
        other = x.clone()
        other.view(len(x), -1)[:, :2] = x.view(len(x), -1)[:, :2].flip(1)
        return Proof(torch.zeros(logits.shape, dtype=torch.float64), other)

    results = CertifierStage(under_test(), proving("search", prove), "L2").run(batch())
    assert [type(result) for result in results] == [Broken, Broken, Open, Open]
    assert results[0].hit.attack == "search"
    assert results[0].hit.distance <= L2.eps


def test_an_attack_breaks_what_lies_nearer_than_eps():
    stage = AttackStage(under_test(), PGD(), ClassRadii(under_test(), []), first=True)
    results = stage.run(batch())
    assert [type(result) for result in results] == [Broken, Broken, Open, Open]
    assert {result.outcome for result in results[2:]} == {Outcome.SURVIVED}
    assert stage.phase is Phase.FIRST_ATTACK


def test_an_error_of_the_model_is_a_failure_of_the_attack():
    class Refusing(torch.nn.Module):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise ValueError("no gradients here")
            return halfspaces()(x)

    stage = AttackStage(under_test(Refusing()), PGD(), ClassRadii(under_test(), []), first=True)
    for result in stage.run(batch()):
        assert result == Failed(outcome=Outcome.FAILED, message="ValueError: no gradients here")


def test_a_certificate_under_audit_rules_no_class_out():
    model, certifiers = under_test(), lipschitz()
    radii = ClassRadii(model, certifiers).of(batch(audited=(True, False, True, False)))
    others = radii[torch.arange(4), 1 - batch().y]
    assert others[[0, 2]].tolist() == [0.0, 0.0]
    assert others[[1, 3]].tolist() == pytest.approx([0.2, 0.4], rel=1e-4)


def test_class_radii_are_remembered_from_the_clean_pass():
    model, certifiers = under_test(), lipschitz()
    known = ClassRadii(model, certifiers)
    CleanStage(model, certifiers, known, "L2").run(batch())
    before = model.network.forward_passes
    remembered = known.of(batch())
    assert model.network.forward_passes - before == 4
    assert torch.equal(remembered, ClassRadii(model, certifiers).of(batch()))


def test_stages_are_ordered_by_phase():
    late = proving("late", None, phase=Phase.AFTER_FIRST_ATTACK)
    last = proving("last", None, phase=Phase.LAST)
    early = proving("early", None)
    stages = arrange(under_test(), [last, late, early, *lipschitz()], [PGD(), PGD()], "L2")
    assert [stage.name for stage in stages] == [
        "certify",
        "early",
        "pgd",
        "late",
        "pgd",
        "last",
    ]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_hit_inside_a_radius_refutes_certain_certificates_alone(deterministic):
    boastful = excluding(0.25).certifier
    kind = type("Boastful", (type(boastful),), {"deterministic": deterministic})
    options = {"attacks": "pgd", "certifiers": [kind()]}
    if deterministic:
        with pytest.raises(Exception, match="inside a certified ball"):
            evaluate(halfspaces(), points(DISTANCES), L2, **options)
        return
    evaluation = evaluate(halfspaces(), points(DISTANCES), L2, **options)
    assert evaluation.summary["flags"] == "hits_inside_radius:2"
    broken = [v for v in evaluation.verdicts if v.status is Status.BROKEN]
    assert all(v.reason == "inside the radius of ball, which may be wrong" for v in broken)


def test_a_probabilistic_certifier_makes_no_other_one_uncertain():
    certain = excluding(0.25).certifier
    clean = {"phase": Phase.CLEAN}
    boastful = type("Boastful", (type(certain),), {**clean, "name": "boastful"})
    unsure = type("Unsure", (type(certain),), {**clean, "name": "unsure", "deterministic": False})
    prepared = [kind().prepared(halfspaces(), (1, 4, 4)) for kind in (boastful, unsure)]
    stage = CleanStage(under_test(), prepared, ClassRadii(under_test(), []), "L2")
    assert (stage.labels, stage.probabilistic) == (("boastful", "unsure"), {"unsure"})
    with pytest.raises(Exception, match="inside a certified ball"):
        evaluate(
            halfspaces(),
            points(DISTANCES),
            L2,
            attacks="pgd",
            certifiers=[boastful(), unsure()],
        )
