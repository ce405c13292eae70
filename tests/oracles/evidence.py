"""Evidence of models that were never run: verdicts with the statuses that a test wants."""

from dataclasses import replace

from oracles.records import record
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.store import Run
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

CERTIFIED, BROKEN, UNDECIDED, WRONG = "c", "b", "u", "m"
RECIPE = "0" * 64


def verdict(example_id, status, *, eps=0.5, attack="pgd", certifier="lipschitz", seconds=0.125):
    """Return a verdict of status c, b, u or m, with evidence that carries it."""
    common = {"label": example_id % 10, "eps": eps, "forward_passes": 3, "backward_passes": 2}
    common |= {"example_id": example_id, "seconds": seconds, "prediction": example_id % 10}
    survived = Step(attack, Outcome.SURVIVED, eps)
    if status == CERTIFIED:
        radius = eps * (1.25 + example_id % 4)
        proved = Step(certifier, Outcome.CERTIFIED, eps)
        return Verdict(
            **common,
            status=Status.CERTIFIED,
            certified_radius=radius,
            certifier=certifier,
            trail=(proved, survived) if example_id % 3 == 0 else (proved,),
        )
    if status == BROKEN:
        return Verdict(
            **common,
            status=Status.BROKEN,
            adversarial_distance=eps * (0.25 + 0.5 * (example_id % 2)),
            attack=attack,
            x_adv=bytes([example_id % 256]) * 16,
            trail=(Step(attack, Outcome.BROKEN, eps),),
        )
    if status == UNDECIDED:
        reason = "survived"
        return Verdict(**common, status=Status.UNDECIDED, reason=reason, trail=(survived,))
    wrong = common | {"prediction": (example_id + 1) % 10}
    return Verdict(**wrong, status=Status.MISCLASSIFIED)


def evidence(
    model="m",
    statuses="ccbu",
    *,
    eps=0.5,
    first=0,
    flags=(),
    signs=(),
    evaluated_at="2026-01-31T12:00:00+00:00",
    training_record=RECIPE,
    suite="standard",
    **facts,
):
    """Return evidence of a model with these statuses: c(ertified), b(roken), u(ndecided), m."""
    facts = {"certifiers": ("lipschitz",), "weights_sha256": "1" * 64} | facts
    facts = {"data_sha256": "2" * 64} | facts
    return Evidence(
        record=replace(
            record(model, **facts), training_record=training_record, suite=suite, parameters=7
        ),
        eps=eps,
        verdicts=tuple(
            verdict(example_id, status, eps=eps)
            for example_id, status in enumerate(statuses, start=first)
        ),
        flags=tuple(flags),
        signs=tuple(signs),
        evaluated_at=evaluated_at,
    )


def add_to(store, *all_evidence):
    """Put finished runs with this evidence into a store; return the store."""
    for one in all_evidence:
        key = one.record.spec.key()
        store.add_evaluation(key, one.record)
        store.add_verdicts(key, one.verdicts)
        store.add_flags(key, one.flags)
        store.add_signs(key, one.eps, one.signs)
        first = one.verdicts[0].example_id
        store.add_run(Run(key, one.eps, first, len(one.verdicts), one.row()))
    return store
