"""The cost of a grid of eps: six radii together, and each alone, on the same model and examples.

    python benchmarks/eps_grid.py [--n-examples 200] [--model lipflow]

An example that is undecided at some eps must survive the whole suite once, at the largest such eps.
The ratio of the undecided examples of the grid to those of its costliest eps is thus a lower bound
for the ratio of the costs; both are reported. Results: benchmarks/results/eps_grid_MODEL.csv.
"""

from __future__ import annotations

import argparse
import time

import measuring

from robustbench_dyn import Evaluation, Status, ThreatModel, evaluate_grid, load_dataset, load_model

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
            started = time.perf_counter()
            evaluations = evaluate_grid(model, data, [ThreatModel("L2", eps) for eps in radii])
            rows.append(
                {
                    "model": name,
                    "n_examples": len(data),
                    "eps": " ".join(map(str, radii)),
                    "undecided": len(set.union(*map(undecided, evaluations))),
                    "forward_passes": sum(e.summary["forward_passes"] for e in evaluations),
                    "seconds": time.perf_counter() - started,
                }
            )
            print(rows[-1], flush=True)
        for what in ("undecided", "forward_passes", "seconds"):
            costliest = max(row[what] for row in rows[:-1])
            for row in rows:
                row[f"{what}_over_costliest"] = row[what] / costliest
        measuring.write(f"eps_grid_{name}", rows)


if __name__ == "__main__":
    main()
