"""State transitions of one example, branch by branch, on small verdicts."""

import math
from dataclasses import replace

import pytest

from robustbench_dyn.evaluation.audit import audit_failed, sample_for_audit
from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.evaluation.outcomes import Broken, Certified, Classified, Failed, Open, Result
from robustbench_dyn.evaluation.transitions import (
    Later,
    advance,
    broken,
    certified,
    explain,
    infer_from_other_eps,
    initial_verdict,
    skip_to,
    unattacked_by,
    waiting_for,
    without_certificate,
)
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

EPS = 0.5
SURVIVED, FAILED, OPEN = Outcome.SURVIVED, Outcome.FAILED, Outcome.OPEN
# An evaluation with a certifier between its two attacks, and one after them.
PGD, PROOF, SQUARE, SEARCH = (
    Later("pgd", proves=False),
    Later("proof", proves=True),
    Later("square", proves=False),
    Later("search", proves=True),
)
STAGES = (PGD, PROOF, SQUARE, SEARCH)


def step(stage, outcome, eps=EPS, message=""):
    return Step(stage, outcome, eps, message)


def after_clean_pass(*, prediction=1, radius=math.nan, trail=(), stages=STAGES, eps=EPS):
    found = Classified(
        prediction=prediction,
        radius=radius,
        certifier="lipschitz" if radius > 0 else "",
        attempts=tuple(trail),
        message="" if prediction >= 0 else "the logits are not finite",
    )
    return initial_verdict(7, 1, found, eps, stages)


def undecided(*trail, next_stage="", eps=EPS, **changes):
    return Verdict(
        example_id=7,
        label=1,
        prediction=1,
        status=Status.UNDECIDED,
        eps=eps,
        reason="-",
        trail=trail,
        next_stage=next_stage,
        **changes,
    )


def proved(*trail, radius=0.6, eps=EPS, certifier="lipschitz", **changes):
    return Verdict(
        example_id=7,
        label=1,
        prediction=1,
        status=Status.CERTIFIED,
        eps=eps,
        certified_radius=radius,
        certifier=certifier,
        trail=trail,
        **changes,
    )


def wrong(eps=EPS, **changes):
    return Verdict(
        example_id=7, label=1, prediction=0, status=Status.MISCLASSIFIED, eps=eps, **changes
    )


def names(verdict):
    return [(step.stage, step.outcome.value) for step in verdict.trail]


# After the clean pass


def test_logits_that_are_not_finite_are_an_error():
    verdict = after_clean_pass(prediction=-1, radius=0.9)
    assert (verdict.status, verdict.next_stage) == (Status.ERROR, "")
    assert verdict.reason == "the logits are not finite"
    assert verdict.certifier == ""
    assert math.isnan(verdict.certified_radius)


def test_a_wrong_prediction_is_final_and_proves_nothing():
    verdict = after_clean_pass(prediction=0, radius=0.9)
    assert (verdict.status, verdict.next_stage) == (Status.MISCLASSIFIED, "")
    assert verdict.certifier == ""
    assert math.isnan(verdict.certified_radius)


@pytest.mark.parametrize("radius", [EPS, 0.9, math.inf])
def test_a_radius_of_at_least_eps_certifies(radius):
    tried = step("interval", Outcome.NOT_APPLICABLE, message="ValueError: no")
    verdict = after_clean_pass(radius=radius, trail=[tried])
    assert (verdict.status, verdict.next_stage) == (Status.CERTIFIED, "")
    assert (verdict.certifier, verdict.certified_radius) == ("lipschitz", radius)
    assert names(verdict) == [("lipschitz", "certified"), ("interval", "not applicable")]


@pytest.mark.parametrize("radius", [math.nan, 0.1, math.nextafter(EPS, 0)])
def test_a_smaller_radius_leaves_the_example_to_the_first_stage(radius):
    verdict = after_clean_pass(radius=radius)
    assert (verdict.status, verdict.next_stage) == (Status.UNDECIDED, "pgd")
    assert verdict.reason == "next: pgd"
    # The certifier names what proved a radius, and nothing where nothing is proved.
    assert verdict.certifier == ("lipschitz" if radius > 0 else "")
    assert verdict.certified_radius == pytest.approx(radius, nan_ok=True)


