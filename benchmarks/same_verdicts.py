"""Whether two states of the package give the same verdicts, example by example and bit by bit.

    OMP_NUM_THREADS=1 python benchmarks/same_verdicts.py dump before.json [--n-examples 60]
    OMP_NUM_THREADS=1 python benchmarks/same_verdicts.py dump after.json [--n-examples 60]
    python benchmarks/same_verdicts.py compare before.json after.json

`dump` evaluates a few networks and a smoothed classifier through the public interface alone, with
a fixed seed, on one thread and without a store; PYTHONPATH decides which state of the package that
is. Both dumps must be made on one machine: another one may round otherwise.
`compare` prints a row for each case and eps, and ends with exit code 1 where a prediction, status,
radius, distance, accuracy or confidence limit differs; certifiers, attacks and passes are counted.
A certifier is compared where there is a radius; its name alone proves nothing, and is counted apart
as `unproved`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

import robustbench_dyn
from robustbench_dyn import (
    Smoothing,
    ThreatModel,
    evaluate_grid,
    evaluate_smoothed,
    load_dataset,
    load_model,
)

EXAMPLE = (
    "example_id",
    "label",
    "prediction",
    "status",
    "certified_radius",
    "certifier",
    "adversarial_distance",
    "attack",
    "forward_passes",
    "backward_passes",
)
FRACTIONS = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "ci_low", "ci_high")
PASSES = ("forward_passes", "backward_passes")
# What must not differ; the other columns are told.
VERDICT = ("missing", "prediction", "status", "radius", "distance", "totals")


class Case(NamedTuple):
    """A model in one norm, at several eps; share: of the examples, where each of them costs much.

    smoothing: how the model is smoothed, where that is what is evaluated.
    """

    model: str
    norm: str
    eps: tuple[float, ...]
    dataset: str = "fashion_mnist"
    share: float = 1.0
    smoothing: Smoothing | None = None

    def __str__(self) -> str:
        sigma = f"~{self.smoothing.sigma:g}" if self.smoothing else ""
        return f"{self.model}{sigma}, {self.dataset}, {self.norm}"


# Together they have every certifier find a radius, and every attack of the default suites but the
# transfer break something or be tried; of euler_resnet/pgd nothing is provable. Every status occurs
# but `error`.
FEW_DRAWS = Smoothing(0.25, n0=50, n=1000)
CASES = (
    Case("lipflow", "L2", (0.25, 1.0)),
    Case("lipflow", "Linf", (8 / 255, 0.1)),
    Case("feedforward/linf-0.05", "Linf", (0.05, 0.1)),
    Case("feedforward/linf-0.05", "L2", (0.25, 0.5), share=0.5),
    Case("hamiltonian/l2-0.25", "L2", (0.5, 1.0)),
    Case("euler_resnet/pgd", "Linf", (4 / 255, 0.1), share=1 / 3),
    Case("feedforward", "L2", (0.05, 0.1), dataset="moons"),
    Case("feedforward", "Linf", (0.05, 0.1), dataset="moons"),
    Case("feedforward", "L1", (0.05, 0.1), dataset="moons"),
    Case("feedforward/noise-0.25", "L2", (0.25, 0.5), smoothing=FEW_DRAWS),
    Case("feedforward/noise-0.25", "Linf", (2 / 255, 8 / 255), smoothing=FEW_DRAWS),
)


def exact(value: Any) -> Any:
    """Return a float as its hexadecimal digits, NaN as None, and anything else as it is."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else value.hex()


def evaluations(case: Case, n_examples: int) -> Iterable[Any]:
    """Evaluate a case with the package's defaults."""
    data = load_dataset(case.dataset, n_examples=max(1, round(case.share * n_examples)))
    model = load_model(case.model, dataset=case.dataset, norm=case.norm)
    threat_models = [ThreatModel(case.norm, eps) for eps in case.eps]
    if case.smoothing is None:
        return evaluate_grid(model, data, threat_models, seed=0)
    return evaluate_smoothed(model, data, threat_models, case.smoothing, seed=0).evaluations


