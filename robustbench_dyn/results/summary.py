"""One leaderboard row from the verdicts of one run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from scipy.special import betaincinv

from robustbench_dyn.results.flags import NOT_AUDITED, REFUTED_BOUND
from robustbench_dyn.results.sampling import is_spared
from robustbench_dyn.results.spec import EvaluationSpec, Record, StageSpec
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Verdict

SUMMARY_COLUMNS: tuple[str, ...] = (
    "model",
    "family",
    "dataset",
    "norm",
    "eps",
    "n_examples",
    "clean_accuracy",
    "certified_accuracy",
    "empirical_accuracy",
    "gap",
    "ci_low",
    "ci_high",
    "certifiers",
    "attacks",
    "forward_passes",
    "backward_passes",
    "seconds",
    "parameters",
    "lipschitz_bound",
    "flags",
    "audit_share",
    "declared_bounds",
    "weights_sha256",
    "plugin_version",
    "seed",
    "device",
    "torch_version",
    "evaluated_at",
    "first_example",
    "suite",
    "added_attacks",
    "data_sha256",
    "training_record",
)

# How many examples each stage ended on, by its outcome.
_Outcomes = Counter[tuple[str, Outcome]]


def summary_row(
    verdicts: Sequence[Verdict],
    record: Record,
    *,
    eps: float,
    evaluated_at: str,
    flags: Collection[str] = (),
    signs: Sequence[Sign] = (),
) -> dict[str, Any]:
    """Return the row of a run: accuracies are fractions of all examples, errors included.

    record: as the store keeps it. flags: what runs found out about the model. signs: of masked
    gradients, on which further attacks were run; they are told among the flags. An example counts
    as clean by its prediction alone, and in empirical_accuracy where no attack broke it; attacks
    that failed, and examples on which none ran to its end, are told by flags, and an attack that
    failed wherever it ran is named as failed among the attacks, and one that was run on a sample of
    the examples, where it broke none, as NAME(sample). ci_low and ci_high enclose the true
    robust accuracy with 95 % confidence: the lower Clopper-Pearson limit of the certified accuracy
    and the upper one of the empirical accuracy (of the clean accuracy where no attack ran).
    empirical_accuracy and gap are None where no attack was run. added_attacks: those that ran
    because of flags.
    """
    spec, counts, n = record.spec, count_statuses(verdicts), len(verdicts)
    is_function = not spec.voids_certificates(flags)
    # Those of another shard, which did not notice, are still among the verdicts.
    certified = counts[Status.CERTIFIED] if is_function else 0
    standing = counts[Status.CERTIFIED] + counts[Status.UNDECIDED]
    attacks = spec.attacks_run(flags, on_signs=bool(signs))
    attacked = bool(spec.attacks)
    correct = sum(v.prediction == v.label for v in verdicts)
    certifiers = [stage.label for stage in spec.certifiers] if is_function else []
    told = sorted(flags)
    # Of deterministic certificates there are none: such a run has no row.
    refuted = sum(v.adversarial_distance <= v.certified_radius for v in verdicts)
    if refuted:
        told.append(f"hits_inside_radius:{refuted}")
    # What gradient-free attacks broke is known of these verdicts exactly.
    gains = {sign.name: sign for sign in gradient_free_gains(verdicts, attacks)}
    told += map(str, ({sign.name: sign for sign in signs} | gains).values())
    outcomes = _outcomes(verdicts)
    told += _failures(verdicts, outcomes, attacked=attacked, is_function=is_function)
    if attacked and certified and not any(_is_audited(v) for v in verdicts):
        told.append(NOT_AUDITED)
    if counts[Status.ERROR]:
        told.append(f"errors:{counts[Status.ERROR]}")
    return {
        **{name: value for name, value in record.columns().items() if name in SUMMARY_COLUMNS},
        "eps": eps,
        "n_examples": n,
        "clean_accuracy": correct / n,
        "certified_accuracy": certified / n,
        "empirical_accuracy": standing / n if attacked else None,
        # What a model said of itself, and what was found to be wrong, is no fact about it.
        "lipschitz_bound": None if REFUTED_BOUND in flags else record.lipschitz_bound,
        "gap": (standing - certified) / n if attacked else None,
        "ci_low": binomial_limit(certified, n, upper=False),
        "ci_high": binomial_limit(standing if attacked else correct, n, upper=True),
        "certifiers": "+".join(certifiers) or "none",
        "attacks": "+".join(_attacks_as_they_went(verdicts, attacks, outcomes)) or "none",
        "forward_passes": sum(verdict.forward_passes for verdict in verdicts),
        "backward_passes": sum(verdict.backward_passes for verdict in verdicts),
        "seconds": round(math.fsum(verdict.seconds for verdict in verdicts), 3),
        "flags": " ".join(told),
        "evaluated_at": evaluated_at,
        "first_example": min(verdict.example_id for verdict in verdicts),
        "added_attacks": "+".join(_added(spec, attacks)),
    }


def _added(spec: EvaluationSpec, attacks: Sequence[StageSpec]) -> list[str]:
    """Return the attacks that ran because of flags: on signs, or in place of a suite."""
    usual = spec.attacks_run(on_signs=False)
    return [attack.label for attack in attacks if attack not in usual]


def _is_audited(verdict: Verdict) -> bool:
    """Say whether a certified example was attacked all the same, and stood."""
    survived = any(step.outcome is Outcome.SURVIVED for step in verdict.trail)
    return survived and verdict.status is Status.CERTIFIED


def attacks_that_failed(verdicts: Collection[Verdict]) -> dict[str, int]:
    """Return the attacks that failed on all examples that they were given, with their number."""
    return _failed_always(_outcomes(verdicts))


def _failed_always(outcomes: _Outcomes) -> dict[str, int]:
    ended = {stage for stage, outcome in outcomes if outcome in (Outcome.SURVIVED, Outcome.BROKEN)}
    return {
        stage: n
        for (stage, outcome), n in outcomes.items()
        if outcome is Outcome.FAILED and stage not in ended
    }


def gradient_free_gains(verdicts: Iterable[Verdict], attacks: Sequence[StageSpec]) -> list[Sign]:
    """Count what each gradient-free attack broke that the white-box attacks before it did not.

    attacks: those that ran, in order.
    """
    broken = Counter(verdict.attack for verdict in verdicts if verdict.status is Status.BROKEN)
    gains = []
    for place, attack in enumerate(attacks):
        follows = any(not other.gradient_free for other in attacks[:place])
        if attack.gradient_free and follows and broken[attack.name]:
            short = attack.name.removeprefix("aa-").replace("-", "_")
            gains.append(Sign(f"{short}_beats_white_box", broken[attack.name]))
    return gains


def _attacks_as_they_went(
    verdicts: Sequence[Verdict], attacks: Sequence[StageSpec], outcomes: _Outcomes
) -> list[str]:
    """Return the labels of attacks; of one that spared examples which count as robust, that too."""
    failed, went = _failed_always(outcomes), list[str]()
    standing = [verdict for verdict in verdicts if verdict.status is Status.UNDECIDED]
    for attack in attacks:
        how = "(failed)" if attack.name in failed else ""
        if attack.sampled and any(is_spared(verdict, attack.name) for verdict in standing):
            how += "(sample)"
        went.append(f"{attack.label}{how}")
    return went


def _failures(
    verdicts: Sequence[Verdict], outcomes: _Outcomes, *, attacked: bool, is_function: bool
) -> list[str]:
    """Return flags for attacks and certifiers that failed, and for examples left unattacked."""
    flags = [
        f"{kind}:{stage}:{n}"
        for kind, failure in (
            ("attack_failed", Outcome.FAILED),
            ("certifier_failed", Outcome.NOT_APPLICABLE),
            ("within_rounding", Outcome.WITHIN_ROUNDING),
        )
        for (stage, outcome), n in sorted(outcomes.items())
        if outcome is failure
    ]
    relying = {Status.UNDECIDED} if is_function else {Status.UNDECIDED, Status.CERTIFIED}
    unattacked = sum(
        v.status in relying and all(s.outcome is not Outcome.SURVIVED for s in v.trail)
        for v in verdicts
    )
    return [*flags, f"unattacked:{unattacked}"] if attacked and unattacked else flags


def _outcomes(verdicts: Collection[Verdict]) -> _Outcomes:
    """Count the examples of each stage and outcome."""
    # Many examples have one trail.
    trails = {id(trail): trail for trail in (v.trail for v in verdicts)}
    examples = Counter(id(v.trail) for v in verdicts)
    outcomes: _Outcomes = Counter()
    for place, trail in trails.items():
        for pair in {(step.stage, step.outcome) for step in trail}:
            outcomes[pair] += examples[place]
    return outcomes


def count_statuses(verdicts: Iterable[Verdict]) -> dict[Status, int]:
    """Count the examples of each status; all five keys are there."""
    counts = dict.fromkeys(Status, 0)
    for verdict in verdicts:
        counts[verdict.status] += 1
    return counts


def binomial_limit(successes: int, trials: int, *, upper: bool, level: float = 0.025) -> float:
    """Return the one-sided Clopper-Pearson limit of a proportion at the given level."""
    # The quantile of a beta distribution; scipy.stats, which has it too, takes seconds to import.
    if upper:
        if successes == trials:
            return 1.0
        return float(betaincinv(successes + 1, trials - successes, 1 - level))
    return 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, level))