def test_without_stages_the_clean_pass_is_final():
    verdict = after_clean_pass(stages=())
    assert (verdict.next_stage, verdict.reason) == ("", "no attack was run")


# After a stage


@pytest.mark.parametrize(
    ("trail", "later", "expected"),
    [
        ((), STAGES, "pgd"),
        ((), (PROOF, SQUARE), "proof"),
        ((step("pgd", SURVIVED),), STAGES, "proof"),
        ((step("pgd", SURVIVED),), (PGD, SQUARE), "square"),
        # Survived within a larger ball, hence within this one; not the other way round.
        ((step("pgd", SURVIVED, 0.75),), (PGD, SQUARE), "square"),
        ((step("pgd", SURVIVED, 0.25),), (PGD, SQUARE), "pgd"),
        # A failure at this eps is not repeated by the caller, who passes later stages alone.
        ((step("pgd", FAILED),), (PROOF, SQUARE), "proof"),
        ((step("pgd", FAILED),), (PGD, SQUARE), "pgd"),
        ((step("pgd", SURVIVED), step("square", SURVIVED)), (PGD, SQUARE), ""),
        ((step("proof", OPEN),), (PROOF,), "proof"),
        ((), (), ""),
    ],
)
def test_an_undecided_example_goes_on_to_the_next_stage(trail, later, expected):
    verdict = skip_to(undecided(*trail), later)
    assert verdict.next_stage == expected
    assert verdict.status is Status.UNDECIDED
    assert (verdict.reason == f"next: {expected}") == bool(expected)


def test_what_an_example_went_through_is_added_to_its_trail():
    before = undecided(step("pgd", SURVIVED), next_stage="proof")
    verdict = skip_to(before, (SQUARE, SEARCH), step("proof", OPEN))
    assert names(verdict) == [("pgd", "survived"), ("proof", "open")]
    assert verdict.next_stage == "square"
    assert before.trail == (step("pgd", SURVIVED),)


def test_a_certified_example_meets_attacks_alone():
    audited = proved(step("lipschitz", Outcome.CERTIFIED), next_stage="pgd")
    verdict = skip_to(audited, (PROOF, SQUARE, SEARCH), step("pgd", SURVIVED))
    assert (verdict.status, verdict.next_stage) == (Status.CERTIFIED, "square")
    last = skip_to(verdict, (SEARCH,), step("square", SURVIVED))
    assert (last.next_stage, last.reason) == ("", "audited: survived pgd+square")


def test_waiting_for_no_stage_makes_a_verdict_final():
    pending = waiting_for(undecided(step("pgd", SURVIVED)), "square")
    assert (pending.next_stage, pending.reason) == ("square", "next: square")
    final = waiting_for(pending, "")
    assert (final.next_stage, final.reason) == ("", "survived pgd")


def test_a_broken_example_is_final_with_its_evidence():
    verdict = broken(
        undecided(step("pgd", SURVIVED), next_stage="square"), Hit("square", 0.4, b"x")
    )
    assert (verdict.status, verdict.next_stage, verdict.reason) == (Status.BROKEN, "", "")
    assert (verdict.attack, verdict.adversarial_distance, verdict.x_adv) == ("square", 0.4, b"x")
    assert names(verdict) == [("pgd", "survived"), ("square", "broken")]


def test_a_later_certificate_is_final_with_its_radius():
    before = undecided(step("pgd", SURVIVED), next_stage="proof")
    verdict = certified(before, "proof", 0.55)
    assert (verdict.status, verdict.next_stage) == (Status.CERTIFIED, "")
    assert (verdict.certifier, verdict.certified_radius) == ("proof", 0.55)
    assert names(verdict) == [("pgd", "survived"), ("proof", "certified")]


