"""Evidence against itself: what no evaluation of this package can have written.

A forger can recompute every hash and every column. These checks ask more: a status has to follow
from the stages behind it, and the stages have to be those of the evaluation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from robustbench_dyn.attacks.catalogue import ATTACKS, SUITES
from robustbench_dyn.plugins import BUILT_IN
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.flags import NOT_A_FUNCTION
from robustbench_dyn.results.sampling import ran_and_spared, sample_size, spares_none
from robustbench_dyn.results.spec import StageSpec
from robustbench_dyn.results.verdicts import Outcome, Status, Verdict, alike
from robustbench_dyn.verification.findings import Finding, shown_ids

# The attack of an adversarial example that was handed in after publication.
SUBMITTED = "submitted"
_ATTACKED = (Outcome.SURVIVED, Outcome.BROKEN, Outcome.FAILED, Outcome.SPARED)
# What a suite was in earlier versions.
_BEFORE = {"standard": "standard-full"}


def contradictions_within(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with evidence by itself."""
    groups = alike(evidence.verdicts)
    yield from _examples(evidence)
    yield from _suite(evidence)
    yield from _samples(evidence, groups)
    yield from _corrections(evidence)
    wrong: dict[tuple[str, str], list[int]] = defaultdict(list)
    for check, said, ids in _wrong_numbers(evidence):
        wrong[check, said] += ids
    rules: tuple[tuple[str, Callable[[Evidence, Verdict], str]], ...] = (
        ("stages", _unknown_stage),
        ("status", _status_without_stage),
        ("attacks", _missing_attack),
    )
    for check, rule in rules:
        for group in groups:
            if said := rule(evidence, group[0]):
                wrong[check, said] += [verdict.example_id for verdict in group]
    for (check, said), ids in wrong.items():
        # One sentence an example would bury the others.
        if examples := tuple(sorted(ids)):
            yield Finding(check, f"{shown_ids(examples)}: {said}", examples)


