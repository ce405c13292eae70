"""Test the claims of the zoo: `dynbench check` for every set of trained weights.

    python benchmarks/claims.py [--dataset fashion_mnist] [--model lipflow]

One row per claim and kind of points: the largest defect over the parts with this claim, and its
tolerance. For a Lipschitz claim, 1 plus the defect is the largest slope that a search found divided
by the certified bound. The file keeps the rows of other models.
Results: benchmarks/results/claims.csv. Ends with exit code 1 where a claim is broken.
"""

from __future__ import annotations

import argparse
import sys

import measuring
import pandas as pd
from soundness import weights_of_the_zoo

from robustbench_dyn.reporting.properties import measure

PATH = measuring.RESULTS / "claims.csv"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--model", action="append", help="NAME or NAME/VARIANT; by default all")
    options = parser.parse_args()
    table = pd.DataFrame()
    for pair in weights_of_the_zoo(options.model, (options.dataset,)):
        rows = pd.DataFrame(measure([pair])).assign(machine=measuring.machine())
        table = measuring.add(PATH, rows, ("model", "dataset"), order=("dataset", "model"))
        print(rows[["model", "claim", "points", "defect", "holds"]].to_string(), flush=True)
    if not table["holds"].all():
        broken = table[~table["holds"]][["model", "claim"]].drop_duplicates()
        sys.exit(f"claims are broken: {broken.to_dict('records')}")


if __name__ == "__main__":
    main()