@pytest.mark.parametrize(
    ("result", "status", "next_stage", "outcome"),
    [
        (Broken(hit=Hit("pgd", 0.4, b"x")), Status.BROKEN, "", Outcome.BROKEN),
        (Certified(certifier="proof", radius=0.5), Status.CERTIFIED, "", Outcome.CERTIFIED),
        (Open(outcome=SURVIVED), Status.UNDECIDED, "proof", SURVIVED),
        (Open(outcome=OPEN, message="timed out"), Status.UNDECIDED, "proof", OPEN),
        (Failed(outcome=FAILED, message="E: next: x"), Status.UNDECIDED, "proof", FAILED),
    ],
)
def test_each_result_of_a_stage_leads_to_its_state(result, status, next_stage, outcome):
    verdict = advance(undecided(next_stage="pgd"), "pgd", result, (PROOF, SQUARE))
    assert (verdict.status, verdict.next_stage) == (status, next_stage)
    assert verdict.trail[-1].outcome is outcome
    assert verdict.trail[-1].message == getattr(result, "message", "")


def test_what_is_no_result_of_a_stage_is_refused():
    with pytest.raises(TypeError, match="no result of a stage"):
        advance(undecided(), "pgd", Result(), STAGES)


# Certificates that are withdrawn


def test_without_its_certificate_an_example_meets_the_attacks():
    verdict = without_certificate(proved(), "it draws at random", (PGD, SQUARE))
    assert (verdict.status, verdict.next_stage) == (Status.UNDECIDED, "pgd")
    assert verdict.certifier == ""
    assert math.isnan(verdict.certified_radius)
    assert verdict.trail == (step("lipschitz", Outcome.WITHDRAWN, message="it draws at random"),)
    final = without_certificate(proved(), "it draws at random", ())
    assert final.reason == "no attack was run; lipschitz withdrawn: it draws at random"


def test_an_audited_example_keeps_the_attacks_it_survived():
    verdict = without_certificate(proved(step("pgd", SURVIVED)), "why", (PGD, SQUARE))
    assert verdict.next_stage == "square"


def test_withdrawing_leaves_what_needs_no_certificate():
    untouched = undecided(step("pgd", SURVIVED))
    assert without_certificate(untouched, "why", STAGES) is untouched
    hit = broken(proved(radius=0.6), Hit("pgd", 0.4, b"x"))
    bare = without_certificate(hit, "why", STAGES)
    assert (bare.status, bare.next_stage, bare.certifier) == (Status.BROKEN, "", "")
    assert math.isnan(bare.certified_radius)


# Audits


@pytest.mark.parametrize(
    ("trail", "expected"),
    [
        ((), "pgd"),
        ((step("pgd", SURVIVED),), "square"),
        # A failed attack ran: an audit does not repeat it.
        ((step("pgd", FAILED),), "square"),
        ((step("pgd", SURVIVED, 0.75), step("square", SURVIVED)), ""),
        ((step("pgd", SURVIVED, 0.25),), "pgd"),
        ((step("pgd", OPEN),), "pgd"),
    ],
)
def test_an_audit_runs_each_attack_that_has_not_run(trail, expected):
    assert unattacked_by(proved(*trail), STAGES) == expected


def test_an_audit_takes_the_share_but_at_least_six():
    sample = [numbered(k) for k in range(3)]
    assert len(sample_for_audit(sample, 0.01, 0)) == 3
    many = [numbered(k) for k in range(1000)]
    assert len(sample_for_audit(many, 0.001, 0)) == 6
    assert len(sample_for_audit(many, 0.0101, 0)) == 11
    assert sample_for_audit(many, 0.0, 0) == []


def test_an_audit_sample_depends_on_seed_and_ids_alone():
    many = [numbered(k) for k in range(100)]
    chosen = sample_for_audit(many, 0.1, 0)
    assert sample_for_audit(many[::-1], 0.1, 0) == chosen
    assert sample_for_audit(many, 0.1, 1) != chosen
    # What was chosen of more examples stays chosen of fewer.
    assert {v.example_id for v in sample_for_audit(chosen, 1.0, 0)} == {
        v.example_id for v in chosen
    }


