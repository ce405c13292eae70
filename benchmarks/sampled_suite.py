"""The standard suite against the full one: the same verdicts, example by example, and the cost.

    OMP_NUM_THREADS=1 python benchmarks/sampled_suite.py [--n-examples 500] [--case lipflow]

`standard` runs Square and the transfer attack on samples and gives up hopeless searches of
Auto-PGD; `standard-full` does neither. Of each case it tells which examples differ in their status,
and how: EXAMPLE:STATUS>STATUS, of standard-full and of standard. Global Lipschitz bounds certify
where a network has one; the others are attacked alone, so that more examples reach the last
attacks. Seconds are of the processor. Cases that are not run keep their rows.
Results: benchmarks/results/sampled_suite.csv. Ends with exit code 1 where a status differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import measuring
import torch

from robustbench_dyn import Evaluation, Status, ThreatModel, evaluate, load_dataset, load_model

SUITES = ("standard-full", "standard")
LINF, L2 = ThreatModel("Linf", 8 / 255), ThreatModel("L2", 0.5)


class Case(NamedTuple):
    """A network of Fashion-MNIST and the threat model that it is attacked in."""

    model: str
    threat_model: ThreatModel
    certifiers: str = "none"


CASES = {
    "lipflow": Case("lipflow", L2, "lipschitz"),
    "sll": Case("sll", L2, "lipschitz"),
    "orthogonal_cnn": Case("orthogonal_cnn", L2, "lipschitz"),
    "gradient_flow": Case("gradient_flow", L2, "lipschitz"),
    "feedforward": Case("feedforward", L2),
    "noise": Case("feedforward/noise-0.25", LINF),
    "euler_resnet": Case("euler_resnet", L2),
    "hamiltonian": Case("hamiltonian", LINF),
    "neural_ode": Case("neural_ode", L2),
    "pgd": Case("euler_resnet/pgd", LINF),
}


def differences(full: Evaluation, sampled: Evaluation) -> list[str]:
    """Tell which examples end differently."""
    return [
        f"{a.example_id}:{_ended(a)}>{_ended(b)}"
        for a, b in zip(full.verdicts, sampled.verdicts, strict=True)
        if a.status is not b.status
    ]


def _ended(verdict: Any) -> str:
    by = f" by {verdict.attack}" if verdict.status is Status.BROKEN else ""
    return f"{verdict.status}{by}"


def compare(name: str, n_examples: int) -> dict[str, Any]:
    case = CASES[name]
    data = load_dataset("fashion_mnist", n_examples=n_examples)
    model = load_model(case.model, dataset="fashion_mnist", norm=case.threat_model.norm)
    runs, seconds = dict[str, Evaluation](), dict[str, float]()
    for suite in SUITES:
        started = time.process_time()
        runs[suite] = evaluate(
            model, data, case.threat_model, attacks=suite, certifiers=case.certifiers
        )
        seconds[suite] = time.process_time() - started
    full, sampled = (runs[suite] for suite in SUITES)
    differing = differences(full, sampled)
    undecided = sum(v.status is Status.UNDECIDED for v in full.verdicts)
    passes = [{c.stage: c.forward_passes for c in run.costs} for run in (full, sampled)]
    return {
        "case": name,
        "model": case.model,
        "norm": case.threat_model.norm,
        "eps": case.threat_model.eps,
        "n_examples": n_examples,
        "undecided": undecided,
        "differ": len(differing),
        "differences": " ".join(differing),
        "attacks": sampled.summary["attacks"],
        "flags": sampled.summary["flags"],
        "forward_passes_full": full.summary["forward_passes"],
        "forward_passes": sampled.summary["forward_passes"],
        "share_of_passes": sampled.summary["forward_passes"] / full.summary["forward_passes"],
        "seconds_full": seconds["standard-full"],
        "seconds": seconds["standard"],
        "share_of_seconds": seconds["standard"] / seconds["standard-full"],
        "by_stage": " ".join(
            f"{stage}:{passes[0][stage]}>{passes[1].get(stage, 0)}" for stage in passes[0]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=500)
    parser.add_argument("--case", action="append", choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    differ = 0
    for name in options.case or CASES:
        row = compare(name, options.n_examples)
        differ += row["differ"]
        measuring.write("sampled_suite", [row], key=("case",))
    if differ:
        sys.exit(f"{differ} examples differ")


if __name__ == "__main__":
    main()
