"""Rows of runs and violations, made anew from the verdicts of merged stores."""

from __future__ import annotations

import json
from itertools import groupby

from robustbench_dyn.results.rows import joined
from robustbench_dyn.results.store import Run, Store, Violation
from robustbench_dyn.results.verdicts import Status

_SUSPECTS = """
SELECT example_id FROM verdicts WHERE key = ? GROUP BY example_id
HAVING min(CASE WHEN status = 'broken' THEN adversarial_distance END) <= max(certified_radius)
"""


def finished_at(run: Run) -> str:
    """Return when a run came to its end, as its row has it."""
    return str(run.summary.get("evaluated_at", ""))


def renew_runs(store: Store, key: str) -> None:
    """Make the rows of an evaluation's runs anew, inside an open transaction.

    Runs whose ranges of examples touch get a row together, too. A run of which a verdict is missing
    or waits for a stage has no row any more.
    """
    from robustbench_dyn.results.summary import summary_row  # noqa: PLC0415  (imports SciPy)

    runs, record = store.runs_of(key), store.record(key)
    store.connection.execute("DELETE FROM runs WHERE key = ?", (key,))
    for eps, same in groupby(runs, key=lambda run: run.eps):
        at_eps = list(same)
        verdicts = {v.example_id: v for v in store.verdicts(key, eps) if not v.next_stage}
        whole = {run.examples for run in at_eps if verdicts.keys() >= set(run.examples)}
        for examples in sorted(
            whole.union(joined(whole)), key=lambda part: (part.start, part.stop)
        ):
            # The last of the runs that its examples are from.
            parts = [
                run
                for run in at_eps
                if examples.start <= run.examples.start and run.examples.stop <= examples.stop
            ]
            evaluated_at = max(map(finished_at, parts))
            summary = summary_row(
                [verdicts[i] for i in examples],
                record,
                eps=eps,
                evaluated_at=evaluated_at,
                flags=store.flags(key),
                signs=store.signs(key, eps),
            )
            row = (key, eps, examples.start, len(examples), json.dumps(summary))
            store.write("runs", [row])


def refute(store: Store, key: str) -> list[Violation]:
    """Keep adversarial examples inside certified radii, inside an open transaction; return them.

    A certificate that may be wrong is not refuted by them, nor is one that a flag voids. Those that
    the store has already are not among them.
    """
    record = store.record(key)
    if record.spec.voids_certificates(store.flags(key)):
        return []
    suspects = store.connection.execute(_SUSPECTS, (key,)).fetchall()
    wanted = {i for (i,) in suspects}.difference(v.example_id for v in store.violations(key))
    found = list[Violation]()
    of_them = [v for v in store.verdicts(key) if v.example_id in wanted] if wanted else []
    for example_id in sorted(wanted):
        of_it = [v for v in of_them if v.example_id == example_id]
        certain = [v for v in of_it if v.certifier and record.is_certain(v.certifier)]
        radius = max((v.certified_radius for v in certain), default=0.0)
        broken = [v for v in of_it if v.status is Status.BROKEN]
        nearest = min(broken, key=lambda v: (v.adversarial_distance, v.eps))
        if nearest.adversarial_distance <= radius:
            violation = Violation(
                example_id=example_id,
                certified_radius=radius,
                adversarial_distance=nearest.adversarial_distance,
                attack=nearest.attack,
                path="",
                x_adv=nearest.x_adv or b"",
            )
            store.write("violations", [(key, nearest.eps, *violation)])
            found.append(violation)
    return found
