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
from typing import Any

import measuring
import pandas as pd
from soundness import weights_of_the_zoo

from robustbench_dyn.models.architectures import full_name
from robustbench_dyn.properties.architectures import check_architecture

PATH = measuring.RESULTS / "claims.csv"


def worst(findings: pd.DataFrame) -> pd.DataFrame:
    """Return the finding with the largest defect over tolerance, per claim and kind of points."""
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
        findings: list[dict[str, Any]] = [
            {
                "model": name,
                "dataset": weights.dataset,
                "claim": finding.claim,
                "part": finding.part,
                "points": finding.points,
                "defect": finding.defect,
                "tolerance": finding.tolerance,
                "holds": finding.holds,
                "note": finding.note,
                "weights_sha256": weights.sha256,
            }
            for finding in check_architecture(
                architecture, dataset=weights.dataset, variant=weights.variant
            )
        ]
        rows = worst(pd.DataFrame(findings)).assign(machine=measuring.machine())
        table = measuring.joined(table, rows, ("model", "dataset"))
        table = table.sort_values(["dataset", "model"], kind="stable")
        table.to_csv(PATH, index=False, lineterminator="\n")
        print(rows[["model", "claim", "points", "defect", "holds"]].to_string(), flush=True)
    if not table["holds"].all():
        broken = table[~table["holds"]][["model", "claim"]].drop_duplicates()
        sys.exit(f"claims are broken: {broken.to_dict('records')}")


if __name__ == "__main__":
    main()
