"""Entries of leaderboards from the statuses of their examples, with evidence that carries them."""

from oracles.records import record
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.summary import summary_row
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

AT = "2026-01-01T00:00:00+00:00"
SUITE = ("apgd-ce", "square")
STATUSES = {
    "c": Status.CERTIFIED,
    "u": Status.UNDECIDED,
    "b": Status.BROKEN,
    "m": Status.MISCLASSIFIED,
    "e": Status.ERROR,
}


def verdict(example_id, letter, eps=0.5):
    """Return the verdict of an example: c certified, u undecided, b broken, m misclassified."""
    status = STATUSES[letter]
    fields = {
        "c": {"certified_radius": 2 * eps, "certifier": "lipschitz"},
        "u": {"reason": "survived"},
        "b": {"attack": SUITE[0], "adversarial_distance": eps / 2},
        "m": {"prediction": 1},
        "e": {"prediction": -1, "reason": "the logits are not finite"},
    }[letter]
    trail = (Step(SUITE[0], Outcome.SURVIVED, eps),) if letter in "cu" else ()
    known = {"label": 0, "prediction": 0, "eps": eps, "seconds": 0.01, "trail": trail}
    return Verdict(example_id=example_id, status=status, **known | fields)


def entry(model, statuses, *, eps=0.5, first=0, flags=(), columns=None, **facts):
    """Return the entry of a model whose examples have these statuses, a letter each."""
    facts = {"attacks": SUITE, "certifiers": ("lipschitz",), "weights_sha256": "w" * 64} | facts
    evidence = Evidence(
        record=record(model, **facts),
        eps=eps,
        verdicts=tuple(verdict(first + k, s, eps) for k, s in enumerate(statuses)),
        flags=tuple(flags),
        signs=(),
        evaluated_at=AT,
    )
    row = summary_row(
        evidence.verdicts, evidence.record, eps=eps, evaluated_at=AT, flags=evidence.flags
    )
    published = {"certified_rank": None, "empirical_rank": None, "open_flags": ""}
    published["data_sha256"] = evidence.record.spec.data_sha256
    of_suite = {"first_example": first, "suite": "standard", "added_attacks": ""}
    return Entry(row | published | of_suite | (columns or {}), evidence)