def _wrong_numbers(evidence: Evidence) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the check, the sentence and the examples of each rule that numbers alone break."""
    verdicts = evidence.verdicts
    # Written so that NaN fails it.
    costly = [
        v.example_id
        for v in verdicts
        if not 0 <= v.forward_passes < math.inf
        or not 0 <= v.backward_passes < math.inf
        or not 0 <= v.seconds < math.inf
    ]
    yield "costs", "the passes and seconds are no numbers of at least 0", costly
    robust = [
        v.example_id
        for v in verdicts
        if v.certified_radius >= evidence.eps and v.status is Status.UNDECIDED
    ]
    yield "status", "undecided, but its certified radius is at least eps", robust
    if evidence.record.spec.smoothing is None:
        refuted = [
            v.example_id
            for v in verdicts
            if v.adversarial_distance <= v.certified_radius and v.status is not Status.CERTIFIED
        ]
        yield "radius", "its adversarial example lies inside its certified radius", refuted


def _examples(evidence: Evidence) -> Iterator[Finding]:
    ids = [verdict.example_id for verdict in evidence.verdicts]
    # Ids may be any numbers: the gaps are not listed one by one.
    if gaps := tuple(a + 1 for a, b in pairwise(ids) if b != a + 1):
        yield Finding(
            "examples",
            f"{shown_ids(gaps)} and perhaps those behind are missing; a row counts a range of "
            "examples, none left out",
            gaps,
        )
    kept = sorted(v.example_id for v in evidence.verdicts if v.x_adv is not None)
    wanted = evidence.sampled()
    if kept != wanted:
        differ = sorted(set(kept).symmetric_difference(wanted))
        yield Finding(
            "sample",
            f"the adversarial examples that are kept are not those that the rule chooses "
            f"({shown_ids(differ)} differ)",
            tuple(differ),
        )


def _suite(evidence: Evidence) -> Iterator[Finding]:
    """Hold the name of a suite to the attacks that it stands for."""
    record, spec = evidence.record, evidence.record.spec
    suite = record.suite
    if suite in ("", "custom") or spec.smoothing is not None:
        return
    if suite not in SUITES:
        yield Finding("suite", f"no suite is called {suite!r}, which the row says was run")
        return
    ran = [_member(stage) for stage in spec.attacks]
    # How many classes there are, and whether there are surrogates, is not in the record.
    members = [
        [
            (attack.name, attack.only_on_signs, attack.sampled, attack.settings())
            for attack in SUITES.get(name).attacks(spec.norm, n_classes, surrogates)
        ]
        for name in (suite, _BEFORE.get(suite, suite))
        for n_classes in (2, 3, 10)
        for surrogates in (False, True)
    ]
    if ran not in members:
        names = "+".join(stage.name for stage in spec.attacks) or "none"
        yield Finding("suite", f"the suite {suite} has other attacks than {names} with settings")


def _member(stage: StageSpec) -> tuple[str, bool, bool, dict[str, object]]:
    # A setting that came later has the default that was without it.
    built_in = stage.name in ATTACKS and ATTACKS.entry(stage.name).origin == BUILT_IN
    known = ATTACKS.get(stage.name)().settings() if built_in else {}
    return stage.name, stage.only_on_signs, stage.sampled, {**known, **stage.settings}


def _samples(evidence: Evidence, groups: list[list[Verdict]]) -> Iterator[Finding]:
    """Hold the samples that attacks were run on to their sizes, and to what was found on them."""
    verdicts, flags = evidence.verdicts, evidence.flags
    attacks = evidence.record.spec.attacks_run(flags, on_signs=bool(evidence.signs))
    if NOT_A_FUNCTION.intersection(flags):
        return
    no_sample = spares_none(verdicts, attacks, signs=evidence.signs, flags=flags)
    for attack in attacks:
        ran, spared = ran_and_spared(groups, attack.name)
        wanted = sample_size(ran + spared) if attack.sampled and not no_sample else ran + spared
        if ran < wanted:
            yield Finding(
                "attacks",
                f"{attack.name} was run on {ran} of the {ran + spared} undecided examples that it "
                f"reached, and has to be run on {wanted}; the same run over all of them goes on",
            )


def _corrections(evidence: Evidence) -> Iterator[Finding]:
    corrected = {correction.example_id for correction in evidence.corrections}
    submitted = {v.example_id for v in evidence.verdicts if v.attack == SUBMITTED}
    if wrong := sorted(corrected.symmetric_difference(submitted)):
        yield Finding(
            "corrections",
            f"{shown_ids(wrong)}: each example that a submission broke has a correction with its "
            "source, and no other one has",
            tuple(wrong),
        )


def _unknown_stage(evidence: Evidence, verdict: Verdict) -> str:
    spec = evidence.record.spec
    attacks = {stage.name for stage in (*spec.attacks, *spec.attacks_if_random)} | {SUBMITTED}
    certifiers = {stage.name for stage in spec.certifiers}
    labels = {stage.label for stage in spec.certifiers}
    for step in verdict.trail:
        known = attacks if step.outcome in _ATTACKED else labels | certifiers
        # A certifier may offer a counterexample, which is checked like any other.
        if step.outcome is Outcome.BROKEN:
            known = attacks | certifiers
        if step.stage not in known:
            return f"{step.stage!r} is no stage of the evaluation, and yet it ended"
    if verdict.attack and verdict.attack not in attacks | certifiers:
        return f"{verdict.attack!r} is no attack of the evaluation"
    if verdict.certifier and verdict.certifier not in labels:
        return f"{verdict.certifier!r} is no certifier of the evaluation"
    return ""


def _status_without_stage(evidence: Evidence, verdict: Verdict) -> str:
    """Say which stage is missing from the trail of a status."""
    ended = {(step.stage, step.outcome) for step in verdict.trail}
    if verdict.status is Status.CERTIFIED:
        if (verdict.certifier, Outcome.CERTIFIED) not in ended:
            return "certified, but the certifier is not among the stages that proved something"
        if any(outcome is Outcome.BROKEN for _, outcome in ended):
            return "certified, but an attack on it succeeded"
    if verdict.status is Status.BROKEN and (verdict.attack, Outcome.BROKEN) not in ended:
        return "broken, but the attack is not among the stages that succeeded"
    if verdict.status is Status.UNDECIDED and any(
        outcome is Outcome.BROKEN for _, outcome in ended
    ):
        return "undecided, but an attack on it succeeded"
    return ""


def _missing_attack(evidence: Evidence, verdict: Verdict) -> str:
    """Name the attacks that an undecided example was spared."""
    if verdict.status is not Status.UNDECIDED or NOT_A_FUNCTION.intersection(evidence.flags):
        return ""
    ran = {
        step.stage
        for step in verdict.trail
        if (step.outcome in (Outcome.FAILED, Outcome.SPARED) and step.eps == evidence.eps)
        or (step.outcome is Outcome.SURVIVED and step.eps >= evidence.eps)
    }
    attacks = evidence.record.spec.attacks_run(evidence.flags, on_signs=False)
    missing = [attack.name for attack in attacks if attack.name not in ran]
    return f"undecided, but {', '.join(missing)} did not end on it" if missing else ""
