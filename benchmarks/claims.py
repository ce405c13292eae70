"""Whether the zoo keeps what it claims: `dynbench check` at every set of trained weights.

    python benchmarks/claims.py [--dataset fashion_mnist] [--model lipflow]

A row for each claim and kind of points: the largest defect of all parts that make the claim, beside
its tolerance. For a Lipschitz claim the steepest slope that a search found over the certified bound
is 1 plus the defect. Rows of models that are not asked for are kept.
Results: benchmarks/results/claims.csv. Ends with exit code 1 where a claim is broken.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import measuring
import pandas as pd
from soundness import weights_of_the_zoo

from robustbench_dyn.models.architectures import full_name
from robustbench_dyn.properties.architectures import check_architecture

PATH = measuring.RESULTS / "claims.csv"


def worst(findings: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each claim and kind of points, that which misses its tolerance most."""
    over = (findings["defect"] - findings["tolerance"]).fillna(float("inf"))
    order = over.sort_values(ascending=False, kind="stable").index
    parts = findings.groupby(["claim", "points"])["part"].transform("nunique")
    rows = findings.assign(parts=parts).loc[order].drop_duplicates(["claim", "points"])
    return rows.sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--model", action="append", help="NAME or NAME/VARIANT; by default all")
    options = parser.parse_args()
    table = pd.read_csv(PATH) if PATH.is_file() else pd.DataFrame()
    for architecture, weights in weights_of_the_zoo(options.model, (options.dataset,)):
        name = full_name(architecture.name, weights.variant)
        found: list[dict[str, Any]] = [
            {"model": name, "dataset": weights.dataset, "claim": finding.claim,
             "part": finding.part, "points": finding.points, "defect": finding.defect,
             "tolerance": finding.tolerance, "holds": finding.holds, "note": finding.note,
             "weights_sha256": weights.sha256}
            for finding in check_architecture(
                architecture, dataset=weights.dataset, variant=weights.variant
            )
        ]  # fmt: skip
        rows = worst(pd.DataFrame(found)).assign(machine=measuring.machine())
        table = measuring.joined(table, rows, ("model", "dataset"))
        table = table.sort_values(["dataset", "model"], kind="stable")
        table.to_csv(PATH, index=False, lineterminator="\n")
        print(rows[["model", "claim", "points", "defect", "holds"]].to_string(), flush=True)
    if not table["holds"].all():
        broken = table[~table["holds"]][["model", "claim"]].drop_duplicates()
        sys.exit(f"claims are broken: {broken.to_dict('records')}")


if __name__ == "__main__":
    main()
