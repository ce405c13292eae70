"""The cost of a grid of eps: six radii together, and each alone, on the same model and examples.

    OMP_NUM_THREADS=1 python benchmarks/eps_grid.py [--n-examples 200] [--model lipflow]

Each is run with the suite `standard` and with `standard-full`, one after the other. Seconds are of
the processor; costs are compared with those of the same suite's costliest eps, and with those of
the full suite's.

An example that is undecided at some eps must survive the whole suite once, at the largest such eps.
The ratio of the undecided examples of the grid to those of its costliest eps is thus a lower bound
for the ratio of the costs; both are reported. Results: benchmarks/results/eps_grid_MODEL.csv.
"""

from __future__ import annotations

import argparse
import time

import measuring

from robustbench_dyn import Evaluation, Status, ThreatModel, evaluate_grid, load_dataset, load_model

SUITES = ("standard-full", "standard")
GRID = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def undecided(evaluation: Evaluation) -> set[int]:
    return {v.example_id for v in evaluation.verdicts if v.status is Status.UNDECIDED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=200)
    parser.add_argument("--model", action="append")
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    for name in options.model or ["lipflow", "euler_resnet"]:
        model = load_model(name)
        rows = []
        for radii in [(eps,) for eps in GRID] + [GRID]:
            for suite in SUITES:
                started = time.process_time()
                evaluations = evaluate_grid(
                    model, data, [ThreatModel("L2", eps) for eps in radii], attacks=suite
                )
                rows.append(
                    {
                        "model": name,
                        "suite": suite,
                        "n_examples": len(data),
                        "eps": " ".join(map(str, radii)),
                        "undecided": len(set.union(*map(undecided, evaluations))),
                        "forward_passes": sum(e.summary["forward_passes"] for e in evaluations),
                        "seconds": time.process_time() - started,
                    }
                )
                print(rows[-1], flush=True)
        alone = [row for row in rows if row["eps"] in map(str, GRID)]
        for what in ("undecided", "forward_passes", "seconds"):
            costliest = {
                suite: max(row[what] for row in alone if row["suite"] == suite) for suite in SUITES
            }
            for row in rows:
                row[f"{what}_over_costliest"] = row[what] / costliest[row["suite"]]
                row[f"{what}_over_costliest_full"] = row[what] / costliest["standard-full"]
        measuring.write(f"eps_grid_{name}", rows)


if __name__ == "__main__":
    main()
