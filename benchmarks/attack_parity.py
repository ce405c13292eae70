"""The native attacks compared with the same attacks of pyautoattack and torchattacks.

    python benchmarks/attack_parity.py [--n-examples 1000] [--seeds 10] [--model feedforward]

Each attack runs alone, with its budget in AutoAttack's standard version, on the examples that the
Lipschitz certificate leaves undecided. A native attack is weaker by the difference of the robust
accuracies, in points. apgd-ce is averaged over seeds, since its random start decides a few examples
of a thousand; the other attacks, with nine targets or 5,000 queries per example, run once.
Results: benchmarks/results/attack_parity_MODEL.csv. Ends with exit code 1 where a native attack is
weaker by more than 0.2 points.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import measuring
import torch
import torchattacks
from torch import Tensor, nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.attacks import native
from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.external.autoattack import PREFIX, Settings, members
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.results.verdicts import Status

THREAT_MODELS = (ThreatModel("L2", 0.5), ThreatModel("Linf", 8 / 255))
ALLOWED = 0.002
BATCH = 250
OFFICIAL = members(Settings(apgd_restarts=1, fab_restarts=1))
# Native attacks, and their names in torchattacks.
NATIVE = {"apgd-ce": "APGD", "apgd-t": "APGDT", "fab-t": "FAB", "square": "Square"}


@dataclass(frozen=True)
class Undecided:
    """The examples, out of `total`, that the clean pass and the certifier leave undecided."""

    data: Dataset
    certified: int
    total: int


def undecided(model: nn.Module, data: Dataset, threat_model: ThreatModel) -> Undecided:
    evaluation = evaluate(model, data, threat_model, attacks="none", certifiers="lipschitz")
    left = {v.example_id for v in evaluation.verdicts if v.status is Status.UNDECIDED}
    rows = torch.tensor([k for k, i in enumerate(data.ids.tolist()) if i in left])
    part = Dataset(
        x=data.x[rows],
        y=data.y[rows],
        ids=data.ids[rows],
        name=data.name,
        split=data.split,
        class_names=data.class_names,
        sha256=data.sha256,
    )
    certified = sum(v.status is Status.CERTIFIED for v in evaluation.verdicts)
    return Undecided(part, certified, len(data))


def run_registered(
    model: nn.Module, left: Undecided, threat_model: ThreatModel, attack: Attack, seed: int
) -> dict[str, float]:
    """Run a registered attack, without certificates that would exclude target classes."""
    counting, started = CountingModel(model), time.perf_counter()
    x, y = left.data.x, left.data.y
    with frozen_eval(model):
        candidates = attack.search(
            counting, x, y, threat_model, seed=seed, batch_size=BATCH, n_classes=left.data.n_classes
        )
        robust = int((~check_candidates(model, candidates, x, y, threat_model).fooled).sum())
    return {
        "robust": robust,
        "forward_passes": counting.forward_passes,
        "seconds": time.perf_counter() - started,
    }


def run_torchattacks(
    model: nn.Module, left: Undecided, threat_model: ThreatModel, name: str, seed: int
) -> dict[str, float]:
    """Run a class of torchattacks with AutoAttack's settings, and check its candidates."""
    kind, options = NATIVE[name], {"norm": threat_model.norm, "eps": threat_model.eps, "seed": seed}
    settings: dict[str, dict[str, Any]] = {
        "apgd-ce": {"steps": 100, "n_restarts": 1, "loss": "ce"},
        "apgd-t": {"steps": 100, "n_restarts": 1, "n_classes": 10},
        "fab-t": {"steps": 100, "n_restarts": 1, "n_classes": 10, "multi_targeted": True},
        "square": {"n_queries": 5000, "n_restarts": 1, "resc_schedule": False},
    }
    counting, robust, started = CountingModel(model), 0, time.perf_counter()
    with frozen_eval(model):
        attack = getattr(torchattacks, kind)(counting, **options, **settings[name])
        for x, y in zip(left.data.x.split(BATCH), left.data.y.split(BATCH), strict=True):
            candidates: Tensor = attack(x.clone(), y)
            robust += int((~check_candidates(model, candidates, x, y, threat_model).fooled).sum())
    return {
        "robust": robust,
        "forward_passes": counting.forward_passes,
        "seconds": time.perf_counter() - started,
    }


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}


def compare(
    name: str, model: nn.Module, data: Dataset, threat_model: ThreatModel, seeds: int
) -> list[dict[str, Any]]:
    left, rows = undecided(model, data, threat_model), list[dict[str, Any]]()
    for attack in NATIVE:
        repeats = seeds if attack == "apgd-ce" else 1
        searches: dict[str, Callable[[int], dict[str, float]]] = {
            "robustbench-dyn": partial(
                run_registered, model, left, threat_model, native.members()[attack]
            ),
            "pyautoattack": partial(
                run_registered, model, left, threat_model, OFFICIAL[PREFIX + attack]
            ),
            "torchattacks": partial(run_torchattacks, model, left, threat_model, attack),
        }
        runs = {
            library: mean([search(seed) for seed in range(repeats)])
            for library, search in searches.items()
        }
        robust_by_native = runs["robustbench-dyn"]["robust"]
        for library, run in runs.items():
            robust = run.pop("robust")
            rows.append(
                {
                    "model": name,
                    "norm": threat_model.norm,
                    "eps": threat_model.eps,
                    "attack": attack,
                    "library": library,
                    "seeds": repeats,
                    "n_examples": left.total,
                    "attacked": len(left.data),
                    "robust_accuracy": (left.certified + robust) / left.total,
                    "ours_weaker_by": (robust_by_native - robust) / left.total,
                    **run,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=1000)
    parser.add_argument("--model", action="append")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    weaker = list[dict[str, Any]]()
    for name in options.model or ["lipflow", "feedforward"]:
        model = load_model(name)
        rows = list[dict[str, Any]]()
        for threat_model in THREAT_MODELS:
            rows += compare(name, model, data, threat_model, options.seeds)
            measuring.write(f"attack_parity_{name}", rows)
        weaker += [row for row in rows if row["ours_weaker_by"] > ALLOWED]
    if weaker:
        sys.exit(f"weaker by more than {100 * ALLOWED} points: {weaker}")


if __name__ == "__main__":
    main()