def test_an_audit_takes_the_smallest_radii_and_the_largest():
    radii = [0.5 + ((37 * k) % 100) / 100 for k in range(100)]
    many = [replace(numbered(k), certified_radius=radius) for k, radius in enumerate(radii)]
    for seed in range(5):
        chosen = {v.certified_radius for v in sample_for_audit(many, 0.01, seed)}
        assert {0.5, 0.51, 0.52, 0.53, 1.49} < chosen
        assert len(chosen) == 6


def test_an_audit_failed_where_no_attack_on_a_certificate_ended():
    ended = proved(Step("pgd", Outcome.FAILED, EPS), Step("square", Outcome.SURVIVED, EPS))
    failed = proved(Step("pgd", Outcome.FAILED, EPS))
    label = failed.certifier
    assert audit_failed([failed, proved()], {label})
    assert not audit_failed([failed, ended], {label})
    assert not audit_failed([proved()], {label})
    assert not audit_failed([failed], {"another"})


def numbered(example_id):
    return Verdict(
        example_id=example_id,
        label=1,
        prediction=1,
        status=Status.CERTIFIED,
        eps=EPS,
        certified_radius=0.6,
        certifier="lipschitz",
    )


# From other eps


def test_broken_within_a_distance_is_broken_at_any_larger_eps():
    hit = broken(
        undecided(eps=0.75, forward_passes=9, backward_passes=8, seconds=1.0), Hit("pgd", 0.4, b"x")
    )
    for eps in (0.4, 0.5, 2.0):
        verdict = infer_from_other_eps([undecided(eps=0.1), hit], eps, STAGES)
        assert (verdict.status, verdict.eps) == (Status.BROKEN, eps)
        assert (verdict.attack, verdict.adversarial_distance, verdict.x_adv) == ("pgd", 0.4, b"x")
        assert (verdict.forward_passes, verdict.backward_passes, verdict.seconds) == (0, 0, 0.0)


def test_broken_beyond_eps_says_nothing_at_eps():
    # Nor do the attacks that it survived before one found something.
    hit = broken(undecided(step("pgd", SURVIVED, 0.75), eps=0.75), Hit("square", 0.6, b"x"))
    verdict = infer_from_other_eps([hit], EPS, STAGES)
    assert (verdict.status, verdict.next_stage, verdict.trail) == (Status.UNDECIDED, "pgd", ())
    assert verdict.attack == ""


def test_certified_within_a_radius_is_certified_below_it():
    known = [undecided(eps=0.9), proved(radius=0.6)]
    verdict = infer_from_other_eps(known, 0.55, STAGES)
    assert (verdict.status, verdict.certified_radius) == (Status.CERTIFIED, 0.6)
    assert names(verdict) == [("lipschitz", "certified")]
    beyond = infer_from_other_eps(known, 0.7, STAGES)
    assert (beyond.status, beyond.next_stage) == (Status.UNDECIDED, "pgd")
    assert beyond.certified_radius == 0.6


def test_the_largest_radius_of_all_eps_counts():
    known = [
        undecided(eps=0.9, certified_radius=0.2, certifier="lipschitz"),
        proved(radius=0.8, eps=0.8, certifier="proof"),
        proved(radius=0.6),
    ]
    for order in (known, known[::-1]):
        verdict = infer_from_other_eps(order, 0.7, STAGES)
        assert (verdict.certifier, verdict.certified_radius) == ("proof", 0.8)


def test_survived_within_a_radius_is_survived_below_it():
    known = undecided(step("pgd", SURVIVED, 0.75), step("square", SURVIVED, 0.75), eps=0.75)
    below = infer_from_other_eps([known], EPS, (PGD, SQUARE))
    assert (below.next_stage, below.reason) == ("", "survived pgd+square within eps 0.75")
    above = infer_from_other_eps([known], 0.8, (PGD, SQUARE))
    assert (above.next_stage, above.trail) == ("pgd", ())