def dump(path: Path, n_examples: int) -> None:
    """Write every example's verdict of every case."""
    torch.set_num_threads(1)
    cases = dict[str, dict[str, Any]]()
    for case in CASES:
        started = time.perf_counter()
        found = cases[str(case)] = {}
        for evaluation in evaluations(case, n_examples):
            rows = evaluation.examples[list(EXAMPLE)].to_dict("records")
            found[repr(evaluation.threat_model.eps)] = {
                "examples": [{k: exact(v) for k, v in row.items()} for row in rows],
                "totals": {k: exact(evaluation.summary[k]) for k in (*FRACTIONS, *PASSES)},
            }
        print(f"{case}: {time.perf_counter() - started:.1f} s", flush=True)
    about = {
        "package": str(Path(str(robustbench_dyn.__file__)).parent),
        "version": robustbench_dyn.__version__,
        "torch": torch.__version__,
        "n_examples": n_examples,
    }
    content = {"about": about, "cases": cases}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def compare(before: Path, after: Path) -> bool:
    """Print how many examples differ in what, and say whether all verdicts are the same."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    for path, content in ((before, one), (after, other)):
        print(f"{path}: {content['about']}")
    places = {
        (case, eps): None
        for content in (one, other)
        for case, at in content["cases"].items()
        for eps in at
    }
    rows = []
    for case, eps in places:
        two = [content["cases"].get(case, {}).get(eps) for content in (one, other)]
        rows.append({"case": case, "eps": f"{float(eps):.4g}", **differences(*two)})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    same = bool(rows) and not table[list(VERDICT)].to_numpy().any()
    print("the verdicts are the same" if same else "the verdicts differ")
    return same


def differences(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any]:
    """Count what differs between the same case and eps of two dumps."""
    tables = [
        {row["example_id"]: row for row in (side or {"examples": []})["examples"]}
        for side in (one, other)
    ]
    common = tables[0].keys() & tables[1].keys()
    pairs = [(tables[0][k], tables[1][k]) for k in sorted(common)]
    totals = [(side or {"totals": {}})["totals"] for side in (one, other)]
    proved = [all(row["certified_radius"] is not None for row in pair) for pair in pairs]
    certifiers = [a["certifier"] != b["certifier"] for a, b in pairs]
    return {
        "examples": len(tables[0].keys() | tables[1].keys()),
        "missing": len(tables[0].keys() ^ tables[1].keys()),
        "prediction": differing(pairs, "label", "prediction"),
        "status": differing(pairs, "status"),
        "radius": differing(pairs, "certified_radius"),
        "radius_by": largest(pairs, "certified_radius"),
        "distance": differing(pairs, "adversarial_distance"),
        "distance_by": largest(pairs, "adversarial_distance"),
        "totals": sum(totals[0].get(k) != totals[1].get(k) for k in FRACTIONS),
        "certifier": sum(d and p for d, p in zip(certifiers, proved, strict=True)),
        "unproved": sum(d and not p for d, p in zip(certifiers, proved, strict=True)),
        "attack": differing(pairs, "attack"),
        "passes": differing(pairs, *PASSES),
        "forwards": " -> ".join(str(total.get("forward_passes")) for total in totals),
    }


def differing(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], *columns: str) -> int:
    """Count the examples that differ in one of the columns."""
    return sum(any(a[k] != b[k] for k in columns) for a, b in pairs)


def largest(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], column: str) -> float:
    """Return the largest relative difference in a column, infinite where one side has nothing."""
    return max((relative(a[column], b[column]) for a, b in pairs), default=0.0)


def relative(one: str | None, other: str | None) -> float:
    """Return the relative difference of two numbers as they stand in a dump."""
    if one == other:
        return 0.0
    if one is None or other is None:
        return math.inf
    a, b = float.fromhex(one), float.fromhex(other)
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    dumping = commands.add_parser("dump", help="write every example's verdict")
    dumping.add_argument("path", type=Path)
    dumping.add_argument("--n-examples", type=int, default=60)
    comparing = commands.add_parser("compare", help="exit with 1 where verdicts differ")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "dump":
        dump(options.path, options.n_examples)
    else:
        sys.exit(0 if compare(options.before, options.after) else 1)


if __name__ == "__main__":
    main()
