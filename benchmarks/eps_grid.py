"""What a grid of eps costs: six together against each alone, on the same model and examples.

    python benchmarks/eps_grid.py [--n-examples 300] [--model lipflow]

Results: benchmarks/results/eps_grid.csv.
"""

from __future__ import annotations

import argparse
import time

import measuring

from robustbench_dyn import ThreatModel, evaluate_grid, load_dataset, load_model

GRID = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=300)
    parser.add_argument("--model", action="append")
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    rows = []
    for name in options.model or ["lipflow", "euler_resnet"]:
        model = load_model(name)
        measured = {}
        for radii in (GRID, *[(eps,) for eps in GRID]):
            started = time.perf_counter()
            found = evaluate_grid(model, data, [ThreatModel("L2", eps) for eps in radii])
            measured[radii] = (
                sum(evaluation.summary["forward_passes"] for evaluation in found),
                time.perf_counter() - started,
            )
            print(name, radii, *measured[radii], flush=True)
        alone = [measured[eps,] for eps in GRID]
        for radii, (forwards, seconds) in measured.items():
            rows.append(
                {"model": name, "n_examples": len(data), "eps": " ".join(map(str, radii)),
                 "forward_passes": forwards, "seconds": seconds,
                 "forwards_over_dearest": forwards / max(f for f, _ in alone),
                 "seconds_over_dearest": seconds / max(s for _, s in alone)}
            )  # fmt: skip
        measuring.write("eps_grid", rows)


if __name__ == "__main__":
    main()