def test_a_certifier_runs_again_below_the_eps_where_it_failed():
    known = undecided(step("pgd", SURVIVED, 0.75), step("proof", OPEN, 0.75), eps=0.75)
    verdict = infer_from_other_eps([known], EPS, STAGES)
    assert (verdict.next_stage, names(verdict)) == ("proof", [("pgd", "survived")])


def test_pending_verdicts_and_failures_are_not_carried_over():
    pending = undecided(step("pgd", SURVIVED, 0.75), next_stage="square", eps=0.75)
    failed = undecided(step("pgd", FAILED, 0.75, "boom"), eps=0.75)
    for known in (pending, failed):
        verdict = infer_from_other_eps([known], EPS, STAGES)
        assert (verdict.next_stage, verdict.trail) == ("pgd", ())


def test_a_certifier_of_the_clean_pass_keeps_its_failure():
    crashed = step("interval", Outcome.NOT_APPLICABLE, 0.75, "ValueError: no")
    later = step("proof", Outcome.NOT_APPLICABLE, 0.75, "ValueError: no")
    verdict = infer_from_other_eps([undecided(crashed, later, eps=0.75)], EPS, STAGES)
    # `proof` is among the stages to come, and is tried again there.
    assert verdict.trail == (crashed,)


def test_misclassified_at_one_eps_is_misclassified_at_all():
    verdict = infer_from_other_eps([wrong(eps=0.75, forward_passes=9)], EPS, STAGES)
    assert (verdict.status, verdict.eps, verdict.next_stage) == (Status.MISCLASSIFIED, EPS, "")
    assert verdict.forward_passes == 0


# Words


@pytest.mark.parametrize(
    ("status", "next_stage", "trail", "words"),
    [
        (Status.UNDECIDED, "pgd", (step("square", SURVIVED),), "next: pgd"),
        (Status.CERTIFIED, "pgd", (), "next: pgd"),
        (Status.UNDECIDED, "", (), "no attack was run"),
        (Status.UNDECIDED, "", (step("pgd", FAILED),), "no attack ran to its end"),
        (
            Status.UNDECIDED,
            "",
            (step("pgd", FAILED, message="E: x"),),
            "no attack ran to its end; pgd failed: E: x",
        ),
        (
            Status.UNDECIDED,
            "",
            (step("search", OPEN, message="timed out"), step("pgd", SURVIVED)),
            "survived pgd; search timed out",
        ),
        (
            Status.UNDECIDED,
            "",
            (step("pgd", SURVIVED, 0.75), step("square", SURVIVED)),
            "survived square; survived pgd within eps 0.75",
        ),
        (Status.CERTIFIED, "", (), ""),
        (Status.CERTIFIED, "", (step("pgd", SURVIVED),), "audited: survived pgd"),
        # What it survived before it was certified is no audit.
        (Status.CERTIFIED, "", (step("pgd", SURVIVED), step("proof", Outcome.CERTIFIED)), ""),
        (Status.BROKEN, "", (step("pgd", SURVIVED),), ""),
        (Status.MISCLASSIFIED, "", (), ""),
    ],
)
def test_the_reason_tells_the_trail(status, next_stage, trail, words):
    assert explain(status, next_stage, trail, EPS) == words


def test_certifiers_that_proved_too_little_stand_in_the_trail():
    tried = step("lipschitz", OPEN, 0.75)
    known = undecided(tried, eps=0.75, certified_radius=0.6, certifier="lipschitz")
    below, between = (infer_from_other_eps([known], eps, STAGES) for eps in (0.5, 0.7))
    assert (below.status, names(below)) == (Status.CERTIFIED, [("lipschitz", "certified")])
    assert (between.status, between.trail) == (Status.UNDECIDED, (step("lipschitz", OPEN, 0.7),))


def test_attempts_at_a_wrong_prediction_are_not_told():
    tried = [step("lipschitz", OPEN), step("interval", Outcome.NOT_APPLICABLE, message="E")]
    assert names(after_clean_pass(trail=tried))[0] == ("lipschitz", "open")
    assert names(after_clean_pass(prediction=0, trail=tried)) == [("interval", "not applicable")]
