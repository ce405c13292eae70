"""One leaderboard row from the verdicts of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.stats import beta

from robustbench_dyn.masking import black_box_gains
from robustbench_dyn.verdicts import Sign, Status, Verdict

SUMMARY_COLUMNS: tuple[str, ...] = (
    "model", "family", "dataset", "norm", "eps", "n_examples", "clean_accuracy",
    "certified_accuracy", "empirical_accuracy", "gap", "ci_low", "ci_high", "certifiers",
    "attacks", "forward_passes", "backward_passes", "seconds", "parameters", "lipschitz_bound",
    "flags", "weights_sha256", "plugin_version", "seed", "device", "torch_version",
    "evaluated_at",
)  # fmt: skip


def summarise(
    verdicts: Sequence[Verdict], record: dict[str, Any], *, eps: float, evaluated_at: str,
    signs: Sequence[Sign] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return the row of a run: accuracies are fractions of all examples, errors included.

    record: what the evaluation depends on, as the store keeps it. ci_low and ci_high enclose the
    true robust accuracy with 95 % confidence: the lower Clopper-Pearson limit of the certified
    accuracy and the upper one of the empirical accuracy (of the clean accuracy where no attack
    ran). empirical_accuracy and gap are None where no attack ran. flags tell of errors, and of
    attacks that landed inside the radius of a probabilistic certificate. signs: of masked
    gradients, on which further attacks were run; they are told among the flags.
    """
    counts = count_statuses(verdicts)
    n = len(verdicts)
    certified = counts[Status.CERTIFIED]
    standing = certified + counts[Status.UNDECIDED]
    attacked = bool(record["attacks"])
    correct = standing + counts[Status.BROKEN]
    flags = list(record["flags"])
    # Of deterministic certificates there are none: such a run has no row.
    refuted = sum(v.adversarial_distance <= v.certified_radius for v in verdicts)
    if refuted:
        flags.append(f"hits_inside_radius:{refuted}")
    attacks = [*record["attacks"], *(record.get("attacks_on_signs", ()) if signs else ())]
    # What black-box attacks broke is known of these verdicts exactly.
    gains = {sign.name: sign for sign in black_box_gains(verdicts, attacks)}
    flags += map(str, ({sign.name: sign for sign in signs} | gains).values())
    if counts[Status.ERROR]:
        flags.append(f"errors:{counts[Status.ERROR]}")
    return {
        **{name: record[name] for name in SUMMARY_COLUMNS if name in record},
        "eps": eps,
        "n_examples": n,
        "clean_accuracy": correct / n,
        "certified_accuracy": certified / n,
        "empirical_accuracy": standing / n if attacked else None,
        "gap": (standing - certified) / n if attacked else None,
        "ci_low": binomial_limit(certified, n, upper=False),
        "ci_high": binomial_limit(standing if attacked else correct, n, upper=True),
        "certifiers": "+".join(record["certifiers"]) or "none",
        "attacks": "+".join(attacks) or "none",
        "forward_passes": sum(verdict.forward_passes for verdict in verdicts),
        "backward_passes": sum(verdict.backward_passes for verdict in verdicts),
        "seconds": round(math.fsum(verdict.seconds for verdict in verdicts), 3),
        "flags": " ".join(flags),
        "evaluated_at": evaluated_at,
    }


def count_statuses(verdicts: Iterable[Verdict]) -> dict[Status, int]:
    """Count the examples of each status; all five keys are there."""
    counts = dict.fromkeys(Status, 0)
    for verdict in verdicts:
        counts[verdict.status] += 1
    return counts


def binomial_limit(successes: int, trials: int, *, upper: bool, level: float = 0.025) -> float:
    """Return the one-sided Clopper-Pearson limit of a proportion at the given level."""
    if upper:
        return (
            1.0
            if successes == trials
            else float(beta.ppf(1 - level, successes + 1, trials - successes))
        )
    return 0.0 if successes == 0 else float(beta.ppf(level, successes, trials - successes + 1))
