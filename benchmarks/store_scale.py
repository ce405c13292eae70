"""A store with a million verdicts: bulk writes, reads, leaderboard, export.

    python benchmarks/store_scale.py [--verdicts 1000000]

Results: benchmarks/results/store_scale.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measuring

from robustbench_dyn.reporting.export import export_store
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.spec import EvaluationSpec, Record, StageSpec
from robustbench_dyn.results.store import Run, Store
from robustbench_dyn.results.summary import summary_row
from robustbench_dyn.results.verdicts import Status, Verdict

# The size of one evaluation: examples, and radii.
EXAMPLES, EPS = 10_000, (0.25, 0.5, 1.0, 1.5, 2.0)


def record(model: str) -> Record:
    stage = StageSpec(name="apgd-ce", label="apgd-ce")
    spec = EvaluationSpec(
        model=model,
        family="lipschitz_flow",
        dataset="fashion_mnist",
        norm="L2",
        attacks=(stage,),
        attacks_if_random=(stage,),
        certifiers=(StageSpec(name="lipschitz", label="lipschitz"),),
    )
    return Record(spec=spec, parameters=0, lipschitz_bound=1.0)


def verdicts(eps: float) -> list[Verdict]:
    return [
        Verdict(
            example_id=i,
            label=i % 10,
            prediction=i % 10,
            eps=eps,
            status=Status.CERTIFIED,
            certified_radius=eps + 0.1,
            certifier="lipschitz",
            forward_passes=1,
        )
        for i in range(EXAMPLES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    total = parser.parse_args().verdicts
    rows = []

    def measure(what: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        rows.append({"what": what, "verdicts": total, "seconds": seconds})

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "s.sqlite")
        by_eps = {eps: verdicts(eps) for eps in EPS}
        keys = [f"{k:064x}" for k in range(total // (EXAMPLES * len(EPS)))]

        def write() -> None:
            for key in keys:
                about = record(key[-4:])
                store.add_evaluation(key, about)
                for eps, batch in by_eps.items():
                    store.add_verdicts(key, batch)
                    row = summary_row(batch, about, eps=eps, evaluated_at="")
                    store.add_run(Run(key, eps, 0, EXAMPLES, row))

        measure("write, 10,000 a transaction, with summaries", write)
        measure("read all", lambda: [list(store.verdicts(key)) for key in keys])
        measure("leaderboard", lambda: leaderboard(store))
        measure("export to Parquet", lambda: export_store(store, Path(folder) / "t.parquet"))
        measure("export to CSV", lambda: export_store(store, Path(folder) / "t.csv"))
    measuring.write("store_scale", rows)


if __name__ == "__main__":
    main()
